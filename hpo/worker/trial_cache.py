"""What samplers and pruners see: the trials of a study, kept in memory and up to date.

Optuna's storage reads every unfinished trial again for each parameter, and a new sampler looks for
the common search space in all trials. Here a worker reads at its start what a sampler sees, and
then what has changed.

TPE learns nothing from trials that failed, and where the good ones lie beside a region that fails
it asks for more and more of it. Here a failed trial is shown to it as a complete one whose value is
worse than all others, as soon as there are others. Any other sampler, and every pruner, is shown
the trials as they are.

What a sampler or a pruner notes of a trial goes to `notes`, for the ledger to store with the trial;
what it notes of the study is stored at once, unless another worker has stored something since it
was read: then whoever draws begins anew. A counter in it, as QMCSampler has one, therefore gives no
number out twice.

The only file of the engine that uses what is private in Optuna's samplers and trials.
"""

from __future__ import annotations

import bisect
import copy
import functools
import json
import math
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.best import read_best_ids
from hpo.storage.schema import TRIAL_SYSTEM_ATTRIBUTES
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import (
    Drawn,
    Position,
    TrialChange,
    read_as_changed,
    read_attributes,
    read_changes,
    read_latest_ids,
    read_params,
    read_part_values,
    read_position,
    read_study_attributes,
    trials_among,
)
from hpo.storage.trial_writer import replace_study_attribute

# TPE fits its model of good parameters to at most this many trials; see `optuna.samplers`.
N_BEST = 25
# How TPE and the Gaussian process tell others what they draw before they have drawn all.
_RELATIVE_PARAMS = ":relative_params"
# Samplers go by the numbers of trials, not by when they ran.
_SOME_TIME = datetime(1970, 1, 1)


class ChangedMeanwhileError(Exception):
    """Another worker has stored what a sampler was about to note of the study: draw anew."""


Notes = dict[int, dict[str, Any]]


