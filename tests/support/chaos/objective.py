"""An objective that does to its process what a test asks for while the study runs.

It is a class that scores part by part, a function of a trial, and a program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

import hpo
from hpo.system.processes import WORKER_VARIABLE
from tests.support.chaos.processes import MARK
from tests.support.objectives import Parabola, write_line

LEASE_S = 6.0
# Longer than a held lock, or a stop of the worker alone, makes a part.
PART_S = 14.0
N_PARTS, DELAY_S = 3, 2.0

HOLDS_LOCK = "holds the lock of Python beyond the lease"
HANGS = "hangs for ever"
LEAVES_PROGRAM = "leaves a program behind"
_CODES = (0, 2, 3)


def _leave(code: int) -> Callable[[], object]:
    return lambda: os._exit(code)


TROUBLES: dict[str, Callable[[], object]] = {
    HOLDS_LOCK: lambda: ctypes.PyDLL(None).usleep(int(1.4 * LEASE_S * 1e6)),
    HANGS: lambda: time.sleep(10_000),
    LEAVES_PROGRAM: lambda: subprocess.Popen(["sleep", "10000"], start_new_session=True),
    **{f"leaves with os._exit({code})": _leave(code) for code in _CODES},
}
# What ends the worker that does it.
DEADLY = {name for name in TROUBLES if name.startswith("leaves with os._exit")}


class Troubled(Parabola):
    """A Parabola that writes down who computes with which GPU, and does what it is asked to."""

    def __init__(self, table, *, seed) -> None:
        super().__init__(table, seed=seed)

    def score_part(self, params, part):
        begin_part(params["alpha"], part, os.getppid())
        return {"score": (params["alpha"] - 1.0) ** 2 + part}


def objective(trial):
    """The same as a function, which goes on from its own checkpoint."""
    alpha = trial.suggest_float("alpha", 0, 10)
    folder = hpo.trial_dir(trial)
    return go_through_parts(alpha, folder, os.getppid(), lambda k, score: trial.report(score, k))


def program() -> None:
    """The same as a program, whose parent is the worker."""
    launcher = psutil.Process(os.getppid()).ppid()
    alpha, folder = float(os.environ["HPO_PARAM_ALPHA"]), Path(os.environ["HPO_TRIAL_DIR"])

    def report(part, score):
        print("part", part, "score", score, flush=True)

    print("total", go_through_parts(alpha, folder, launcher, report))


def go_through_parts(alpha, folder, launcher, report):
    """Score the parts that no attempt has finished, and return the sum of all."""
    done = folder / "done.txt"
    first = int(done.read_text()) if done.exists() else 0
    for part in range(N_PARTS):
        if part >= first:
            begin_part(alpha, part, launcher)
        # Also what was: of a worker that died, a program's last lines may not have been read. And
        # first: a worker that was taken for dead learns here that it has nothing to say.
        report(part, (alpha - 1.0) ** 2 + part)
        _write(done, str(max(first, part + 1)))
    return sum((alpha - 1.0) ** 2 + part for part in range(N_PARTS))


def _write(path: Path, text: str) -> None:
    """Write a whole file as soon as its disk has room."""
    while True:
        with contextlib.suppress(OSError):
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").replace(path)
            return
        time.sleep(0.5)


def begin_part(alpha: float, part: int, launcher: int) -> None:
    """Write down who begins a part, and do what is asked.

    A trouble is a file in `troubles`, named like it; whoever begins the next part takes it away,
    and leaves the name of its worker in `taken`.
    """
    home, worker = Path(os.environ[MARK]), os.environ[WORKER_VARIABLE]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "-"
    write_line(home / "journal.txt", f"{alpha!r} {part} {worker} {launcher} {gpus}")
    if (name := _take(home, worker)) is not None:
        TROUBLES[name]()
    time.sleep(DELAY_S)


def _take(home: Path, worker: str) -> str | None:
    for path in sorted((home / "troubles").iterdir()):
        # Of many that try, one can.
        with contextlib.suppress(OSError):
            path.rename(home / "taken" / f"{path.name} by {worker}")
            return path.name.partition(" #")[0]
    return None


def make_trouble(folder: Path, name: str) -> None:
    """Have whoever begins the next part do this."""
    # Of those that hang, some are ended by other faults before they exceed the limit.
    for _ in range(3 if name == HANGS else 1):
        (folder / "troubles" / f"{name} #{uuid.uuid4().hex[:8]}").touch()


def troubles_taken(folder: Path) -> list[tuple[str, str]]:
    """Troubles that were done, each with its worker."""
    found = [path.name.partition(" by ") for path in (folder / "taken").iterdir()]
    return [(name.partition(" #")[0], worker) for name, _, worker in found]


if __name__ == "__main__":
    program()
