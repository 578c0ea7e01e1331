"""Starts worker processes on this machine: forked from a warm one, or each for itself.

On Linux a warm process imports what a worker needs, once, and forks workers in milliseconds
(`hpo.launch.forkserver`). Elsewhere each worker is a Python of its own: macOS has no child
subreaper, and its system libraries may not survive a fork.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpo.launch.forkserver import ANSWER_BYTES, FORK, NOT_FORKED, READY, SHARE, serve
from hpo.system.processes import adopt_orphans, count_threads
from hpo.system.threads import thread_variables
from hpo.worker.channel import Channel, WorkerOrder

if TYPE_CHECKING:
    from hpo.spec.sections import StudySpec

# A fork takes milliseconds; without an answer the warm process is given up.
ANSWER_S = 5.0
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
# What every worker imports, whatever its study.
_MODULES = (
    "hpo.launch.worker_process",
    "sqlalchemy.dialects.sqlite",
)

_log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker process as its launcher sees it.

    Attributes
    ----------
    channel
        To the worker.
    """

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid, self.channel = pid, channel
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

    def wait(self, within_s: float) -> int | None:
        """Return the exit code; None if the process lives on after so long."""
        deadline = time.monotonic() + within_s
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process lives."""
        if self.poll() is None:
            os.kill(self.pid, number)


class WorkerSource(Protocol):
    """Where a launcher gets its workers from.

    Attributes
    ----------
    adopts
        Whether what is orphaned below a worker becomes a child of this process.
    """

    adopts: bool

    def share(self, table: Path) -> None:
        """Have a table read once for all workers, where they are forked from one process."""

    def start(self, order: WorkerOrder) -> WorkerProcess | None:
        """Start a worker; None if it is too early for that."""

    def pause(self, seconds: float) -> None:
        """Sleep, but not longer than until workers can be started."""

    def close(self) -> None:
        """Keep nothing for workers that are still to be started; those that live go on."""


class FreshProcesses:
    """Each worker is a Python of its own; a quiet one prints to its log alone."""

    adopts = False

    def __init__(self, *, quiet: bool = True) -> None:
        self._quiet = quiet

    def share(self, table: Path) -> None:
        """Leave it to each worker, which has a memory of its own."""

    def start(self, order: WorkerOrder) -> WorkerProcess | None:
        """Start a worker; None if the system has no room for another process now."""
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    pid = self._start(theirs, order.threads)
            except OSError:
                ours.close()
                raise
        except OSError as exc:
            if exc.errno not in _NO_ROOM:
                raise
            _log.warning("no worker can be started, trying again: %s", exc.strerror)
            return None
        return _instruct(pid, ours, order)

    def _start(self, theirs: socket.socket, threads: int) -> int:
        started = subprocess.Popen(
            [sys.executable, "-m", "hpo.launch.worker_process", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if self._quiet else None,
            stderr=subprocess.DEVNULL if self._quiet else None,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **thread_variables(threads)},
            # Ctrl-C in the terminal is for the launcher, which passes on what it means.
            start_new_session=True,
        )
        # It is this class of ours that waits for it.
        started.returncode = 0
        return started.pid

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


class ForkedProcesses:
    """Workers forked from a warm process; each a Python of its own if that is gone.

    Parameters
    ----------
    modules
        What the warm process imports.
    prepare
        What it does once instead of each worker; it remembers what that found.
    read_table
        What it reads a table with, and keeps it.
    threads
        Of the numerical libraries that it loads.
    quiet
        Whether workers print to their logs alone.
    """

    adopts = True

    def __init__(
        self,
        modules: Sequence[str],
        prepare: Callable[[], object],
        read_table: Callable[[Path], object],
        threads: int = 1,
        *,
        quiet: bool = True,
    ) -> None:
        self._quiet = quiet
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(ANSWER_S)
        # It says so when it has imported all, and after each table that it was to read.
        self._unready, self._gone = 1, False
        self._pid: int | None = os.fork()
        if self._pid == 0:
            serve(theirs, modules, threads, prepare, read_table, quiet=quiet)
        theirs.close()

    def share(self, table: Path) -> None:
        """Have a table read in the warm process; its forks share what that keeps in memory."""
        with contextlib.suppress(OSError):  # one that is gone is noticed by who waits for it
            self._socket.send(SHARE + os.fsencode(table))
            self._unready += 1

    def start(self, order: WorkerOrder) -> WorkerProcess | None:
        """Fork a worker; None if the warm process is not ready."""
        if not self._becomes_ready(0.0):
            return None
        if self._gone:
            return FreshProcesses(quiet=self._quiet).start(order)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._socket, [FORK], [theirs.fileno()])
                answer = self._socket.recv(ANSWER_BYTES)
            except OSError:
                answer = b""
        if answer and answer != NOT_FORKED:
            return _instruct(int(answer), ours, order)
        ours.close()
        self._gone = self._gone or not answer
        return None

    def pause(self, seconds: float) -> None:
        """Sleep, but not longer than until the warm process is ready."""
        if self._unready:
            self._becomes_ready(seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        """End the warm process, and its memory; workers live on."""
        self._socket.close()
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self._pid = None

    def _becomes_ready(self, within_s: float) -> bool:
        while self._unready and select.select([self._socket], [], [], within_s)[0]:
            self._unready -= 1
            try:
                gone = self._socket.recv(ANSWER_BYTES) != READY
            except OSError:
                gone = True
            if gone:
                self._unready, self._gone = 0, True
        return not self._unready


def _instruct(pid: int, connection: socket.socket, order: WorkerOrder) -> WorkerProcess:
    channel = Channel(connection)
    channel.tell(**order.as_message())
    return WorkerProcess(pid, channel)


@contextlib.contextmanager
def worker_source(spec: StudySpec, threads: int, *, quiet: bool = True) -> Iterator[WorkerSource]:
    """Give what starts workers of a study; from here on it gets ready by itself.

    Workers print to their logs alone, or, if not `quiet`, where those cannot be written to the
    output of this process.
    A process with threads, such as a notebook's, cannot be forked safely.
    """
    if count_threads() != 1 or not adopt_orphans(adopt=True):
        yield FreshProcesses(quiet=quiet)
        return
    prepare, read_table = (functools.partial(do, spec) for do in (_hash_code, _keep_table))
    source = ForkedProcesses(worker_modules(spec), prepare, read_table, threads, quiet=quiet)
    try:
        yield source
    finally:
        source.close()
        adopt_orphans(adopt=False)


def _hash_code(spec: StudySpec) -> None:
    """Hash the code that scores depend on, which each worker compares with the study's."""
    # For launchers: what forks workers imports this module, and has to stay small.
    from hpo.study.identity.fingerprint import fingerprint_of_spec

    fingerprint_of_spec(spec)


def _keep_table(spec: StudySpec, path: Path) -> None:
    """Read the table of a study for this process and its forks."""
    from hpo.study.record import keep_table

    keep_table(spec, path)


def worker_modules(spec: StudySpec) -> list[str]:
    """Return what a worker of a study imports, but for modules of the study's own.

    These may begin threads, or take hold of a device, which no fork would survive: each worker
    imports them for itself.
    """
    from hpo.estimators.registry import EXTRAS, find_entry

    modules = list(_MODULES)
    if spec.table is not None:
        modules += ["features.tables.store", "pyarrow.parquet"]
    if spec.cv is not None:
        modules.append("sklearn.model_selection")
    models = spec.estimator.parts.values() if spec.estimator else ()
    found = [find_entry(model) for model in models]
    factories = {entry.factory for entry in found if entry is not None and not entry.own}
    if "sklearn.ensemble:HistGradientBoostingRegressor" in factories:
        modules.append("hpo.estimators.boosting")
    packages = {factory.partition(":")[0] for factory in factories}
    return [*modules, *sorted(packages - EXTRAS.keys())]
