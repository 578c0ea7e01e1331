"""Starts worker processes on this machine: forked from a warm one, or each for itself.

On Linux a warm process imports what a worker needs, once, and forks workers in milliseconds
(`hpo.forkserver`). Elsewhere each worker is a Python of its own: macOS has no child subreaper,
and its system libraries may not survive a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hpo.spec.sections import StudySpec

# What launcher and warm process tell each other.
READY = b"ready"
NOT_FORKED = b"0"
MAX_MESSAGE = 1 << 16
# A fork takes milliseconds; a warm process that does not answer is replaced.
ANSWER_S = 5.0
# How often in a row it may die without having forked anything, until workers go without it.
MAX_STARTS_WITHOUT_PROGRESS = 3
_PR_SET_CHILD_SUBREAPER = 36
# What every worker imports, whatever its study.
_MODULES = (
    "hpo.commands.studies.worker",
    "hpo.launch.worker_process",
    "sqlalchemy.dialects.sqlite",
)


class WorkerProcess(Protocol):
    """A worker process as its launcher sees it; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process lives."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise subprocess.TimeoutExpired if there is none in time."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, if the process lives."""


class WorkerSource(Protocol):
    """Where a launcher gets its workers from."""

    def start(self, arguments: Sequence[str], storage_url: str) -> WorkerProcess | None:
        """Start `hpo ARGUMENTS`; None if it is too early for that.

        The URL is not among the arguments: it may hold a password, which other users could read
        from a command line.
        """

    def pause(self, seconds: float) -> None:
        """Sleep, but not longer than until workers can be started."""


class FreshProcesses:
    """Each worker is a Python of its own."""

    def start(self, arguments: Sequence[str], storage_url: str) -> WorkerProcess | None:
        """Start `hpo ARGUMENTS`."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HPO_STORAGE": storage_url},
            # Ctrl-C in the terminal is for the launcher, which passes on what it means.
            start_new_session=True,
        )

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


class ForkedProcess:
    """A worker that the warm process has forked: a child of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process lives."""
        if self.returncode is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody ignores or collects all children of this process: as Popen has it.
                ended, status = self.pid, 0
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise subprocess.TimeoutExpired if there is none in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, if the process lives."""
        if self.poll() is None:
            os.kill(self.pid, sig)


class ForkedProcesses:
    """Workers forked from a warm process, which is started at once and again if it dies.

    Parameters
    ----------
    modules
        What the warm process imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._without_progress = 0
        self._ready = False
        self._warm, self._socket = self._start_warm()

    def start(self, arguments: Sequence[str], storage_url: str) -> WorkerProcess | None:
        """Fork a worker that runs `hpo ARGUMENTS`; None if the warm process is not ready."""
        if self._without_progress >= MAX_STARTS_WITHOUT_PROGRESS:
            return FreshProcesses().start(arguments, storage_url)
        if not self._becomes_ready(0.0):
            return None
        order = {"arguments": list(arguments), "environment": {"HPO_STORAGE": storage_url}}
        try:
            self._socket.send(json.dumps(order).encode())
            answer = self._socket.recv(MAX_MESSAGE)
        except OSError:
            answer = b""
        if not answer:
            self._restart()
            return None
        if answer == NOT_FORKED:
            return None
        self._without_progress = 0
        return ForkedProcess(int(answer))

    def pause(self, seconds: float) -> None:
        """Sleep, but not longer than until the warm process is ready."""
        if self._ready or self._without_progress >= MAX_STARTS_WITHOUT_PROGRESS:
            time.sleep(seconds)
        else:
            self._becomes_ready(seconds)

    def close(self) -> None:
        """End the warm process; workers live on."""
        self._socket.close()
        self._warm.kill()
        self._warm.wait()

    def _becomes_ready(self, within_s: float) -> bool:
        if not self._ready and select.select([self._socket], [], [], within_s)[0]:
            self._ready = self._hear() == READY
            if not self._ready:
                self._restart()
        return self._ready

    def _hear(self) -> bytes:
        try:
            return self._socket.recv(MAX_MESSAGE)
        except OSError:
            return b""

    def _restart(self) -> None:
        self.close()
        self._without_progress += 1
        self._ready = False
        self._warm, self._socket = self._start_warm()

    def _start_warm(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_S)
        with theirs:
            descriptor = theirs.fileno()
            # "worker" marks the command line of its forks, which is this one.
            command = [sys.executable, "-m", "hpo.forkserver", "worker", str(descriptor)]
            warm = subprocess.Popen(
                [*command, *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[descriptor],
                start_new_session=True,
            )
        return warm, ours


@contextlib.contextmanager
def worker_source(spec: StudySpec) -> Iterator[WorkerSource]:
    """Give what starts workers of a study; from here on it gets ready by itself."""
    if not _adopt_orphans(adopt=True):
        yield FreshProcesses()
        return
    source = ForkedProcesses(worker_modules(spec))
    try:
        yield source
    finally:
        source.close()
        _adopt_orphans(adopt=False)


def worker_modules(spec: StudySpec) -> list[str]:
    """Return what a worker of a study imports, but for modules of the study's own.

    These may begin threads, or take hold of a device, which no fork would survive: each worker
    imports them for itself.
    """
    # For launchers: what forks workers imports this module, and has to stay small.
    from hpo.estimators.registry import REGISTRY

    modules = list(_MODULES)
    if spec.table is not None:
        modules += ["features.tables.store", "pyarrow.parquet"]
    if spec.cv is not None:
        modules.append("sklearn.model_selection")
    models = spec.estimator.parts.values() if spec.estimator else ()
    names = {model.name for model in models} & REGISTRY.keys()
    if "hist_gradient_boosting" in names:
        modules.append("hpo.estimators.boosting")
    return [*modules, *sorted({REGISTRY[name].factory.partition(":")[0] for name in names})]


def _adopt_orphans(*, adopt: bool) -> bool:
    """Become the parent of what is orphaned below this process, or not any more (Linux 3.4)."""
    if sys.platform != "linux":
        return False
    libc: Any = ctypes.CDLL(None)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) == 0)
