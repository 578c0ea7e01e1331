"""`hpo status`."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hpo.commands.common import (
    add_json,
    add_shared,
    open_storage,
    print_json,
    print_line,
    seconds,
    storage_hint,
)
from hpo.errors import StorageError
from hpo.records import Access
from hpo.storage.best import Front
from hpo.storage.storage import StudyStorage
from hpo.study.plain import PLAIN, PlainStatus, list_plain, take_plain_status
from hpo.study.record import find, names
from hpo.study.snapshot import StudySnapshot
from hpo.study.status import Status, WorkerStatus, describe_best, take_status
from hpo.wording import count_of, plain_number

# Trials of a Pareto front that are listed.
MAX_FRONT = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one study (default: all)")
    parser.add_argument(
        "--watch", action="store_true", help="show it again and again, until all are finished"
    )
    parser.add_argument(
        "--interval", type=seconds, default=2.0, metavar="S", help="of --watch (default: 2)"
    )
    add_json(parser)
    add_shared(parser, "storage", "reports")


def run(options: argparse.Namespace) -> int:
    """Say how far one study is, or all of them."""
    storage = open_storage(options, Access.READ)
    if not options.watch:
        _show(options, _take_all(options, storage))
        return 0
    shown = ""
    while True:
        try:
            found = _take_all(options, storage)
            text = "\n".join(_lines(options, found))
        except StorageError as exc:
            found, text = [], f"trying again: {exc}"
        if options.json:
            _show(options, found)
        elif text != shown:
            _redraw(text)
            shown = text
        ended = ("finished", "stopped", PLAIN)
        if found and all(status.state in ended for status in found):
            return 0
        sys.stdout.flush()
        time.sleep(options.interval)


def _take_all(options: argparse.Namespace, storage: StudyStorage) -> list[Status | PlainStatus]:
    if options.name:
        plain = take_plain_status(storage, options.name)
        return [plain or take_status(find(storage, options.name))]
    ours: list[Status | PlainStatus] = [take_status(find(storage, name)) for name in names(storage)]
    plain_ones = (take_plain_status(storage, name) for name in list_plain(storage))
    return [*ours, *filter(None, plain_ones)]


def _show(options: argparse.Namespace, found: Sequence[Status | PlainStatus]) -> None:
    if options.json:
        shown = [status.as_dict() for status in found]
        if options.name and found and isinstance(found[0], Status):
            report = _find_report(options, found[0])
            shown[0]["report"] = None if report is None else report._asdict()
        print_json(shown[0] if options.name and shown else shown)
        return
    for line in _lines(options, found):
        print_line(line)


def _lines(options: argparse.Namespace, found: Sequence[Status | PlainStatus]) -> Iterator[str]:
    if not found:
        yield "no studies yet"
    for status in found:
        if isinstance(status, PlainStatus):
            yield _plain_line(status)
        else:
            yield _status_line(status)
        if options.name:
            yield from _front_lines(status.front)
        if options.name and isinstance(status, Status):
            yield from _details(status)
            yield from _report_lines(options, status)


class _Report(NamedTuple):
    """The page of a finished study: where it is or would be, and whether it shows all there is."""

    page: Path
    exists: bool
    current: bool


def _find_report(options: argparse.Namespace, status: Status) -> _Report | None:
    if not status.counts.done:
        return None
    # What tells it reads more than the storage; a study that runs is watched without.
    from hpo.report.freshness import is_drawn
    from hpo.study.report_folder import report_folder
    from hpo.study.snapshot import take_snapshot

    record = find(open_storage(options, Access.READ), status.name)
    page = report_folder(record, Path(options.reports)) / "report.html"
    exists = page.is_file()
    return _Report(page, exists, exists and is_drawn(take_snapshot(record), page.parent))


def _report_lines(options: argparse.Namespace, status: Status) -> Iterator[str]:
    """Say of a finished study whether its report is here, and what writes it."""
    report = _find_report(options, status)
    if report is None:
        return
    command = f"hpo report {status.name}{storage_hint(options)}"
    if not report.exists:
        yield f"  report: none in {report.page.parent}; write it: {command}"
    elif not report.current:
        yield f"  report: {report.page}, older than study or code; write it again: {command}"
    else:
        yield f"  report: {report.page}"


def _plain_line(status: PlainStatus) -> str:
    total = sum(status.trials.values())
    line = f"{status.name}: plain Optuna study: {count_of(total, 'trial')}"
    others = {state: n for state, n in status.trials.items() if state != "COMPLETE"}
    if others:
        line += f" ({', '.join(f'{n} {state.lower()}' for state, n in sorted(others.items()))})"
    if status.objectives > 1:
        line += f", {status.objectives} objectives"
    if best := describe_best(status):
        line += f", {best}"
    return f"{line}; no study file"


def _redraw(text: str) -> None:
    """Show a text in place of the one before on a terminal; elsewhere, one after the other."""
    if sys.stdout.isatty():
        size = shutil.get_terminal_size()
        lines = text.splitlines()
        if len(lines) >= size.lines:
            lines = [*lines[: size.lines - 2], f"… {len(lines) - size.lines + 2} more lines"]
        text = "\n".join(line[: size.columns] for line in lines)
        sys.stdout.write("\x1b[H\x1b[2J")
    print_line(text)
    sys.stdout.flush()


def _status_line(status: Status) -> str:
    counts = status.counts
    line = f"{status.name}: {status.state}, {counts}"
    if counts.pruned:
        line += f", {counts.pruned} of them ended early"
    if counts.failed:
        line += f", {counts.failed} failed"
    if best := describe_best(status):
        line += f", {best}"
    return f"{line}{status.told.describe()}"


def _details(status: Status) -> Iterator[str]:
    counts = status.counts
    for line in status.told.lines(status.best_totals):
        yield f"  {line}"
    if counts.held or counts.free:
        yield f"  {counts.held} running, {counts.free} released and waiting for a worker"
    if status.per_hour is not None and not counts.done:
        # Nothing is left of time for a study that nobody works on.
        left = f", {_duration(status.left_s or 0.0)} left" if status.state == "running" else ""
        rate = f"{status.per_hour:,.0f}" if status.per_hour >= 10 else f"{status.per_hour:.2g}"
        unit = "trial" if rate == "1" else "trials"
        yield f"  {rate} {unit} per hour over the last ten minutes{left}"
    if status.workers:
        rows: list[tuple[str, ...]] = [
            ("worker", "node", "job", "trial", "part", "last sign of life")
        ]
        rows += [_worker_row(worker) for worker in status.workers]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield f"  {'  '.join(cells)}".rstrip()
    yield from _problems(status)


def _problems(status: Status) -> Iterator[str]:
    """Say what went wrong."""
    if status.limit is not None:
        yield f"  stopped: {status.limit}"
    if status.unprepared is not None:
        yield f"  the preparation failed: {status.unprepared}"
    for reason, n_deaths in status.deaths.items():
        yield f"  {n_deaths} died: {reason}"
    for limit, n_exceeded in status.exceeded.items():
        yield f"  {count_of(n_exceeded, 'attempt')} exceeded {limit}"
    for reason, n_retries in status.retries.items():
        yield f"  {count_of(n_retries, 'attempt')} tried again: {reason}"
    for number, attempts in status.attempts.items():
        times = count_of(attempts.without_progress, "attempt")
        yield f"  trial {number}: {times} in a row without progress; the last: {attempts.reason}"
    for number, reason in status.failures:
        yield f"  trial {number} failed: {reason}"


def _front_lines(front: Front | None) -> Iterator[str]:
    if front is None:
        return
    for number, values in zip(front.numbers[:MAX_FRONT], front.values, strict=False):
        named = zip(front.value_names, values, strict=True)
        shown = ", ".join(f"{name} {plain_number(value, '.6g')}" for name, value in named)
        yield f"  trial {number}: {shown}"
    if len(front.numbers) > MAX_FRONT:
        yield f"  and {len(front.numbers) - MAX_FRONT} more on the front"
    reference = ", ".join(plain_number(value, ".6g") for value in front.reference_point)
    volume = plain_number(front.hypervolume, ".6g")
    yield f"  hypervolume {volume}, up to the worst values, ({reference})"


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    idle = worker.trial is None
    seen = f"{worker.seen_s_ago:.0f} s ago" + ("" if worker.alive else ", taken for dead")
    return (
        worker.worker_id,
        worker.host,
        worker.job or "-",
        "-" if idle else str(worker.trial),
        "-" if idle else str(worker.part),
        seen,
    )


def _duration(duration_s: float) -> str:
    if duration_s < 120.0:
        return f"{duration_s:.0f} s"
    minutes = round(duration_s / 60.0)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def summary(snapshot: StudySnapshot) -> list[str]:
    """Return what is printed of a finished study."""
    lines = [_status_line(snapshot.status), *_front_lines(snapshot.status.front)]
    if snapshot.best is not None and snapshot.status.front is None:
        lines.extend(f"  {name} = {value}" for name, value in snapshot.best.params.items())
    return lines
