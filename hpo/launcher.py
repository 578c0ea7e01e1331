"""Keeps N local worker processes alive until the budget is finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from hpo.errors import ConflictError, FailedStudyError, HpoError
from hpo.status import Status, take_status
from hpo.study import StudyRecord
from hpo.worker import new_worker_id

POLL_S = 0.25
GRACE_S = 20.0
# How often in a row workers may die without a trial being finished in between.
MAX_FRUITLESS_DEATHS = 10


@dataclass
class _Child:
    worker_id: str
    process: subprocess.Popen[bytes]
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
    """

    record: StudyRecord
    workers: int
    logs_dir: Path
    progress: Callable[[Status], None]
    _children: list[_Child] = field(default_factory=list)
    _stopped_by: int | None = None

    def run(self) -> bool:
        """Work until the budget is finished, and return True; False if a signal ended it early.

        Raises
        ------
        FailedStudyError
            If too many trials failed, or if workers die as fast as they are started.
        HpoError
            If a worker refused to begin, with its reason.
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
        fruitless, finished = 0, -1
        while self._stopped_by is None:
            status = take_status(self.record)
            self.progress(status)
            if status.counts.finished != finished:
                fruitless, finished = 0, status.counts.finished
            fruitless += self._collect()
            if fruitless > MAX_FRUITLESS_DEATHS:
                raise FailedStudyError(
                    f"workers died {fruitless} times and finished nothing in between; "
                    f"see the logs in {self.logs_dir}"
                )
            if status.counts.done:
                return True
            unclaimed = status.counts.budget - status.counts.finished
            while len(self._children) < min(self.workers, unclaimed):
                self._children.append(self._start())
            time.sleep(POLL_S)
        return False

    def _start(self) -> _Child:
        self.logs_dir.mkdir(parents=True, exist_ok=True)
        worker_id = new_worker_id()
        log = self.logs_dir / f"{worker_id}.log"
        url = self.record.storage.engine.url.render_as_string(hide_password=False)
        arguments = [
            *(sys.executable, "-m", "hpo.cli", "worker", self.record.name),
            *("--id", worker_id, "--parent", str(os.getpid())),
        ]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A URL may hold a password, which other users could read from a command line.
                env={**os.environ, "HPO_STORAGE": url},
                # Ctrl-C in the terminal is for the launcher, which passes on what it means.
                start_new_session=True,
            )
        return _Child(worker_id, process, log)

    def _collect(self) -> int:
        """Bury the workers that died, and return how many."""
        deaths = 0
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            if code == 0:
                continue
            if code in (HpoError.exit_code, ConflictError.exit_code):
                message = _last_error(child.log)
                raise ConflictError(message, ()) if code == 3 else HpoError(message)
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self.record.ledger.bury(child.worker_id, reason)
            deaths += 1
        return deaths

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._stopped_by is not None:
            # The second Ctrl-C: do not wait for anything.
            for child in self._children:
                child.process.kill()
        self._stopped_by = number

    def _end_children(self) -> None:
        """Ask the workers to leave, kill those that do not, and bury them."""
        for child in self._children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for child in self._children:
            try:
                child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.process.returncode != 0:
                self.record.ledger.bury(child.worker_id, "killed when the study was stopped")
        self._children.clear()


def _last_error(log: Path) -> str:
    """Return the error that a worker ended with."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begin = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=0)
    return "\n".join(lines[begin:]).removeprefix("error: ") or f"a worker failed; see {log}"
