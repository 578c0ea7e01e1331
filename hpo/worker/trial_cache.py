"""What a sampler learns from: the trials of a study that it sees, kept in memory and up to date.

Optuna's storage reads every unfinished trial again for each parameter, and a new sampler looks for
the common search space in all trials. Here a worker reads at its start what a sampler sees, and
then what has changed.

Optuna's samplers learn nothing from trials that failed, and where the good ones lie beside a region
that fails they ask for more and more of it. Here a failed trial is shown as a complete one whose
value is worse than all others, as soon as there are others.
"""

from __future__ import annotations

import bisect
import copy
import math
import sys
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import (
    Drawn,
    Position,
    TrialChange,
    read_as_changed,
    read_best_ids,
    read_changes,
    read_latest_ids,
    read_params,
    read_part_values,
    read_position,
    trials_among,
)

# TPE fits its model of good parameters to at most this many trials; see `optuna.samplers`.
N_BEST = 25
# Samplers go by the numbers of trials, not by when they ran.
_SOME_TIME = datetime(1970, 1, 1)


class TrialHistory:
    """The trials of one study, as one worker knows them; nothing is read before it is asked for.

    Parameters
    ----------
    limit
        How many trials that have ended samplers see: the N_BEST best ones and the latest. TPE
        gives old trials little weight, but takes time for each.

    Attributes
    ----------
    study
        What Optuna's samplers are given: a study of these trials, for reading alone.
    """

    def __init__(self, storage: StudyStorage, study_id: int, limit: int) -> None:
        self._storage, self._study_id, self._limit = storage, study_id, limit
        (self._direction,) = storage.get_study_directions(study_id)
        self._mirror = _Mirror(self._direction, limit)
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
            pruned = [change.trial_id for change in changes if change.state is TrialState.PRUNED]
            drawn = read_params(c, self._study_id, trials_among(redrawn)) if redrawn else {}
            parts = read_part_values(c, self._study_id, trials_among(pruned)) if pruned else {}
        for change in changes:
            trial_id = change.trial_id
            before = known.get(trial_id)
            mirror.put(_trial_of(change, drawn.get(trial_id), before, parts.get(trial_id, {})))
        self._mirror, self._position = mirror, position
        self.study = mirror.load()

    def stored(self) -> list[FrozenTrial]:
        """Return the trials as they are stored, in the order of their numbers."""
        return [_as_stored(trial) for trial in self.study.get_trials(deepcopy=False)]

    def running(self, number: int) -> FrozenTrial:
        """Return a trial that has not ended."""
        return next(t for t in self._mirror.going_on.values() if t.number == number)

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

    def _read_anew(self, c: sa.Connection) -> tuple[_Mirror, list[TrialChange], Position]:
        """Return an empty mirror, the trials to be put into it, and the position behind them."""
        position = read_position(c, self._study_id)
        ids = read_latest_ids(c, self._study_id, self._limit + 1)
        more = len(ids) > self._limit
        if more:
            maximise = self._direction is StudyDirection.MAXIMIZE
            best = read_best_ids(c, self._study_id, N_BEST, maximise=maximise)
            ids = ids[: self._limit - N_BEST] + best
        changes = read_as_changed(c, self._study_id, {*ids, *position.open_ids})
        return _Mirror(self._direction, self._limit, more=more), changes, position


class _Mirror(InMemoryStorage):
    """A storage of one study whose trials are put into it as they are elsewhere.

    Parameters
    ----------
    more
        Whether there are more trials that have ended than samplers see: only the best and the
        latest of them will be put.
    """

    NAME = "history"

    def __init__(self, direction: StudyDirection, limit: int, *, more: bool = False) -> None:
        super().__init__()
        self.create_new_study([direction], self.NAME)
        self._limit, self._more = limit, more
        self._sign = 1.0 if direction is StudyDirection.MINIMIZE else -1.0
        self.going_on: dict[int, FrozenTrial] = {}
        # In the order of their numbers; the best ones in the order of their values.
        self._ended: list[FrozenTrial] = []
        self._best: list[tuple[float, tuple[int, int], FrozenTrial]] = []
        self._spaces: dict[tuple[Any, ...], dict[str, BaseDistribution]] = {}

    def load(self) -> optuna.Study:
        """Return a study that has not read any trials yet; it reads them once only."""
        return optuna.load_study(study_name=self.NAME, storage=self)

    def put(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace what it was before it ended."""
        trial.distributions = self.share(trial.distributions)
        if not trial.state.is_finished():
            self.going_on[trial._trial_id] = trial
            return
        self.going_on.pop(trial._trial_id, None)
        bisect.insort(self._ended, trial, key=_place)
        self._more = self._more or len(self._ended) > self._limit
        if self._more:
            del self._ended[: N_BEST - self._limit]
        if trial.state is TrialState.COMPLETE:
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

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Forget what a sampler notes for other workers: parameters are stored all at once."""

    def _window(self) -> Sequence[FrozenTrial]:
        if not self._more:
            return self._ended
        first = _place(self._ended[0])
        return [trial for _, place, trial in self._best if place < first] + self._ended

    def _judge_failed(self) -> None:
        """Show failed trials as complete ones of a bad value, or as what they are."""
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


def _as_stored(trial: FrozenTrial) -> FrozenTrial:
    if not isinstance(trial, _Failed):
        return trial
    failed = copy.copy(trial)
    failed.value, failed.state = None, TrialState.FAIL
    return failed


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


def _trial_of(
    change: TrialChange,
    drawn: Drawn | None,
    before: FrozenTrial | None,
    part_values: dict[int, float],
) -> FrozenTrial:
    """Return a trial as a sampler needs it."""
    if drawn is None:
        drawn = Drawn(before.params, before.distributions) if before is not None else Drawn({}, {})
    kind = _Failed if change.state is TrialState.FAIL else FrozenTrial
    return kind(
        trial_id=change.trial_id,
        number=change.number,
        state=change.state,
        value=change.value,
        datetime_start=_SOME_TIME,
        datetime_complete=_SOME_TIME if change.state.is_finished() else None,
        params=drawn.params,
        distributions=drawn.distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values=part_values,
    )
