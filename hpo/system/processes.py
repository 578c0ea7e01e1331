"""Processes of this machine: who belongs to a worker, how much memory they use, how they end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import psutil

# Names the worker in the environment of every program that it starts, whatever session that is in.
WORKER_VARIABLE = "HPO_WORKER"
KILLED_WITHIN_S = 5.0
_ROUNDS = 5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def members(session: int, worker_id: str) -> list[psutil.Process]:
    """Return the processes of a worker that are there: its session, and programs with its mark.

    A program that has left the session is known by the environment that it was started with, which
    Linux alone shows.
    """
    mark = f"{WORKER_VARIABLE}={worker_id}\0".encode()
    return _find(lambda pid: os.getsid(pid) == session or _has_mark(pid, mark))


def program_members(groups: Collection[int], variable: str, value: str) -> list[psutil.Process]:
    """Return what a program of this process consists of: its group, and what has its mark.

    Parameters
    ----------
    groups
        Process groups of the program, in the session of this process.
    variable, value
        The mark: an environment variable that it was started with, and nothing else was.
    """
    mark, session = f"{variable}={value}\0".encode(), os.getsid(0)

    def belongs(pid: int) -> bool:
        if pid == os.getpid():
            return False
        # The number of a group that is gone may be another one's by now, elsewhere.
        own = os.getpgid(pid) in groups and os.getsid(pid) == session
        return own or _has_mark(pid, mark)

    return _find(belongs)


def end_members(session: int, worker_id: str) -> None:
    """Kill the processes of a worker, and those that they start meanwhile."""
    for _ in range(_ROUNDS):
        found = members(session, worker_id)
        if not found:
            return
        end_processes(found)


def end_processes(processes: Collection[psutil.Process], grace_s: float = 0.0) -> None:
    """End processes: asked first, if there is time to leave, then killed; waits for their end."""
    left = list(processes)
    if grace_s > 0.0:
        _send(left, signal.SIGTERM)
        left = _wait(left, grace_s)
    _send(left, signal.SIGKILL)
    _wait(left, KILLED_WITHIN_S)


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the memory of processes; what several share is divided among those that share it."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            used = process.memory_full_info()
            total += getattr(used, "pss", used.rss)
    return total


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal: it lives, and does not work."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def adopt_orphans(*, adopt: bool) -> bool:
    """Become the parent of what is orphaned below this process, or not any more (Linux 3.4)."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def leave_with_parent(parent: int) -> None:
    """Get SIGTERM when the parent is gone, also if that has happened already (Linux alone)."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def children() -> set[int]:
    """Return the ids of the children of this process, zombies among them (Linux alone)."""
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return set()
    return {int(pid) for pid in text.split()}


def reap_adopted(but: Collection[int]) -> None:
    """Collect the children of this process that have ended, `but` for those it looks after."""
    for pid in children().difference(but):
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


def count_threads() -> int:
    """Return how many threads this process has, those of libraries among them; 0 if unknown."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 0


def awake_s() -> float:
    """Return seconds of a clock that no change of the time of day touches; sleep counts."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _find(belongs: Callable[[int], bool]) -> list[psutil.Process]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if belongs(pid):
                process = psutil.Process(pid)
                # What has ended waits for its parent, which may be nobody of ours.
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def _wait(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait for the end of processes, and return those that have not ended."""
    deadline, pause_s = time.monotonic() + timeout_s, 0.002
    left = [process for process in processes if not _has_ended(process)]
    while left and time.monotonic() < deadline:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
        left = [process for process in left if not _has_ended(process)]
    return left


def _has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; if it was a child of this one, it is collected."""
    try:
        process.wait(0)
    except psutil.TimeoutExpired:
        # A container may have nobody who collects what is orphaned.
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _has_mark(pid: int, mark: bytes) -> bool:
    place = Path(f"/proc/{pid}")
    # Others' environments cannot be read, and need not be tried.
    if place.stat().st_uid != os.getuid():
        return False
    environment = (place / "environ").read_bytes()
    return environment.startswith(mark) or b"\0" + mark in environment


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    libc: Any = ctypes.CDLL(None)
    return bool(libc.prctl(option, value, 0, 0, 0) == 0)
