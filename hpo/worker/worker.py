"""A worker process: drives the loop, tells its launcher what it does, answers signals."""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hpo.errors import LostLeaseError, ObjectiveError, StopRequested
from hpo.objectives.factory import AnyObjective
from hpo.objectives.function import FunctionObjective
from hpo.objectives.protocol import Objective
from hpo.objectives.told import prepare
from hpo.objectives.values import Values
from hpo.records import WALL_KEY, Answer, Claim, WorkerRun
from hpo.spec.space import distributions
from hpo.study.record import StudyRecord
from hpo.study.told import BASELINE_NUMBER
from hpo.system.processes import end_processes, members
from hpo.worker.after_trial import AfterTrial
from hpo.worker.channel import Channel
from hpo.worker.checked_objective import CheckedObjective
from hpo.worker.function_runner import FunctionRunner
from hpo.worker.log import size_of_log
from hpo.worker.loop import (
    Draw,
    Ended,
    Evaluate,
    Pause,
    RunTrial,
    ScorePart,
    Step,
    poll_interval,
    run_parts,
    run_whole,
    work,
)
from hpo.worker.preparation import (
    Prepare,
    ScoreBaseline,
    Wait,
    get_ready,
    score_baseline,
)
from hpo.worker.pruner import OptunaPruner, make_pruner
from hpo.worker.sampler import draw
from hpo.worker.signals import StopSignal
from hpo.worker.trial_cache import TrialHistory
from hpo.worker.trial_folder import TrialFolders

# How long a worker waits for a database that does not answer before it gives up.
PATIENCE_S = 900.0
# A worker without a trial asks again after this long, whatever its launcher says.
UNASKED_S = 300.0
AnyStep = Step | Wait | Prepare | ScoreBaseline
# Between SIGTERM and SIGKILL for what an objective has started.
PROGRAMS_GRACE_S = 2.0


