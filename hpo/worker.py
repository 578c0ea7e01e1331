"""A worker: claim, sample, score parts, tell. All of its state is in the storage."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hpo.errors import LostLeaseError, ObjectiveError, StopRequested
from hpo.ledger import WALL_KEY, Answer, Claim, Ledger
from hpo.objective import Objective
from hpo.sampling import draw
from hpo.space import distributions
from hpo.study import StudyRecord

POLL_S = 0.5
_log = logging.getLogger(__name__)


def new_worker_id() -> str:
    """Return an id that no other worker has, on any machine."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"


class StopSignal:
    """TERM and USR2: finish nothing more, give the trial back, leave.

    A signal interrupts the scoring of a part at once, and nothing else: what is being stored is
    stored wholly.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._interruptible = False

    def install(self) -> None:
        """Take over the signals of this process; the launcher alone answers Ctrl-C."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._receive)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise StopRequested within this block, or before it."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    def check(self) -> None:
        """Raise StopRequested if a signal has come."""
        if self.reason is not None:
            raise StopRequested(self.reason)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if self._interruptible:
            raise StopRequested(self.reason)


class Heartbeat(threading.Thread):
    """Renews the worker's lease for as long as its process lives, and watches its launcher."""

    def __init__(self, ledger: Ledger, worker_id: str, parent_pid: int | None) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._ledger, self._worker_id, self._parent_pid = ledger, worker_id, parent_pid
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat three times per lease until the worker ends."""
        interval_s = self._ledger.lease_s / 3.0
        next_beat = time.monotonic() + interval_s
        while not self._ended.wait(min(1.0, interval_s)):
            if self._parent_pid is not None and os.getppid() != self._parent_pid:
                # Without its launcher nobody would know that this worker still computes.
                self._parent_pid = None
                os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + interval_s
                try:
                    self._ledger.renew(self._worker_id)
                except SQLAlchemyError as exc:
                    _log.warning("lease not renewed, trying again: %s", exc)

    def end(self) -> None:
        """Stop beating."""
        self._ended.set()
        self.join(timeout=5.0)


class Worker:
    """Runs trials of one study until the budget is finished or it is told to leave."""

    def __init__(self, record: StudyRecord, objective: Objective, worker_id: str) -> None:
        self.record, self.objective, self.worker_id = record, objective, worker_id
        self.ledger = record.ledger
        self.stop = StopSignal()
        self._study = record.optuna_study()
        self._space = distributions(record.spec.space)

    def run(
        self, parent_pid: int | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> str:
        """Work until there is nothing left to do, and return why it ended.

        Raises
        ------
        FailedStudyError
            If more trials failed than the study allows.
        """
        self.stop.install()
        self.ledger.enter(self.worker_id, socket.gethostname(), os.getpid())
        heartbeat = Heartbeat(self.ledger, self.worker_id, parent_pid)
        heartbeat.start()
        outcome = "error"
        try:
            self._loop(sleep)
            outcome = "the budget is finished"
        except StopRequested as exc:
            outcome = f"stopped by {exc}"
        finally:
            heartbeat.end()
            self.ledger.leave(self.worker_id, outcome)
        return outcome

    def _loop(self, sleep: Callable[[float], None]) -> None:
        while True:
            self.stop.check()
            claim = self.ledger.claim(self.worker_id)
            if claim is Answer.DONE:
                return
            if claim is Answer.WAIT:
                sleep(POLL_S)
            elif isinstance(claim, Claim):
                self._run_trial(claim)

    def _run_trial(self, claim: Claim) -> None:
        started = time.monotonic()
        try:
            scores = self._score(claim)
            self.ledger.finish(claim, scores)
        except StopRequested:
            with contextlib.suppress(LostLeaseError):
                self.ledger.give_back(claim)
            _log.info("trial %d given back", claim.number)
            raise
        except LostLeaseError as exc:
            _log.warning("%s: another worker has it, nothing was told", exc)
        except SQLAlchemyError:
            raise
        except Exception as exc:
            # The objective refused these parameters; the next ones may be better.
            reason = f"{type(exc).__name__}: {exc}"
            _log.warning("trial %d failed: %s", claim.number, reason, exc_info=True)
            with contextlib.suppress(LostLeaseError):
                self.ledger.fail(claim, reason)
        else:
            wall_s = time.monotonic() - started
            _log.info("trial %d scored %.6g in %.2f s", claim.number, scores["score"], wall_s)

    def _score(self, claim: Claim) -> Mapping[str, float]:
        params = claim.params
        if params is None:
            params = draw(
                self._study,
                claim.trial_id,
                claim.number,
                self._space,
                self.record.spec.sampler,
                self.record.spec.seed,
            )
            self.ledger.save_params(claim, params, self._space)
        parts = list(claim.parts)
        for part in range(len(parts), len(self.objective.parts)):
            scores = self._score_part(params, part)
            self.ledger.save_part(claim, part, scores)
            parts.append(scores)
        total = dict(self.objective.combine(parts))
        if not math.isfinite(total["score"]):
            raise ObjectiveError(f"the combined score is {total['score']}")
        return {**total, WALL_KEY: math.fsum(part[WALL_KEY] for part in parts)}

    def _score_part(self, params: Mapping[str, Any], part: int) -> dict[str, float]:
        started = time.monotonic()
        with self.stop.interruptible():
            scores = {
                name: float(value)
                for name, value in self.objective.score_part(params, part).items()
            }
        if not math.isfinite(scores["score"]):
            raise ObjectiveError(f"{self.objective.parts[part]} scored {scores['score']}")
        return {**scores, WALL_KEY: time.monotonic() - started}
