"""Faults by name, done in a seeded random order, undone, and counted.

A `Chaos` has faults by name, each a call that does one, and does them in a seeded random order. It
remembers what it has done, undoes what must not last, and goes on until the study is finished.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from tests.support.requirements import unavailable

Fault = Callable[[], bool | None]


class Chaos:
    """A seeded sequence of faults.

    Parameters
    ----------
    faults
        What can be done, by name; a fault that finds nothing to hit returns False.
    keep_alive
        Called between faults: what a user's `hpo refill --watch` or second `hpo run` does.
    finished
        Whether the study is finished.
    rare
        Faults that end all workers at once, and are done a quarter as often as the others.
    """

    def __init__(
        self,
        faults: Mapping[str, Fault],
        keep_alive: Callable[[], object],
        finished: Callable[[], bool],
        seed: int,
        rare: Collection[str] = (),
    ) -> None:
        self.weights = [0.25 if name in rare else 1.0 for name in faults]
        self.faults, self.keep_alive, self.finished = dict(faults), keep_alive, finished
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.told: list[str] = []
        self._later: list[tuple[float, Callable[[], object]]] = []

    def later(self, after_s: float, undo: Callable[[], object]) -> None:
        """Undo something after a while."""
        self._later.append((time.monotonic() + after_s, undo))

    def run(self, n_faults: int, pause_s: float, within_s: float) -> None:
        """Do so many faults, then let the study finish."""
        deadline = time.monotonic() + within_s
        # Every kind once, then by chance.
        waiting = list(self.faults)
        self.rng.shuffle(waiting)
        next_fault = time.monotonic()
        while not self.finished():
            assert time.monotonic() < deadline, f"not finished within {within_s} s; {self.done}"
            self._undo_what_is_due()
            if sum(self.done.values()) < n_faults and time.monotonic() >= next_fault:
                name = waiting.pop() if waiting and self.rng.random() < 0.7 else self._choose()
                if self.faults[name]() is not False:
                    self.done[name] += 1
                    self.told.append(f"{time.time():.1f} {name}")
                elif name not in self.done and name not in waiting:
                    waiting.insert(0, name)  # There was nothing to hit yet.
                next_fault = time.monotonic() + self.rng.uniform(0.5, 1.5) * pause_s
            self.keep_alive()
            time.sleep(0.1)
        for _, undo in self._later:
            undo()
        self._later.clear()

    def _choose(self) -> str:
        return self.rng.choices(list(self.faults), self.weights)[0]

    def _undo_what_is_due(self) -> None:
        due = [item for item in self._later if item[0] <= time.monotonic()]
        self._later = [item for item in self._later if item not in due]
        for _, undo in due:
            undo()


def send(pid: int, number: int) -> bool:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def freeze(chaos: Chaos, pids: Collection[int], for_s: float) -> bool:
    """Stop processes for longer than their leases; they go on as if nothing had been."""
    stopped = [pid for pid in pids if send(pid, signal.SIGSTOP)]
    for pid in stopped:
        chaos.later(for_s, functools.partial(send, pid, signal.SIGCONT))
    return bool(stopped)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A small file system of its own at a folder; False where mounting is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(chaos: Chaos, folder: Path, for_s: float) -> None:
    """Take the last byte of the disk that the logs are on, for a while."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    chaos.later(for_s, lambda: filler.unlink(missing_ok=True))


def find_faketime() -> str:
    """The library that shows a process another time of day."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        unavailable("faketime", "install Debian's package libfaketime")
    return str(found[0])
