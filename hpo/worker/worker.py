"""A worker process: drives the loop, keeps the lease, answers signals."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from hpo.errors import StopRequested
from hpo.objectives.protocol import Objective
from hpo.records import WALL_KEY, Answer, Claim, WorkerRun
from hpo.spec.space import distributions
from hpo.study.record import StudyRecord
from hpo.worker.checked_objective import CheckedObjective
from hpo.worker.loop import Draw, Pause, ScorePart, Step, poll_interval, work
from hpo.worker.pruner import make_pruner
from hpo.worker.sampler import draw
from hpo.worker.signals import Heartbeat, LeaveConditions, StopSignal
from hpo.worker.trial_cache import TrialHistory

# How long a worker waits for a database that does not answer before it gives up.
PATIENCE_S = 900.0


def new_worker_id() -> str:
    """Return an id that no other worker has, on any machine."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"


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
        self.record, self.worker_id = record, worker_id
        self.ledger = record.ledger
        self.stop = StopSignal()
        self._sleep = sleep
        self._history = TrialHistory(
            record.storage, record.study_id, record.spec.sampler.max_history
        )
        self._space = distributions(record.spec.space)
        self.objective = CheckedObjective(objective, self._space)
        # The trial that parameters are drawn for.
        self._undrawn: Claim | None = None
        self._prune = make_pruner(record, self.objective)

    def run(self, run: WorkerRun, orders: LeaveConditions | None = None) -> str:
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
        self.ledger.register(self.worker_id, run)
        heartbeat = Heartbeat(self.ledger, self.worker_id, orders or LeaveConditions(), self.stop)
        heartbeat.start()
        outcome = "error"
        try:
            outcome = self._drive().value
        except StopRequested as exc:
            outcome = f"stopped: {exc}"
        finally:
            heartbeat.end()
            self.ledger.deregister(self.worker_id, outcome)
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
                self._history.note(step.claim.trial_id, step.params, self._space)
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
        with self.stop.interruptible():
            scores = self.objective.score_part(params, part)
        return {**scores, WALL_KEY: time.monotonic() - started}
