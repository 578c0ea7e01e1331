"""What a sampler learns from: the trials of a study, kept in memory and brought up to date.

Optuna's storage reads every unfinished trial again for each parameter, and a new sampler looks for
the common search space in all trials. Here a worker reads once per trial what it has not seen.
"""

from __future__ import annotations

import bisect
import functools
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.schema import PARAMS, PART_VALUES, TRIALS, VALUES, part_value_of, value_of
from hpo.storage.storage import StudyStorage

# TPE fits its model of good parameters to at most this many trials; see `optuna.samplers`.
N_BEST = 25
_IDS_PER_QUERY = 500
_NUMBER = attrgetter("number")
# Samplers go by the numbers of trials, not by when they ran.
_SOME_TIME = datetime(1970, 1, 1)
_read_distribution = functools.lru_cache(json_to_distribution)


class TrialHistory:
    """The trials of one study, as one worker knows them.

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
        self._storage, self._study_id = storage, study_id
        (direction,) = storage.get_study_directions(study_id)
        self._mirror = _Mirror(direction, limit)
        self.study = self._mirror.load()
        self._common = IntersectionSearchSpace(include_pruned=True)
        # Trials with a lower id have ended, and are known.
        self._first_id = 0

    def update(self, undrawn: int | None = None) -> None:
        """Read what became of the trials since the last time.

        Parameters
        ----------
        undrawn
            The number of a trial that is known to have no parameters yet.
        """
        known = self._mirror.known
        with self._storage.read() as c:
            rows = [
                row
                for row in self._read_trials(c)
                if not (row.trial_id in known and known[row.trial_id].state.is_finished())
            ]
            bare = [
                row.trial_id
                for row in rows
                if row.number != undrawn
                and not (row.trial_id in known and known[row.trial_id].params)
            ]
            drawn = _read(c, PARAMS, bare)
            pruned = [row.trial_id for row in rows if row.state is TrialState.PRUNED]
            parts = _read(c, PART_VALUES, pruned)
        for row in rows:
            self._mirror.put(_trial_of(row, known.get(row.trial_id), drawn, parts))
        self.study = self._mirror.load()
        going_on = [row.trial_id for row in rows if not row.state.is_finished()]
        if rows:
            self._first_id = min(going_on, default=rows[-1].trial_id + 1)

    def running(self, number: int) -> FrozenTrial:
        """Return a trial that has not ended."""
        return self._mirror.going_on[number]

    def note(
        self, number: int, params: Mapping[str, Any], space: Mapping[str, BaseDistribution]
    ) -> None:
        """Remember what was drawn for a trial and is stored, so that it need not be read."""
        trial = self.running(number)
        trial.params, trial.distributions = dict(params), dict(space)

    def common_space(self) -> dict[str, BaseDistribution]:
        """Return the dimensions that all trials share, but for those with one value."""
        common = self._common.calculate(self.study)
        return {name: space for name, space in common.items() if not space.single()}

    def _read_trials(self, c: sa.Connection) -> Sequence[Any]:
        return c.execute(
            sa.select(
                TRIALS.c.trial_id,
                TRIALS.c.number,
                TRIALS.c.state,
                VALUES.c.value,
                VALUES.c.value_type,
            )
            .outerjoin(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
            .where(TRIALS.c.study_id == self._study_id, TRIALS.c.trial_id >= self._first_id)
            .order_by(TRIALS.c.trial_id)
        ).all()


class _Mirror(InMemoryStorage):
    """A storage of one study whose trials are put into it as they are elsewhere."""

    NAME = "history"

    def __init__(self, direction: StudyDirection, limit: int) -> None:
        super().__init__()
        self.create_new_study([direction], self.NAME)
        self.known: dict[int, FrozenTrial] = {}
        self._limit = limit
        self._sign = 1.0 if direction is StudyDirection.MINIMIZE else -1.0
        self.going_on: dict[int, FrozenTrial] = {}
        # In the order of their numbers; the best ones in the order of their values.
        self._ended: list[FrozenTrial] = []
        self._best: list[tuple[float, int, FrozenTrial]] = []

    def load(self) -> optuna.Study:
        """Return a study that has not read any trials yet; it reads them once only."""
        return optuna.load_study(study_name=self.NAME, storage=self)

    def put(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace what it was before it ended."""
        self.known[trial._trial_id] = trial
        if not trial.state.is_finished():
            self.going_on[trial.number] = trial
            return
        self.going_on.pop(trial.number, None)
        bisect.insort(self._ended, trial, key=_NUMBER)
        if trial.state is TrialState.COMPLETE:
            assert trial.value is not None
            bisect.insort(self._best, (self._sign * trial.value, trial.number, trial))
            del self._best[N_BEST:]

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002  there is one
        deepcopy: bool = True,  # noqa: ARG002  as Optuna has it
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return what samplers see, in the order of the trials' numbers."""
        trials = [*self._window(), *self.going_on.values()]
        return sorted((t for t in trials if states is None or t.state in states), key=_NUMBER)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Forget what a sampler notes for other workers: parameters are stored all at once."""

    def _window(self) -> list[FrozenTrial]:
        if len(self._ended) <= self._limit:
            return self._ended
        latest = self._ended[N_BEST - self._limit :]
        return [t for _, number, t in self._best if number < latest[0].number] + latest


def _trial_of(
    row: Any,
    before: FrozenTrial | None,
    drawn: Mapping[int, Sequence[Any]],
    parts: Mapping[int, Sequence[Any]],
) -> FrozenTrial:
    """Return a trial as a sampler needs it; what was drawn for it never changes."""
    if before is not None and before.params:
        params, distributions = before.params, before.distributions
    else:
        distributions = {
            p.param_name: _read_distribution(p.distribution_json) for p in drawn[row.trial_id]
        }
        params = {
            p.param_name: distributions[p.param_name].to_external_repr(p.param_value)
            for p in drawn[row.trial_id]
        }
    value = row.value_type and value_of(row.value, row.value_type)
    return FrozenTrial(
        trial_id=row.trial_id,
        number=row.number,
        state=row.state,
        value=value,
        datetime_start=_SOME_TIME,
        datetime_complete=_SOME_TIME if row.state.is_finished() else None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values={
            p.step: part_value_of(p.intermediate_value, p.intermediate_value_type)
            for p in parts[row.trial_id]
        },
    )


def _read(
    c: sa.Connection, table: sa.Table, trial_ids: Sequence[int]
) -> Mapping[int, Sequence[Any]]:
    """Return the rows of some trials, by trial and in the order in which they were made."""
    found: dict[int, list[Any]] = defaultdict(list)
    for start in range(0, len(trial_ids), _IDS_PER_QUERY):
        ids = trial_ids[start : start + _IDS_PER_QUERY]
        query = sa.select(table).where(table.c.trial_id.in_(ids))
        for row in c.execute(query.order_by(*table.primary_key)):
            found[row.trial_id].append(row)
    return found
