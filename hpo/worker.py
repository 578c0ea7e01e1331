"""A worker process: drives the loop, keeps the lease, answers signals."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from hpo.errors import ObjectiveError, StopRequested, StorageError
from hpo.ledger import WALL_KEY, Answer, Claim, Incarnation, Ledger
from hpo.loop import Draw, Pause, ScorePart, Step, poll_interval, work
from hpo.objective import Objective
from hpo.pruning import make_pruner
from hpo.sampling import draw
from hpo.space import distributions
from hpo.study import StudyRecord
from hpo.trial_history import TrialHistory

# How long a worker waits for a database that does not answer before it gives up.
PATIENCE_S = 900.0
_log = logging.getLogger(__name__)


def new_worker_id() -> str:
    """Return an id that no other worker has, on any machine."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"


class StopSignal:
    """TERM, INT and USR2: finish nothing more, give the trial back, leave.

    A signal interrupts the scoring of a part at once, and nothing else: what is being stored is
    stored wholly.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._interruptible = False

    def install(self) -> None:
        """Take over the signals of this process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._receive)

    def request(self, reason: str) -> None:
        """Stop this process's work from one of its other threads."""
        if self.reason is None:
            self.reason = reason
            # Interrupts the main thread wherever it may be interrupted.
            os.kill(os.getpid(), signal.SIGTERM)

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
        if self.reason is None:
            self.reason = signal.Signals(number).name
        if self._interruptible:
            raise StopRequested(self.reason)


TIME_LIMIT = "the time limit is near"


@dataclass(frozen=True)
class Orders:
    """When a worker leaves before its study is finished.

    Attributes
    ----------
    parent_pid
        Leave when this is not the parent any more: nobody would know that the worker computes.
    leave_at
        Leave at this time, in seconds of `time.time()`; see `leave_time`.
    """

    parent_pid: int | None = None
    leave_at: float | None = None


def leave_time(ends_at: float, leave_before_s: float, stagger_s: float) -> float:
    """Return when a worker leaves a job that ends at `ends_at`.

    Workers that began together leave spread over `stagger_s` seconds, so that they do not all
    come to the database and to the queue at once.
    """
    return ends_at - leave_before_s - random.uniform(0.0, stagger_s)


class Heartbeat(threading.Thread):
    """Renews the worker's lease for as long as its process lives, and sees when it has to go."""

    def __init__(self, ledger: Ledger, worker_id: str, orders: Orders, stop: StopSignal) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._ledger, self._worker_id = ledger, worker_id
        self._orders, self._stop_signal = orders, stop
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat three times per lease until the worker ends."""
        interval_s = self._ledger.lease_s / 3.0
        next_beat = time.monotonic() + interval_s
        while not self._ended.wait(min(1.0, interval_s)):
            self._look_around()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + interval_s
                self._beat()

    def end(self) -> None:
        """Stop beating."""
        self._ended.set()
        self.join(timeout=5.0)

    def _look_around(self) -> None:
        orders = self._orders
        if orders.parent_pid is not None and os.getppid() != orders.parent_pid:
            self._stop_signal.request("the launcher is gone")
        if orders.leave_at is not None and time.time() >= orders.leave_at:
            self._stop_signal.request(TIME_LIMIT)

    def _beat(self) -> None:
        try:
            answer = self._ledger.renew(self._worker_id)
        except StorageError as exc:
            _log.warning("lease not renewed: %s", exc)
            return
        if answer is not None:
            self._stop_signal.request(answer.value)


class Worker:
    """Runs trials of one study until the budget is finished or it is told to leave.

    Parameters
    ----------
    sleep
        Passes the seconds until a worker without a trial asks again.
    """

    def __init__(
        self,
        record: StudyRecord,
        objective: Objective,
        worker_id: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.record, self.objective, self.worker_id = record, objective, worker_id
        self.ledger = record.ledger
        self.stop = StopSignal()
        self._sleep = sleep
        self._history = TrialHistory(
            record.storage, record.study_id, record.spec.sampler.max_history
        )
        self._space = distributions(record.spec.space)
        # The trial that parameters are drawn for.
        self._undrawn: Claim | None = None
        self._prune = make_pruner(record, objective)

    def run(self, incarnation: Incarnation, orders: Orders | None = None) -> str:
        """Work until there is nothing left to do, and return why it ended.

        Raises
        ------
        FailedStudyError
            If more trials failed than the study allows.
        StorageError
            If the database did not answer for a long time.
        """
        self.stop.install()
        self.record.storage.patience_s = PATIENCE_S
        self.ledger.enter(self.worker_id, incarnation)
        heartbeat = Heartbeat(self.ledger, self.worker_id, orders or Orders(), self.stop)
        heartbeat.start()
        outcome = "error"
        try:
            outcome = self._drive().value
        except StopRequested as exc:
            outcome = f"stopped: {exc}"
        finally:
            heartbeat.end()
            self.ledger.leave(self.worker_id, outcome)
        return outcome

    def _drive(self) -> Answer:
        """Carry out the steps of the loop."""
        poll_s = poll_interval(self.ledger.lease_s)
        steps = work(
            self.ledger,
            self.worker_id,
            self.objective,
            self._space,
            poll_s,
            self.record.spec.checkpoint_s,
            self._prune,
        )
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as done:
                ended: Answer = done.value
                return ended
            answer = error = None
            try:
                answer = self._carry_out(step)
            except (Exception, StopRequested) as exc:
                error = exc

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, ScorePart):
            if step.claim is self._undrawn and step.params:
                # Parameters are stored before the first part.
                self._history.note(step.claim.number, step.params, self._space)
                self._undrawn = None
            return self._score_part(step.params, step.part)
        if isinstance(step, Draw):
            self._undrawn = step.claim
            return self.record.storage.patiently(lambda: self._draw(step))
        if isinstance(step, Pause):
            with self.stop.interruptible():
                self._sleep(step.seconds)
        return None

    def _draw(self, step: Draw) -> Mapping[str, Any]:
        return draw(
            self._history,
            step.claim.number,
            self._space,
            self.record.spec.sampler,
            self.record.spec.seed,
        )

    def _score_part(self, params: Mapping[str, Any], part: int) -> dict[str, Any]:
        started = time.monotonic()
        try:
            with self.stop.interruptible():
                scored = self.objective.score_part(params, part)
            scores = {
                name: value if isinstance(value, str) else float(value)
                for name, value in scored.items()
            }
        except (Exception, SystemExit) as exc:
            raise ObjectiveError(f"{type(exc).__name__}: {exc}") from exc
        if "score" not in scores:
            raise ObjectiveError(f"{self.objective.parts[part]}: no key 'score' among its scores")
        return {**scores, WALL_KEY: time.monotonic() - started}
