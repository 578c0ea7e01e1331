"""An objective that does to its process what a test asks for while the study runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from hpo.system.processes import WORKER_VARIABLE
from tests.support.objectives import Witness

LEASE_S = 6.0
# Longer than a held lock, or a stop of the worker alone, makes a part.
PART_S = 14.0

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


class Troubled(Witness):
    """A Witness that also writes down who computes with which GPU, and does what it is asked to.

    A trouble is a file in `troubles`, named like it; whoever begins the next part takes it away,
    and leaves the name of its worker in `taken`.
    """

    def __init__(self, table, *, seed, delay_s=0.0, journal=None, troubles="troubles") -> None:
        super().__init__(table, seed=seed, delay_s=delay_s, journal=journal)
        self.troubles = Path(troubles)

    def score_part(self, params, part):
        worker = os.environ[WORKER_VARIABLE]
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "-"
        self._write(f"{params['alpha']!r} {part} {worker} {os.getppid()} {gpus}")
        if (name := self._take(worker)) is not None:
            TROUBLES[name]()
        time.sleep(self.delay_s)
        return {"score": (params["alpha"] - 1.0) ** 2 + part}

    def _take(self, worker: str) -> str | None:
        for path in sorted(self.troubles.iterdir()):
            # Of many that try, one can.
            with contextlib.suppress(OSError):
                path.rename(self.troubles.with_name("taken") / f"{path.name} by {worker}")
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
