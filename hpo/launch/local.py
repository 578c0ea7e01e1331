"""Keeps N local worker processes alive until the budget is finished."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from hpo.errors import ConflictError, FailedStudyError, HpoError, StorageError
from hpo.launch.processes import WorkerProcess, WorkerSource
from hpo.study.record import StudyRecord
from hpo.study.status import Status, take_status
from hpo.worker.worker import PATIENCE_S, new_worker_id

POLL_S = 0.25
SHOW_S = 1.0  # a status asks the storage more than what the launcher goes by
GRACE_S = 20.0
# How often in a row workers may die without a trial being finished in between.
MAX_DEATHS_WITHOUT_PROGRESS = 10


@dataclass
class _Child:
    worker_id: str
    process: WorkerProcess
    log: Path


@dataclass
class LocalLauncher:
    """Local worker processes of one study.

    Attributes
    ----------
    record
        The study.
    workers
        How many processes.
    logs_dir
        Where each worker writes a log of its own.
    progress
        Called a few times a second with the state of the study.
    source
        Where the processes come from.
    """

    record: StudyRecord
    workers: int
    logs_dir: Path
    progress: Callable[[Status], None]
    source: WorkerSource
    _children: list[_Child] = field(default_factory=list)
    _stopped_by: int | None = None
    _without_progress: int = 0
    _finished: int = -1
    _show_at: float = 0.0

    def run(self) -> bool:
        """Work until the budget is finished, and return True; False if it was ended early.

        Raises
        ------
        FailedStudyError
            If too many trials failed, or if workers die as fast as they are started.
        HpoError
            If a worker refused to begin, with its reason.
        StorageError
            If the database did not answer for a long time.
        """
        before = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            return self._supervise()
        finally:
            self._end_children()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _supervise(self) -> bool:
        answered = time.monotonic()
        while self._stopped_by is None:
            try:
                ended = self._look_after()
            except StorageError:
                # Its server may be on its way back; the workers wait as well.
                if time.monotonic() - answered > PATIENCE_S:
                    raise
            else:
                answered = time.monotonic()
                if ended is not None:
                    return ended
            self.source.pause(POLL_S)
        return False

    def _look_after(self) -> bool | None:
        """Show the status, replace the dead; return how the study has ended if it has."""
        counts, stop = self.record.ledger.counts(), self.record.ledger.stopped()
        if counts.finished != self._finished or time.monotonic() >= self._show_at:
            self.progress(take_status(self.record))
            self._show_at = time.monotonic() + SHOW_S
        if counts.finished != self._finished:
            self._without_progress, self._finished = 0, counts.finished
        self._without_progress += self._collect()
        if self._without_progress > MAX_DEATHS_WITHOUT_PROGRESS:
            raise FailedStudyError(
                f"workers died {self._without_progress} times and finished nothing in between; "
                f"see the logs in {self.logs_dir}"
            )
        if counts.done:
            return True
        if stop is not None:
            return None if self._children else False
        unclaimed = counts.budget - counts.finished
        while len(self._children) < min(self.workers, unclaimed) and self._start():
            pass
        return None

    def _start(self) -> bool:
        """Start a worker; False if it is too early for one."""
        worker_id = new_worker_id()
        arguments = [
            *("worker", self.record.name, "--id", worker_id),
            *("--parent", str(os.getpid()), "--logs", str(self.logs_dir.parent)),
        ]
        url = self.record.storage.engine.url.render_as_string(hide_password=False)
        process = self.source.start(arguments, url)
        if process is not None:
            log = self.logs_dir / f"{worker_id}.log"
            self._children.append(_Child(worker_id, process, log))
        return process is not None

    def _collect(self) -> int:
        """Reap the workers that died, and return how many."""
        deaths = 0
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            if code in (HpoError.exit_code, ConflictError.exit_code):
                self._children.remove(child)
                message = _last_error(child.log)
                raise ConflictError(message, ()) if code == 3 else HpoError(message)
            if code != 0:
                killed_by = f"killed by {signal.Signals(-code).name}" if code < 0 else ""
                self.record.ledger.reap(child.worker_id, killed_by or f"exit code {code}")
                deaths += 1
            self._children.remove(child)
        return deaths

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._stopped_by is not None:
            # The second Ctrl-C: do not wait for anything.
            for child in self._children:
                child.process.send_signal(signal.SIGKILL)
        self._stopped_by = number

    def _end_children(self) -> None:
        """Ask the workers to leave, kill those that do not, and reap them."""
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for child in self._children:
            try:
                code = child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.send_signal(signal.SIGKILL)
                code = child.process.wait()
            if code != 0:
                # Without the storage, their leases run out.
                with contextlib.suppress(StorageError):
                    self.record.ledger.reap(child.worker_id, "killed when the study was stopped")
        self._children.clear()


def _last_error(log: Path) -> str:
    """Return the error that a worker ended with."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    begin = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=0)
    return "\n".join(lines[begin:]).removeprefix("error: ") or f"a worker failed; see {log}"
