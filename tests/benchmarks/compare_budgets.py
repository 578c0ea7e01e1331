"""How exactly each way of running a study keeps its budget, under the same faults.

    python -m tests.benchmarks.compare_budgets [--workers 8] [--trials 60] [--faults 20] [--seed 1]

A fault comes after the k-th part of a run has begun, not at a wall time: a slow contestant meets
as many of them, at the same places of its work, as a fast one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from tests.benchmarks.contestants import (
    CONTESTANTS,
    LEASE_S,
    Contestant,
    Setting,
    crashes_of_hpo,
    trials_of,
)
from tests.benchmarks.journalled import JOURNAL, Line, parse

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.01
# Longer than any lease: whoever looks for the dead takes a stopped worker for one of them.
STOPPED_S = LEASE_S + 2.0
# Within which a killed process is gone, on a busy machine too.
KILL_S = 10.0
# A command that ends with an error as often as this would do so for ever.
MAX_STARTS = 60

# What Optuna raises in a worker whose trial somebody else has ended.
STALE_SIGNS = ("Cannot tell a", "UpdateFinishedTrialError")

Kind = Literal["kill", "terminate", "stop", "kill all"]
# Of ten faults; every four in a row have one of each kind.
MIXTURE: tuple[Kind, ...] = (
    *("kill", "terminate", "stop", "kill all"),
    *("kill", "terminate", "kill", "stop", "kill", "terminate"),
)
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class Fault:
    """What happens to a run.

    Attributes
    ----------
    after
        It happens once so many parts have begun, as soon as a worker is in the first half of one.
    kind
        A signal to one worker (a stopped one goes on after `STOPPED_S`), or SIGKILL to everything,
        after which the same commands are started again.
    worker
        Which of the workers that are in the first half of a part, modulo their number; the one
        that has begun last is 0.
    """

    after: int
    kind: Kind
    worker: int


def fault_script(seed: int, faults: int, setting: Setting) -> tuple[Fault, ...]:
    """Return the faults that every contestant meets; the same for the same arguments."""
    rng = random.Random(seed)
    first, last = setting.workers, int(0.85 * setting.parts)
    places = sorted(rng.sample(range(first, max(last, first + faults)), faults))
    kinds = [MIXTURE[k % len(MIXTURE)] for k in range(faults)]
    rng.shuffle(kinds)
    return tuple(
        Fault(after, kind, rng.randrange(setting.workers))
        for after, kind in zip(places, kinds, strict=True)
    )


@dataclass
class _Slot:
    """A command that is started again until it ends with 0."""

    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    done: bool = False


@dataclass(frozen=True)
class Ended:
    """How the processes of a run came to their ends, and what it met.

    Attributes
    ----------
    met
        The faults that came about; a run that ends early is spared the later ones.
    errors
        What each process wrote as its error that ended with one by itself.
    """

    done: bool
    wall_s: float
    met: tuple[Fault, ...]
    errors: tuple[str, ...]


@dataclass
class Run:
    """One contestant in a folder of its own, and what befalls it."""

    contestant: Contestant
    setting: Setting
    script: tuple[Fault, ...]
    folder: Path
    limit_s: float
    _slots: list[_Slot] = field(default_factory=list)
    _met: list[Fault] = field(default_factory=list)
    _errors: list[str] = field(default_factory=list)
    _stopped: list[tuple[float, psutil.Process]] = field(default_factory=list)
    _hit: set[int] = field(default_factory=set)
    _seen: dict[int, psutil.Process] = field(default_factory=dict)
    _begun: int = 0
    _current: dict[int, Line] = field(default_factory=dict)
    _read: int = 0

    def go(self) -> Ended:
        """Run until all commands have ended with 0, or until the time is up."""
        self.contestant.prepare(self.setting, self.folder)
        self._slots = [_Slot(command) for command in self.contestant.commands(self.setting)]
        started = time.monotonic()
        try:
            while time.monotonic() - started < self.limit_s and self._look_after():
                time.sleep(POLL_S)
        finally:
            wall_s = time.monotonic() - started
            self._end_all()
        done = all(slot.done for slot in self._slots)
        return Ended(done, wall_s, tuple(self._met), tuple(self._errors))

    def _look_after(self) -> bool:
        """Start what has to run, do what is due; return whether anything is left to wait for."""
        for slot in self._slots:
            self._collect(slot)
            if slot.process is None and not slot.done and slot.starts < MAX_STARTS:
                self._start(slot)
        self._read_journal()
        self._wake()
        if len(self._met) < len(self.script):
            self._strike(self.script[len(self._met)])
        return any(slot.process is not None for slot in self._slots)

    # Processes --------------------------------------------------------------------------------

    def _log(self, slot: _Slot) -> Path:
        return self.folder / f"command-{self._slots.index(slot)}-{slot.starts}.log"

    def _start(self, slot: _Slot) -> None:
        slot.starts += 1
        with self._log(slot).open("wb") as log:
            slot.process = subprocess.Popen(
                slot.command,
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _collect(self, slot: _Slot) -> None:
        if slot.process is None:
            return
        code = slot.process.poll()
        if code is None:
            return
        slot.done = code == 0
        if code != 0 and slot.process.pid not in self._hit:
            self._errors.append(_cause(self._log(slot)))
        slot.process = None

    def _family(self) -> dict[int, psutil.Process]:
        """Return all processes of this run that live."""
        family = {}
        for slot in self._slots:
            if slot.process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    parent = psutil.Process(slot.process.pid)
                    members = [parent, *parent.children(recursive=True)]
                    family.update({member.pid: member for member in members})
        self._seen.update(family)
        return family

    def _kill_all(self) -> None:
        family = [*self._family().values(), *self._seen.values()]
        for member in family:
            self._hit.add(member.pid)
            # A process that has ended and left its number to another one is not this one any more.
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.wait(timeout=KILL_S)
        deadline = time.monotonic() + KILL_S
        while any(map(_lives, family)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._stopped.clear()
        self._current.clear()

    def _end_all(self) -> None:
        self._kill_all()
        for slot in self._slots:
            self._collect(slot)

    # Faults -----------------------------------------------------------------------------------

    def _read_journal(self) -> None:
        path = self.folder / JOURNAL
        if not path.exists() or path.stat().st_size == self._read:
            return
        with path.open("rb") as stream:
            stream.seek(self._read)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in parse(whole.decode()):
            if line.event == "begin":
                self._begun += 1
                self._current[line.pid] = line
            else:
                self._current.pop(line.pid, None)

    def _strike(self, fault: Fault) -> None:
        """Let a fault happen if it is due and there is someone whom it can hit."""
        if self._begun < fault.after:
            return
        if not self._in_first_half():
            return
        family = self._family()
        # Looking for the family takes a moment, in which a part may have come to its end.
        victims = [family[pid] for pid in self._in_first_half() if pid in family]
        if not victims:
            return
        if fault.kind == "kill all":
            self._kill_all()
        else:
            self._hit_one(victims[fault.worker % len(victims)], fault.kind)
        self._met.append(fault)

    def _in_first_half(self) -> list[int]:
        """Return who is in the first half of a part, the one that began last first."""
        fresh = time.time() - 0.5 * self.setting.part_s
        lines = [line for line in self._current.values() if line.at > fresh]
        return [line.pid for line in sorted(lines, key=lambda line: -line.at)]

    def _hit_one(self, victim: psutil.Process, kind: Kind) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(SIGNALS[kind])
        if kind == "stop":
            self._stopped.append((time.monotonic() + STOPPED_S, victim))
        else:
            self._hit.add(victim.pid)
        # It is in no part any more that another fault could find it in.
        self._current.pop(victim.pid, None)

    def _wake(self) -> None:
        now = time.monotonic()
        for due, process in self._stopped:
            if now >= due:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        self._stopped = [(due, process) for due, process in self._stopped if now < due]


def _lives(process: psutil.Process) -> bool:
    """Return whether a process still runs; one that nobody has reaped yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _environment() -> dict[str, str]:
    ours = ("HPO_", "SLURM_", "OPTUNA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": str(ROOT)}


