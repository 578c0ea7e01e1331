"""`hpo status`, `report` and `export`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.commands.common import add_command, add_json, add_shared, open_storage, print_line

if TYPE_CHECKING:
    from hpo.status import Status
    from hpo.study import StudyRecord


def add_to(commands: Any) -> None:
    """Add these commands to the command line."""
    parser = add_command(commands, "status", status, "say how far studies are")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one study (default: all)")
    add_json(parser)
    add_shared(parser, "storage")

    parser = add_command(commands, "report", report, "write the report page of a study")
    parser.add_argument("name", metavar="NAME")
    add_shared(parser, "storage", "reports")

    parser = add_command(commands, "export", export, "write the trials of a study to a file")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--format", choices=("csv", "json", "parquet"), default="csv")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.FORMAT")
    add_shared(parser, "storage")


def status(options: argparse.Namespace) -> int:
    """Say how far one study is, or all of them."""
    from hpo.status import take_status
    from hpo.study import find, names

    storage = open_storage(options)
    chosen = [options.name] if options.name else names(storage)
    found = [take_status(find(storage, name)) for name in chosen]
    if options.json:
        shown = [status.as_dict() for status in found]
        print_line(json.dumps(shown[0] if options.name else shown, indent=1))
        return 0
    if not found:
        print_line("no studies yet")
    for status in found:
        print_line(_status_line(status))
        if options.name:
            for worker in status.workers:
                doing = f"trial {worker.trial}" if worker.trial is not None else "idle"
                sign = "" if worker.alive else ", no sign of life"
                print_line(
                    f"  {worker.worker_id}: {doing}, seen {worker.seen_s_ago:.0f} s ago{sign}"
                )
    return 0


def _status_line(status: Status) -> str:
    counts = status.counts
    line = f"{status.name}: {status.state}, {counts.finished} of {counts.budget} trials"
    if counts.failed:
        line += f", {counts.failed} failed"
    if status.best_score is not None:
        line += f", best {status.best_score:.6g} (trial {status.best_trial})"
    return line


def summary(record: StudyRecord) -> list[str]:
    """Return what is printed of a finished study."""
    from hpo.status import take_status

    status = take_status(record)
    lines = [_status_line(status)]
    best = status.best_trial
    if best is not None:
        trial = record.optuna_study().get_trials(deepcopy=False)[best]
        lines.extend(f"  {name} = {value}" for name, value in trial.params.items())
    return lines


def report(options: argparse.Namespace) -> int:
    """Write the report of a study."""
    from hpo.report import write_report
    from hpo.study import find

    print_line(str(write_report(find(open_storage(options), options.name), Path(options.reports))))
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the trials of a study to a file."""
    from hpo.export import export as write_trials
    from hpo.study import find

    record = find(open_storage(options), options.name)
    path = options.output or Path(f"{options.name}.{options.format}")
    n_trials = write_trials(record, path, options.format)
    print_line(f"{path}: {n_trials} trials")
    return 0
