"""The trials of a study, read from its storage once, for everything that looks back at them."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.records import part_key
from hpo.storage.best import Front


class TrialsView(optuna.Study):
    """Some trials, for Optuna's plots, which would read the storage again for every figure."""

    def __init__(
        self, name: str, directions: Sequence[StudyDirection], trials: Iterable[FrozenTrial]
    ) -> None:
        storage = InMemoryStorage()
        storage.create_new_study(list(directions), name)
        super().__init__(name, storage)
        self._read = sorted(trials, key=lambda trial: trial.number)

    def get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002  plots change nothing, so nothing is copied
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials in the given states, in the order of their numbers."""
        return [trial for trial in self._read if states is None or trial.state in states]


@dataclass(frozen=True)
class Search:
    """The trials of a study and what their scores are called.

    A score is the first value of a trial, which most studies have no others beside.

    Attributes
    ----------
    directions, value_names
        How each value of a trial is judged, and what it is called.
    trials
        Every trial, in the order of their numbers.
    best
        The trial to speak of as the best one, which of a Pareto front is the one with the best
        score; None before one has finished that breaks no constraint.
    part_names
        Names of the parts that a trial is scored on, as far as they are known.
    front
        The Pareto front of a study with several objectives.
    """

    name: str
    directions: tuple[StudyDirection, ...]
    trials: tuple[FrozenTrial, ...]
    best: FrozenTrial | None
    value_names: tuple[str, ...]
    part_names: tuple[str, ...]
    front: Front | None = None

    @property
    def score_name(self) -> str:
        """What the score is."""
        return self.value_names[0]

    @property
    def minimises(self) -> bool:
        """Whether small scores are good."""
        return self.directions[0] == StudyDirection.MINIMIZE

    def of_value(self, objective: int) -> Search:
        """Return the same trials with one of their values as the only one."""
        one = replace(
            self,
            directions=(self.directions[objective],),
            value_names=(self.value_names[objective],),
            trials=tuple(slim(trial, objective) for trial in self.trials),
            front=None,
        )
        return replace(one, best=one.finished[0] if one.finished else None)

    @functools.cached_property
    def finished(self) -> list[FrozenTrial]:
        """The finished trials that break no constraint, best first."""
        done = [trial for trial in self._complete if is_feasible(trial)]
        sign = 1.0 if self.minimises else -1.0
        return sorted(done, key=lambda trial: (sign * score(trial), trial.number))

    @functools.cached_property
    def infeasible(self) -> list[FrozenTrial]:
        """The finished trials that break a constraint, in the order of their numbers."""
        return [trial for trial in self._complete if not is_feasible(trial)]

    @property
    def _complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @functools.cached_property
    def failed(self) -> list[FrozenTrial]:
        """The failed trials, in the order of their numbers."""
        return [trial for trial in self.trials if trial.state == TrialState.FAIL]

    @functools.cached_property
    def pruned(self) -> list[FrozenTrial]:
        """The trials that were ended early, in the order of their numbers."""
        return [trial for trial in self.trials if trial.state == TrialState.PRUNED]

    @functools.cached_property
    def params(self) -> list[str]:
        """Names of all parameters that finished trials have."""
        return sorted({name for trial in self.finished for name in trial.params})

    @functools.cached_property
    def in_parts(self) -> bool:
        """Whether trials were scored part by part; else they reported what their function did."""
        told = (trial for trial in self.trials if trial.intermediate_values)
        return any(part_key(0) in trial.user_attrs for trial in told)

    def part_name(self, part: int) -> str:
        """Return the name of a part, or its number if its name is not known any more."""
        return self.part_names[part] if part < len(self.part_names) else f"part {part}"

    def view(self, trials: Sequence[FrozenTrial]) -> TrialsView:
        """Return trials with their scores as Optuna's plots read them."""
        return TrialsView(self.name, self.directions[:1], map(slim, trials))

    def view_values(self) -> TrialsView:
        """Return the finished trials with all of their values."""
        return TrialsView(self.name, self.directions, self._complete)


def score(trial: FrozenTrial) -> float:
    """Return the score of a finished trial."""
    return float(trial.values[0])


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial breaks no constraint."""
    return all(violation <= 0 for violation in trial.constraints.values())


def slim(trial: FrozenTrial, objective: int = 0) -> FrozenTrial:
    """Return a copy with one value alone.

    It is without the attributes, which Optuna writes into every hover text, but for the constraints
    that it breaks: its plots draw such trials in grey, and where there are none need not say so.
    """
    found = FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=trial.values[objective] if trial.state == TrialState.COMPLETE else None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=dict(trial.params),
        distributions=trial.distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values=trial.intermediate_values,
        trial_id=trial.number,
    )
    for name, violation in trial.constraints.items():
        if violation > 0:
            found.set_constraint(name, violation)
    return found