class TrialHistory:
    """The trials of one study, as one worker knows them; nothing is read before it is asked for.

    Parameters
    ----------
    limit
        For TPE, how many trials that have ended it sees: the N_BEST best ones and the latest. It
        gives old trials little weight, but takes time for each. None for any other reader, who sees
        all of them, with all that is stored of them. With several objectives there is no limit.
    name
        The study's, by which HyperbandPruner divides trials among its brackets.
    notes
        Where system attributes of trials in hand are put; `Ledger.notes`.
    of_means
        Whether the values that trials reported are shown as what a pruner is told of parts: after
        part k (from 1 on) the mean score of the first k.

    Attributes
    ----------
    study
        What Optuna's samplers and pruners are given: a study of these trials.
    """

    def __init__(
        self,
        storage: StudyStorage,
        study_id: int,
        limit: int | None,
        *,
        name: str = "history",
        notes: Notes | None = None,
        of_means: bool = False,
    ) -> None:
        self._storage, self._study_id, self._of_means = storage, study_id, of_means
        self._directions = storage.get_study_directions(study_id)
        self._limit = limit if len(self._directions) == 1 else None
        self.notes: Notes = {} if notes is None else notes
        self._name = name
        self._mirror = self._make_mirror()
        self._position: Position | None = None
        self.study = self._mirror.load()

    def update(self) -> None:
        """Read what became of the trials since the last time."""
        with self._storage.read() as c:
            found = self._position and read_changes(c, self._study_id, self._position)
            mirror = self._mirror
            if found:
                changes, position = found
            else:
                mirror, changes, position = self._read_anew(c)
            known = mirror.going_on
            redrawn = [
                change.trial_id
                for change in changes
                if change.n_params != _n_params(known.get(change.trial_id))
            ]
            told = [change.trial_id for change in changes if self._is_told(change, known)]
            noted = [change.trial_id for change in changes if _is_noted(change, known)]
            drawn = read_params(c, self._study_id, trials_among(redrawn)) if redrawn else {}
            parts = read_part_values(c, self._study_id, trials_among(told)) if told else {}
            attributes: Mapping[int, dict[str, Any]] = {}
            if noted:
                among = trials_among(noted)
                table = TRIAL_SYSTEM_ATTRIBUTES
                attributes = read_attributes(c, self._study_id, among, table=table)
        for change in changes:
            trial_id = change.trial_id
            before = known.get(trial_id)
            values = parts.get(trial_id)
            if values is not None and self._of_means:
                values = means_so_far([values[part] for part in sorted(values)])
            trial = _trial_of(change, drawn.get(trial_id), before, values, attributes.get(trial_id))
            mirror.put(trial)
        self._mirror, self._position = mirror, position
        self.study = mirror.load()

    def open_trial(
        self,
        number: int,
        make_sampler: Callable[[], BaseSampler],
        pruner: BasePruner | None = None,
    ) -> optuna.Trial:
        """Return a trial that goes on as Optuna's own, to draw parameters with a sampler.

        Whatever the sampler draws together is drawn already. Nothing is stored: neither the
        parameters, nor what the sampler notes of the trial, which is in `notes`.
        """
        while True:
            self.update()
            running = self.running(number)
            self.notes.pop(running._trial_id, None)
            self.study.sampler = make_sampler()
            self.study.pruner = self.study.pruner if pruner is None else pruner
            try:
                trial = optuna.Trial(self.study, running._trial_id)
                # Asked for once: a sampler may count how often it was.
                assert trial.relative_params is not None
            except ChangedMeanwhileError:
                continue
            return trial

    def running(self, number: int) -> FrozenTrial:
        """Return a trial that has not ended."""
        return next(t for t in self._mirror.going_on.values() if t.number == number)

    def snapshot(self, number: int) -> FrozenTrial:
        """Return a copy of a trial that has not ended, with what was noted of it."""
        return self._mirror.get_trial(self.running(number)._trial_id)

    def note(
        self, trial_id: int, params: Mapping[str, Any], space: Mapping[str, BaseDistribution]
    ) -> None:
        """Remember what was drawn for a trial and is stored, so that it need not be read."""
        trial = self._mirror.going_on.get(trial_id)
        if trial is not None:
            trial.params, trial.distributions = dict(params), self._mirror.share(space)

    def common_space(self) -> dict[str, BaseDistribution]:
        """Return the dimensions that all trials share, but for those with one value."""
        common = intersection_search_space(self._mirror.distinct_spaces(), include_pruned=True)
        return {name: space for name, space in common.items() if not space.single()}

    def _is_told(self, change: TrialChange, known: Mapping[int, FrozenTrial]) -> bool:
        """Whether values that a trial reported are to be read: TPE sorts pruned ones by them."""
        if self._limit is not None:
            return change.state is TrialState.PRUNED
        before = known.get(change.trial_id)
        n_before = 0 if before is None else len(before.intermediate_values)
        return change.n_part_values > 0 and (
            change.state.is_finished() or change.n_part_values != n_before
        )

    def _make_mirror(self, *, more: bool = False) -> _Mirror:
        attributes = StudyAttributes(self._storage, self._study_id)
        mirror = _Mirror(self._directions, self._limit, attributes, self.notes, more=more)
        mirror.create_new_study(self._directions, self._name)
        return mirror

    def _read_anew(self, c: sa.Connection) -> tuple[_Mirror, list[TrialChange], Position]:
        """Return an empty mirror, the trials to be put into it, and the position behind them."""
        position = read_position(c, self._study_id)
        if self._limit is None:
            return self._make_mirror(), read_as_changed(c, self._study_id, None), position
        ids = read_latest_ids(c, self._study_id, self._limit + 1)
        more = len(ids) > self._limit
        if more:
            maximise = self._directions[0] is StudyDirection.MAXIMIZE
            best = read_best_ids(c, self._study_id, N_BEST, maximise=maximise)
            ids = ids[: self._limit - N_BEST] + best
        changes = read_as_changed(c, self._study_id, {*ids, *position.open_ids})
        return self._make_mirror(more=more), changes, position


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Return the value of a parameter of a trial, drawn if it has none, as `Study.ask` does."""
    return trial._suggest(name, distribution)


def filter_study(study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
    """Return what a sampler is shown of a study: with a HyperbandPruner, the trial's bracket."""
    return optuna.pruners._filter_study(study, trial)