def _cause(log: Path) -> str:
    """Return the first error of a log: those below it were raised while it was handled."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line and not line.startswith(" ")]
    return (named or lines[-1:] or ["(nothing was written)"])[0]


# What came of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What a contestant came to.

    Attributes
    ----------
    complete, running, waiting, fail
        Trials by their state when everything had ended.
    twice
        COMPLETE trials with the parameters of another COMPLETE one.
    begun
        Parts that were begun; `setting.parts` in a run without faults.
    again
        Parts begun although the same part of the same trial had been finished before.
    lost
        Parts finished for a trial that is not COMPLETE.
    locked, stale, errors
        Processes that ended by themselves with an error: because the database was locked, because
        their trial had been finished or failed by somebody else, and all.
    met
        The faults that came about.
    """

    key: str
    name: str
    done: bool
    complete: int
    running: int
    waiting: int
    fail: int
    twice: int
    begun: int
    again: int
    lost: int
    locked: int
    stale: int
    errors: int
    wall_s: float
    wall_per_ideal: float
    met: tuple[Fault, ...]
    messages: dict[str, int]


def compare_one(
    contestant: Contestant,
    setting: Setting,
    script: tuple[Fault, ...],
    folder: Path,
    limit_s: float,
) -> Row:
    """Let one contestant run in an empty folder, and count what came of it."""
    ended = Run(contestant, setting, script, folder, limit_s).go()
    trials = trials_of(folder)
    states = Counter(state for state, _ in trials)
    complete = Counter(alpha for state, alpha in trials if state == "COMPLETE")
    journal = folder / JOURNAL
    lines = parse(journal.read_text()) if journal.exists() else []
    errors = [*ended.errors, *crashes_of_hpo(folder)]
    return Row(
        key=contestant.key,
        name=contestant.name,
        done=ended.done,
        complete=states["COMPLETE"],
        running=states["RUNNING"],
        waiting=states["WAITING"],
        fail=states["FAIL"],
        twice=complete.total() - len(complete),
        begun=sum(line.event == "begin" for line in lines),
        again=sum(1 for _ in _begun_again(lines)),
        lost=sum(line.event == "end" and line.trial not in complete for line in lines),
        locked=sum("database is locked" in error for error in errors),
        stale=sum(any(sign in error for sign in STALE_SIGNS) for error in errors),
        errors=len(errors),
        wall_s=round(ended.wall_s, 1),
        wall_per_ideal=round(ended.wall_s / setting.ideal_s, 1),
        met=ended.met,
        messages=dict(Counter(error[:160] for error in errors)),
    )