def new_worker_id() -> str:
    """Return an id that no other worker has, on any machine."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"


class Worker:
    """Runs trials of one study until the budget is finished or it is told to leave.

    Parameters
    ----------
    channel
        To its launcher, which renews its lease, holds it to limits, and says when a worker without
        a trial should ask again; None for a worker without one.
    trial_dirs
        The folder of the trials' own folders.
    sleep
        Passes the seconds until a worker without a trial and without a launcher asks again.
    """

    def __init__(
        self,
        record: StudyRecord,
        objective: AnyObjective,
        worker_id: str,
        channel: Channel | None = None,
        sleep: Callable[[float], None] = time.sleep,
        trial_dirs: Path = Path("trials"),
    ) -> None:
        self.record, self.worker_id = record, worker_id
        self.ledger = record.ledger
        self.stop = StopSignal()
        self._channel, self._sleep = channel, sleep
        self._pid = os.getpid()
        self._folder = os.open(".", os.O_RDONLY) if channel is not None else -1
        # The attempt that the launcher knows of.
        self._told: Claim | None = None
        self._objective, self._trial_dirs = objective, trial_dirs
        self._after = AfterTrial(record, self.stop, self._take_back_process)
        # For the part in hand of the baseline.
        self._baseline_told = False

    def _steps(self) -> Generator[AnyStep, Any, Answer]:
        """Return what there is to do: what is done once for the study, and then trials."""
        poll_s, objective = poll_interval(self.ledger.lease_s), self._objective
        if isinstance(objective, FunctionObjective):
            self._functions = FunctionRunner(self.record, objective, self.stop)
            self._folders = TrialFolders(self.record, self._trial_dirs)
            try:
                return (yield from work(self.ledger, self.worker_id, self._run_function, poll_s))
            finally:
                self._functions.end()
        folder = self._trial_dirs.absolute().with_name("prepared")
        about = (self.record, objective, self.worker_id)
        over = yield from get_ready(*about, folder, self.stop.uninterrupted, poll_s)
        if over is not None:
            return over
        run_trial = self._prepare_parts(objective)
        yield from score_baseline(self.record, objective, self.objective, self.worker_id)
        self._tell(busy=False)
        return (yield from work(self.ledger, self.worker_id, self._and_then(run_trial), poll_s))

    def _run_function(self, claim: Claim) -> Generator[Step, Any, None]:
        run = partial(run_whole, self.ledger, self._functions.unsaved)
        yield from self._and_then(run)(claim)
        self._folders.clean()

    def _and_then(self, run_trial: RunTrial) -> RunTrial:
        """Let what is done after a trial be done."""
        if not self._after:
            return run_trial

        def run(claim: Claim) -> Generator[Step, Any, None]:
            yield from run_trial(claim)
            yield Ended(claim)

        return run

    def _prepare_parts(self, objective: Objective) -> RunTrial:
        record = self.record
        self._history = TrialHistory(
            record.storage,
            record.study_id,
            record.spec.sampler.history,
            name=record.name,
            notes=self.ledger.notes,
        )
        self._space = distributions(record.spec.space)
        self.objective = CheckedObjective(objective, self._space, Values.of_spec(record.spec))
        # The trial that parameters are drawn for.
        self._undrawn: Claim | None = None
        self._prune = make_pruner(record, self.objective, self.ledger.notes)
        return partial(
            run_parts,
            self.ledger,
            self.objective,
            self._space,
            record.spec.checkpoint_s,
            self._prune,
        )

    def run(self, run: WorkerRun) -> str:
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
        self.record.storage.on_silence = lambda why: self._tell(silent=bool(why), why=why)
        self.ledger.register(self.worker_id, run)
        self._tell(registered=True)
        outcome = "error"
        try:
            outcome = self._drive(self._steps()).value
        except StopRequested as exc:
            outcome = f"stopped: {exc}"
        finally:
            self.ledger.deregister(self.worker_id, outcome)
        return outcome

    def _drive(self, steps: Generator[AnyStep, Any, Answer]) -> Answer:
        """Carry out steps."""
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
            except StopRequested as exc:
                error = self._prepare_to_leave(exc)
            except Exception as exc:
                error = exc

    def _carry_out(self, step: AnyStep) -> Any:
        if isinstance(step, ScorePart):
            if step.claim is self._undrawn and step.params:
                # Parameters are stored before the first part.
                self._history.note(step.claim.trial_id, step.params, self._space)
                self._undrawn = None
            self._tell_trial(step.claim)
            self._tell(part=step.part)
            self._require_launcher()
            scores = self._score_part(step.params, step.part)
            self._tell(scored=step.part)
            return scores
        if isinstance(step, Evaluate):
            self._tell_trial(step.claim)
            self._require_launcher()
            try:
                with self._folders.of(step.claim.number):
                    return self._functions.evaluate(step.claim)
            finally:
                self._take_back_process()
        if isinstance(step, Draw):
            self._tell_trial(step.claim)
            self._undrawn = step.claim
            return self.record.storage.patiently(lambda: self._draw(step))
        if isinstance(step, Pause):
            self._tell(idle=True)
            with self.stop.interruptible():
                self._pause(step.seconds)
        if isinstance(step, Ended):
            self._after.see(step.claim)
        if isinstance(step, Wait):
            with self.stop.interruptible():
                self._require_launcher()
                self._sleep(step.seconds)
        if isinstance(step, Prepare):
            return self._prepare_study(step)
        if isinstance(step, ScoreBaseline):
            return self._score_baseline(step)
        return None

    def _prepare_study(self, step: Prepare) -> str:
        step.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.stop.interruptible():
                return prepare(self._objective, step.folder, step.progress)
        except StopRequested as exc:
            if self.stop.reason is None:
                raise LostLeaseError(str(exc)) from exc
            raise
        finally:
            self._take_back_process()

    def _score_baseline(self, step: ScoreBaseline) -> Mapping[str, Any]:
        """Score a part of the baseline; its launcher holds it to the limits of a trial."""
        if not self._baseline_told:
            self._baseline_told = True
            self._tell(
                trial=BASELINE_NUMBER,
                attempt=1,
                before_s=step.before_s,
                log_bytes=size_of_log(),
                busy=True,
            )
        self._tell(part=step.part)
        self._require_launcher()
        scores = self._score_part(step.params, step.part)
        self._tell(scored=step.part)
        return scores

    def _tell(self, **message: Any) -> None:
        if self._channel is not None:
            self._channel.tell(**message)

    def _tell_trial(self, claim: Claim) -> None:
        """Tell the launcher that an attempt has begun, and how long earlier ones had worked."""
        if claim is not self._told:
            self._told = claim
            before_s = math.fsum(part.get(WALL_KEY, 0.0) for part in claim.parts)
            self._tell(
                trial=claim.number,
                attempt=claim.attempt,
                before_s=before_s,
                log_bytes=size_of_log(),
            )

    def _pause(self, seconds: float) -> None:
        """Wait until there may be a trial: the launcher asks for all of its workers."""
        if self._channel is None:
            self._sleep(seconds)
            return
        deadline = time.monotonic() + UNASKED_S
        while (left_s := deadline - time.monotonic()) > 0.0:
            self._require_launcher()
            if any("wake" in message for message in self._channel.hear(left_s)):
                return

    def _require_launcher(self) -> None:
        """Leave rather than work for nobody: without it nothing renews leases or holds to limits.

        An objective that closes all descriptors of its process closes this one, too.
        """
        if self._channel is not None and self._channel.closed:
            raise StopRequested("its launcher cannot be reached")

    def _take_back_process(self) -> None:
        """Undo what an objective may have done to the process that its next part runs in, too."""
        if os.getpid() != self._pid:
            # A process that the objective has forked and that came back from there.
            os._exit(1)
        if self._channel is not None:
            os.fchdir(self._folder)
            self.stop.install()

    def _prepare_to_leave(self, exc: StopRequested) -> StopRequested:
        """Say why it leaves as its launcher says it, and end what the objective has started.

        Nobody may take the trial over while programs of this attempt work on it.
        """
        if self._channel is None:
            return exc
        said = [message for message in self._channel.hear() if "leave" in message]
        own = [one for one in members(os.getpid(), self.worker_id) if one.pid != os.getpid()]
        end_processes(own, PROGRAMS_GRACE_S)
        if not said:
            return exc
        return StopRequested(said[0]["leave"], release=not said[0].get("limit"))

    def _draw(self, step: Draw) -> Mapping[str, Any]:
        point = step.claim.point or {}
        if point.keys() >= self._space.keys():
            return {name: point[name] for name in self._space}
        return {**self._draw_all(step), **{n: v for n, v in point.items() if n in self._space}}

    def _draw_all(self, step: Draw) -> Mapping[str, Any]:
        return draw(
            self._history,
            step.claim.number,
            self._space,
            self.record.spec.sampler,
            self.record.spec.seed,
            self._prune.pruner if isinstance(self._prune, OptunaPruner) else None,
        )

    def _score_part(self, params: Mapping[str, Any], part: int) -> dict[str, Any]:
        started = time.monotonic()
        try:
            with self.stop.interruptible():
                scores = self.objective.score_part(params, part)
        except StopRequested as exc:
            if self.stop.reason is None:
                # Nobody asked for it but the objective.
                raise ObjectiveError(f"{type(exc).__name__}: {exc}") from exc
            raise
        finally:
            self._take_back_process()
        return {**scores, WALL_KEY: time.monotonic() - started}