@functools.cache
def use_scipy_in_tpe() -> None:
    """Let TPE take the normal distribution from SciPy, rather than element by element in Python.

    What is drawn is the same to 1e-15. `tests/benchmarks/README.md` has it as a patch for Optuna.
    """
    from scipy.special import log_ndtr, ndtr

    module = optuna.samplers._tpe._truncnorm
    for name, function in (("_log_ndtr", log_ndtr), ("_ndtr", ndtr)):
        if hasattr(module, name):  # another version of Optuna may have others
            setattr(module, name, function)


def means_so_far(scores: Sequence[float]) -> dict[int, float]:
    """Return the mean of the first k part scores by k, from 1 on."""
    counts = np.arange(1, len(scores) + 1)
    return dict(zip(counts.tolist(), (np.cumsum(scores) / counts).tolist(), strict=True))


class StudyAttributes:
    """The system attributes of a study, which all workers read and write."""

    def __init__(self, storage: StudyStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._read: dict[str, str] | None = None

    def read(self) -> dict[str, Any]:
        """Return them as they are now."""
        with self._storage.read() as c:
            self._read = read_study_attributes(c, self._study_id)
        return {key: json.loads(text) for key, text in self._read.items()}

    def write(self, key: str, value: Any) -> None:
        """Store one.

        Raises
        ------
        ChangedMeanwhileError
            If another worker has stored it since it was read here.
        """
        if self._read is None:
            self.read()
        assert self._read is not None
        before, now = self._read.get(key), json.dumps(value)
        with self._storage.write() as c:
            done = replace_study_attribute(c, self._storage, self._study_id, key, before, now)
        if not done:
            raise ChangedMeanwhileError(key)
        self._read[key] = now


class _Mirror(InMemoryStorage):
    """A storage of one study whose trials are put into it as they are elsewhere.

    Parameters
    ----------
    more
        Whether there are more trials that have ended than samplers see: only the best and the
        latest of them will be put.
    """

    def __init__(
        self,
        directions: Sequence[StudyDirection],
        limit: int | None,
        attributes: StudyAttributes,
        notes: Notes,
        *,
        more: bool = False,
    ) -> None:
        super().__init__()
        self._limit, self._more = limit, more
        self._attributes, self._notes = attributes, notes
        self._sign = 1.0 if directions[0] is StudyDirection.MINIMIZE else -1.0
        self.going_on: dict[int, FrozenTrial] = {}
        # In the order of their numbers; the best ones in the order of their values.
        self._ended: list[FrozenTrial] = []
        self._best: list[tuple[float, tuple[int, int], FrozenTrial]] = []
        self._spaces: dict[tuple[Any, ...], dict[str, BaseDistribution]] = {}

    def load(self) -> optuna.Study:
        """Return a study that has not read any trials yet; it reads them once only."""
        (name,) = self._study_name_to_id
        return optuna.load_study(study_name=name, storage=self)

    def put(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace what it was before it ended."""
        trial.distributions = self.share(trial.distributions)
        if not trial.state.is_finished():
            self.going_on[trial._trial_id] = trial
            return
        self.going_on.pop(trial._trial_id, None)
        bisect.insort(self._ended, trial, key=_place)
        if self._limit is not None:
            self._more = self._more or len(self._ended) > self._limit
            if self._more:
                del self._ended[: N_BEST - self._limit]
        kept = all(violation <= 0 for violation in trial.constraints.values())
        if kept and trial.state is TrialState.COMPLETE and len(trial.values) == 1:
            assert trial.value is not None
            bisect.insort(self._best, (self._sign * trial.value, _place(trial), trial))
            del self._best[N_BEST:]

    def share(self, space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
        """Return the same dictionary for all trials with the same dimensions."""
        key = (*space, *map(id, space.values()))
        return self._spaces.setdefault(key, dict(space))

    def distinct_spaces(self) -> list[FrozenTrial]:
        """Return one trial for each search space among those that have a score."""
        ended = (trial for trial in self._window() if not isinstance(trial, _Failed))
        return list({id(trial.distributions): trial for trial in ended}.values())

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002  there is one
        deepcopy: bool = True,  # noqa: ARG002  as Optuna has it
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return what samplers see, in the order of the trials' numbers."""
        self._judge_failed()
        trials = [*self._window(), *self.going_on.values()]
        return sorted((t for t in trials if states is None or t.state in states), key=_place)

    def get_best_trial(self, study_id: int) -> FrozenTrial:  # noqa: ARG002
        """Return the best of the complete trials, the oldest among equals."""
        if not self._best:
            raise ValueError("no trial is complete yet")
        return self._best[0][2]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a trial that goes on, with what was noted of it."""
        trial = copy.copy(self.going_on[trial_id])
        trial.params, trial.distributions = dict(trial.params), dict(trial.distributions)
        trial.system_attrs = trial.system_attrs | self._notes.get(trial_id, {})
        return trial

    def set_trial_param(self, *_: Any) -> None:
        """Forget it: parameters are stored all at once."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note an attribute of a trial, but for its parameters, which are stored as such."""
        if _RELATIVE_PARAMS not in key:
            self._notes.setdefault(trial_id, {})[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        """Return what the storage has of the study at this moment."""
        return self._attributes.read()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        """Store an attribute of the study, unless it has changed since it was read."""
        self._attributes.write(key, value)

    def _window(self) -> Sequence[FrozenTrial]:
        if not self._more:
            return self._ended
        first = _place(self._ended[0])
        return [trial for _, place, trial in self._best if place < first] + self._ended

    def _judge_failed(self) -> None:
        """Show failed trials as complete ones of a bad value, or as what they are."""
        if self._limit is None:
            return
        ended = self._window()
        # Without parameters there is nothing to learn.
        failed = [trial for trial in ended if isinstance(trial, _Failed) and trial.params]
        if not failed:
            return
        scored = [trial for trial in ended if not isinstance(trial, _Failed)]
        values = [self._sign * value for value in map(_value_of, scored) if value is not None]
        bad = self._sign * _worse_than(values)
        n_hidden = max(0, len(failed) - _n_shown(len(values), len(scored)))
        for place, trial in enumerate(failed):
            shown = place >= n_hidden
            trial.state = TrialState.COMPLETE if shown else TrialState.FAIL
            trial.value = bad if shown else None


class _Failed(FrozenTrial):
    """A failed trial, whose state and value are those that samplers are shown."""


def _n_shown(n_complete: int, n_scored: int) -> float:
    """Return how many failed trials samplers are shown: none of them may be among the good ones.

    TPE calls a tenth of what it sees good, N_BEST trials at most, complete ones before pruned ones.
    """
    return math.inf if n_complete >= N_BEST else max(0, 10 * n_complete - n_scored)


def _worse_than(values: Sequence[float]) -> float:
    """Return a finite number above all finite ones, near them: some samplers model values."""
    worst = max(filter(math.isfinite, values), default=0.0)
    return min(math.nextafter(worst, math.inf), sys.float_info.max)


def _value_of(trial: FrozenTrial) -> float | None:
    """Return the value of a complete trial; a pruned one of Optuna's own has one, too."""
    return trial.value if trial.state is TrialState.COMPLETE else None


def _place(trial: FrozenTrial) -> tuple[int, int]:
    return trial.number, trial._trial_id


def _n_params(trial: FrozenTrial | None) -> int:
    return 0 if trial is None else len(trial.params)


def _is_noted(change: TrialChange, known: Mapping[int, FrozenTrial]) -> bool:
    before = known.get(change.trial_id)
    n_before = 0 if before is None else len(before.system_attrs)
    return change.n_attributes > 0 and (
        change.state.is_finished() or change.n_attributes != n_before
    )


def _trial_of(
    change: TrialChange,
    drawn: Drawn | None,
    before: FrozenTrial | None,
    values: dict[int, float] | None,
    attributes: dict[str, Any] | None,
) -> FrozenTrial:
    """Return a trial as a sampler needs it; what was not read again is as it was before."""
    if drawn is None:
        drawn = Drawn(before.params, before.distributions) if before is not None else Drawn({}, {})
    if values is None:
        values = {} if before is None else before.intermediate_values
    if attributes is None:
        attributes = {} if before is None else before.system_attrs
    kind = _Failed if change.state is TrialState.FAIL else FrozenTrial
    return kind(
        trial_id=change.trial_id,
        number=change.number,
        state=change.state,
        value=None,
        values=list(change.values) or None,
        datetime_start=_SOME_TIME,
        datetime_complete=_SOME_TIME if change.state.is_finished() else None,
        params=drawn.params,
        distributions=drawn.distributions,
        user_attrs={},
        system_attrs=attributes,
        intermediate_values=values,
    )