def _begun_again(lines: Sequence[Line]) -> Iterator[Line]:
    finished = set()
    for line in lines:
        if line.event == "end":
            finished.add(line.key)
        elif line.key in finished:
            yield line


HEADINGS = (
    *("contestant", "COMPLETE", "RUNNING", "WAITING", "FAIL", "twice"),
    *("begun", "again", "lost", "locked", "stale", "errors", "faults", "wall s", "x ideal"),
)


def format_table(rows: Sequence[Row], setting: Setting, faults: int) -> str:
    """Return the rows as a table that Markdown shows as one, too."""
    cells = [HEADINGS, *(_cells(row, setting, faults) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [_join(line, widths) for line in cells]
    ruler = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    return "\n".join([lines[0], ruler, *lines[1:]])


def _join(line: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
    return f"| {' | '.join(aligned)} |"


def _cells(row: Row, setting: Setting, faults: int) -> tuple[str, ...]:
    excess = row.complete - setting.trials
    return (
        row.name + ("" if row.done else " (not done)"),
        f"{row.complete} ({excess:+d})" if excess else f"{row.complete}",
        *(str(n) for n in (row.running, row.waiting, row.fail, row.twice)),
        f"{row.begun} ({row.begun - setting.parts:+d})",
        *(str(n) for n in (row.again, row.lost, row.locked, row.stale, row.errors)),
        f"{len(row.met)}/{faults}",
        f"{row.wall_s:.0f}",
        f"{row.wall_per_ideal:.1f}",
    )


NOTES = """\
COMPLETE: trials when all had ended, and how far from the budget. RUNNING, WAITING: trials left
behind. twice: COMPLETE trials with another one's parameters. begun: parts begun, and beyond
budget x parts. again: parts begun although they had been finished. lost: parts finished for trials
that are not COMPLETE. locked, stale, errors: processes that ended by themselves with an error:
"database is locked", their trial ended by somebody else, all. Commands are started again until they
end with 0. * a re-implementation of the sweeper's semantics with a storage; hydra is not installed.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the contestants and print a table."""
    options = _parser().parse_args(arguments)
    setting = Setting(options.workers, options.trials, options.part_s)
    script = fault_script(options.seed, options.faults, setting)
    kinds = Counter(fault.kind for fault in script)
    print(
        f"{setting.trials} trials of 3 parts of {setting.part_s:g} s, {setting.workers} workers, "
        f"ideal {setting.ideal_s:.1f} s; {len(script)} faults of seed {options.seed}: "
        + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    )
    rows = []
    for contestant in CONTESTANTS:
        if options.only and contestant.key not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="budgets-") as folder:
            row = compare_one(contestant, setting, script, Path(folder), options.limit)
        rows.append(row)
        print(f"{row.name}: {row.complete} complete, {row.wall_s:.0f} s", file=sys.stderr)
    print(f"\n{format_table(rows, setting, len(script))}\n\n{NOTES}")
    if options.json:
        result = {
            "setting": asdict(setting),
            "seed": options.seed,
            "script": [asdict(fault) for fault in script],
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part-s", type=float, default=0.25, help="how long a part takes")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds per contestant")
    keys = [contestant.key for contestant in CONTESTANTS]
    parser.add_argument("--only", action="append", choices=keys, help="may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
