"""Evaluates trials of a function: a real trial of Optuna's over one claim, and what came of it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from hpo.errors import ObjectiveError, StopRequested
from hpo.objectives.function import FunctionObjective
from hpo.objectives.scores import refusing, shown
from hpo.records import Claim, TrialWrites
from hpo.spec.space import distributions
from hpo.study.record import StudyRecord
from hpo.study.search import make_optuna_pruner
from hpo.worker.leased_storage import Keeper, LeasedStorage, LeasedTrial, new_trial
from hpo.worker.loop import Evaluation
from hpo.worker.sampler import make_sampler
from hpo.worker.signals import StopSignal
from hpo.worker.trial_cache import ChangedMeanwhileError, TrialHistory, filter_study

_SEEN_FOR_S = 0.5
_AGAIN = "The reported value is ignored because this `step=.*` is already reported"


class FunctionRunner:
    """Evaluates the trials of one worker.

    Parameters
    ----------
    stop
        What may interrupt the function, but not what is stored of its trial.
    """

    def __init__(self, record: StudyRecord, objective: FunctionObjective, stop: StopSignal) -> None:
        self._record, self._objective, self._stop = record, objective, stop
        storage, study_id, spec = record.storage, record.study_id, record.spec
        # TPE sees some of the trials, and failed ones as bad; pruners, and who reads `trial.study`,
        # see what there is.
        self._seen = _Seen(record, stop, spec.sampler.history)
        self._all = _Seen(record, stop, None) if spec.sampler.history else self._seen
        self._sampled = LeasedStorage(storage, study_id, self._seen.trials)
        self._shown = LeasedStorage(storage, study_id, self._all.trials)
        self._pruner = NopPruner() if spec.pruner is None else make_optuna_pruner(spec.pruner)
        self._space = distributions(spec.space)
        self._keeper = Keeper()
        self._leased: LeasedTrial | None = None

    def evaluate(self, claim: Claim) -> Evaluation:
        """Evaluate a trial.

        Raises
        ------
        ObjectiveError
            If the function raised something, or returned what is no value.
        StopRequested
            If the worker has to leave.
        LostLeaseError
            If the trial was taken over, and something of it was to be stored.
        """
        started = time.monotonic()
        leased = self._take(claim)
        study = self._study(claim)
        trial = Trial(study, claim.trial_id)
        try:
            values, pruned = self._call(trial)
            self._tell(study, trial, values, pruned)
        except ObjectiveError:
            study.tell(trial, state=TrialState.FAIL)
            raise
        if study._stop_flag:
            limit = f"trial.study.stop() in trial {claim.number}"
            self._record.ledger.stop("gently", limit=limit)
        told = leased.values or ()
        return Evaluation(told, pruned, time.monotonic() - started)

    def end(self) -> None:
        """End what was begun for the worker's trials."""
        self._keeper.end()

    def unsaved(self) -> TrialWrites:
        """Return what the trial in hand has told and is not stored; asked once at its end."""
        return TrialWrites() if self._leased is None else self._leased.take()

    def _take(self, claim: Claim) -> LeasedTrial:
        storage = self._record.storage
        # Of a trial that was worked on before, its draws, reports and attributes are kept.
        known = claim.attempt > 1 or claim.point is not None
        stored = (
            storage.patiently(lambda: storage.get_trial(claim.trial_id))
            if known
            else new_trial(claim)
        )
        leased = LeasedTrial(
            claim,
            stored,
            self._keeper,
            self._record.ledger.save,
            self._record.spec.checkpoint_s,
            self._stop.uninterrupted,
        )
        self._leased = self._sampled.leased = self._shown.leased = leased
        # A trial learns from all that ended before it; later on a moment does not count.
        self._seen.outdated = self._all.outdated = True
        return leased

    def _study(self, claim: Claim) -> optuna.Study:
        spec = self._record.spec
        sampler = make_sampler(spec.sampler, spec.seed, self._space, claim.number)
        seen = optuna.Study(self._record.name, self._sampled, sampler, self._pruner)
        common = self._seen.common_space if spec.sampler.name == "tpe" else None
        informed = _Informed(sampler, seen, common)
        study = optuna.Study(self._record.name, self._shown, informed, self._pruner)
        # Else `trial.study.stop()` is refused.
        study._thread_local.in_optimize_loop = True
        return study

    def _call(self, trial: Trial) -> tuple[Any, str]:
        """Return what the function returned, and why the trial was pruned; "" if it was not."""
        try:
            with refusing(self._objective.name), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=_AGAIN)
                try:
                    with self._stop.interruptible():
                        return self._objective.evaluate(trial), ""
                except optuna.TrialPruned as exc:
                    step = self._shown.leased.trial.last_step
                    where = "before any report" if step is None else f"at step {step}"
                    return None, str(exc) or where
        except StopRequested as exc:
            if self._stop.reason is None:
                # Nobody asked for it but the objective.
                raise ObjectiveError(f"{type(exc).__name__}: {exc}") from exc
            raise

    def _tell(self, study: optuna.Study, trial: Trial, values: Any, pruned: str) -> None:
        """Have Optuna judge the values, and the sampler look at them."""
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
            return
        with refusing(self._objective.name):
            if values is None or isinstance(values, str | bytes):
                raise ObjectiveError(f"must return a number, returned {shown(values)}")
            try:
                study.tell(trial, values, state=TrialState.COMPLETE)
            except ValueError as exc:
                raise ObjectiveError(str(exc)) from exc


class _Seen:
    """The trials of a study, read again when what is known of them is older than a moment."""

    def __init__(self, record: StudyRecord, stop: StopSignal, limit: int | None) -> None:
        self._storage, self._stop = record.storage, stop
        self._history = TrialHistory(record.storage, record.study_id, limit, name=record.name)
        self._updated = 0.0
        self.outdated = True

    def trials(self) -> list[FrozenTrial]:
        if self.outdated or time.monotonic() - self._updated >= _SEEN_FOR_S:
            with self._stop.uninterrupted():
                self._storage.patiently(self._history.update)
            self._updated, self.outdated = time.monotonic(), False
        return self._history.study.get_trials(deepcopy=False)

    def common_space(self) -> dict[str, BaseDistribution]:
        """Return the dimensions that all trials share, as TPE finds them."""
        self.trials()
        return self._history.common_space()


class _Informed(BaseSampler):
    """A sampler that looks at another study than the one that it is asked by.

    Parameters
    ----------
    common_space
        For TPE, which of a new sampler looks for the dimensions that all trials share in all of
        them: they are known. None for any other one.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        study: optuna.Study,
        common_space: Callable[[], dict[str, BaseDistribution]] | None,
    ) -> None:
        self._sampler, self._study, self._common_space = sampler, study, common_space

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._seen(study, trial), trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        seen = self._seen(study, trial)
        if self._common_space is not None and seen is self._study:
            return self._common_space()
        return self._sampler.infer_relative_search_space(seen, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        while True:
            try:
                seen = self._seen(study, trial)
                return self._sampler.sample_relative(seen, trial, search_space)
            except ChangedMeanwhileError:
                # Another worker has noted something of the study meanwhile, such as a counter.
                continue

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seen = self._seen(study, trial)
        return self._sampler.sample_independent(seen, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._sampler.after_trial(self._seen(study, trial), trial, state, values)

    def _seen(self, _study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
        return filter_study(self._study, trial)
