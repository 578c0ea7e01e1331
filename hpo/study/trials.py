"""The trials of a study, read from its storage once, for everything that looks back at them."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.records import part_key


class TrialsView(optuna.Study):
    """Some trials, for Optuna's plots, which would read the storage again for every figure."""

    def __init__(self, name: str, direction: StudyDirection, trials: Iterable[FrozenTrial]) -> None:
        storage = InMemoryStorage()
        storage.create_new_study([direction], name)
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

    Attributes
    ----------
    trials
        Every trial, in the order of their numbers.
    best
        The trial to speak of as the best one; None before the first has finished.
    part_names
        Names of the parts that a trial is scored on, as far as they are known.
    """

    name: str
    direction: StudyDirection
    trials: tuple[FrozenTrial, ...]
    best: FrozenTrial | None
    score_name: str
    part_names: tuple[str, ...]

    @property
    def minimises(self) -> bool:
        """Whether small scores are good."""
        return self.direction == StudyDirection.MINIMIZE

    @functools.cached_property
    def finished(self) -> list[FrozenTrial]:
        """The finished trials that have a score, best first."""
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        sign = 1.0 if self.minimises else -1.0
        return sorted(done, key=lambda trial: (sign * score(trial), trial.number))

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
        """Return trials as Optuna's plots read them."""
        return TrialsView(self.name, self.direction, map(slim, trials))


def score(trial: FrozenTrial) -> float:
    """Return the score of a finished trial."""
    assert trial.value is not None
    return trial.value


def slim(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy without the attributes, which Optuna writes into every hover text."""
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=dict(trial.params),
        distributions=trial.distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values=trial.intermediate_values,
        trial_id=trial.number,
    )
