"""Ends trials early whose first parts say that they will not be the best.

After each part, the mean of a trial's part scores so far is compared with the means at the same
part of the trials that are complete. One that lies beyond a percentile of them is ended as PRUNED:
its unit of budget is spent, it has no score, and samplers learn from its parts. Until a number of
trials are complete, none is ended, so that there is always a best one.

A decision depends on nothing but stored scores. A worker that takes a trial over makes it anew,
after the last part that is stored.

A study may name a pruner of Optuna's instead. That is told what `trial.report` would have told it:
after part k (from 1 on) the mean of the first k part scores; WilcoxonPruner, which compares scores
of the same part, the scores themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.pruners import BasePruner, WilcoxonPruner
from optuna.trial import TrialState

from hpo.records import Claim
from hpo.storage.trial_reader import (
    Position,
    read_changes,
    read_finished_parts,
    read_position,
)
from hpo.study.search import make_optuna_pruner
from hpo.worker.trial_cache import Notes, TrialHistory, means_so_far

__all__ = ["CompleteParts", "OptunaPruner", "Pruner", "Rule", "make_optuna_pruner", "make_pruner"]

if TYPE_CHECKING:
    from hpo.objectives.protocol import Scores
    from hpo.spec.objectives import Direction
    from hpo.study.record import StudyRecord

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """When a trial is ended.

    Attributes
    ----------
    percentile
        Of the complete trials' means, between 0 and 100: what lies beyond it is ended.
    after
        After how many parts this is looked at first.
    startup_trials
        How many trials are complete before any is ended.
    maximises
        Whether large scores are good.
    """

    percentile: float
    after: int
    startup_trials: int
    maximises: bool

    def judge(self, parts: Sequence[float], complete: Floats) -> str:
        """Return why a trial is ended after these parts; "" if it goes on.

        Parameters
        ----------
        parts
            Its part scores so far.
        complete
            Array of shape (n_complete, n_parts): those of the complete trials.
        """
        done = len(parts)
        if done < self.after or len(complete) < self.startup_trials or done >= complete.shape[1]:
            return ""
        mean = float(np.mean(parts))
        level = 100.0 - self.percentile if self.maximises else self.percentile
        limit = float(np.percentile(complete[:, :done].mean(axis=1), level))
        if mean >= limit if self.maximises else mean <= limit:
            return ""
        side = "below" if self.maximises else "above"
        return (
            f"after {done} of {complete.shape[1]} parts the mean score {mean:.6g} is {side} "
            f"{limit:.6g}, percentile {level:g} of {len(complete)} complete trials"
        )


class CompleteParts:
    """Part scores of the complete trials of a study; what was read once is not read again."""

    def __init__(self, record: StudyRecord, n_parts: int) -> None:
        self._storage, self._study_id, self._n_parts = record.storage, record.study_id, n_parts
        self._scores = np.empty((0, n_parts))
        self._position: Position | None = None

    def read(self) -> Floats:
        """Return an array of shape (n_complete, n_parts)."""
        self._storage.patiently(self._update)
        return self._scores

    def _update(self) -> None:
        with self._storage.read() as c:
            found = self._position and read_changes(c, self._study_id, self._position)
            if found:
                changes, position = found
                ended = [row.trial_id for row in changes if row.state is TrialState.COMPLETE]
                new = read_finished_parts(c, self._study_id, self._n_parts, ended) if ended else ()
                scores = np.concatenate([self._scores, new]) if len(new) else self._scores
            else:
                position = read_position(c, self._study_id)
                scores = read_finished_parts(c, self._study_id, self._n_parts)
        self._position, self._scores = position, scores


class Pruner:
    """Judges the trials of one worker.

    Parameters
    ----------
    read
        Returns the part scores of the complete trials; called once for each trial in hand.
    """

    def __init__(self, rule: Rule, read: Callable[[], Floats]) -> None:
        self._rule, self._read = rule, read
        self._of: tuple[int, int] | None = None
        self._complete = np.empty((0, 0))

    def __call__(self, claim: Claim, parts: Sequence[Scores]) -> str:
        """Return why a trial is ended after these parts; "" if it goes on."""
        if len(parts) < self._rule.after:
            return ""
        if self._of != (claim.trial_id, claim.attempt):
            self._of, self._complete = (claim.trial_id, claim.attempt), self._read()
        return self._rule.judge([part["score"] for part in parts], self._complete)


class OptunaPruner:
    """Judges the trials of one worker by a pruner of Optuna's.

    Parameters
    ----------
    pruner
        Optuna's.
    notes
        Where it notes what is stored with the trial, as SuccessiveHalvingPruner does.
    """

    def __init__(self, record: StudyRecord, pruner: BasePruner, notes: Notes) -> None:
        self.pruner, self._storage = pruner, record.storage
        self._of_means = not isinstance(pruner, WilcoxonPruner)
        self._history = TrialHistory(
            record.storage,
            record.study_id,
            None,
            name=record.name,
            notes=notes,
            of_means=self._of_means,
        )

    def __call__(self, claim: Claim, parts: Sequence[Scores]) -> str:
        """Return why a trial is ended after these parts; "" if it goes on."""
        self._storage.patiently(self._history.update)
        scores = [part["score"] for part in parts]
        trial = self._history.snapshot(claim.number)
        trial.intermediate_values = (
            means_so_far(scores) if self._of_means else dict(enumerate(scores))
        )
        study = self._history.study
        study.pruner = self.pruner
        if not self.pruner.prune(study, trial):
            return ""
        return (
            f"after part {len(scores)} the mean score {float(np.mean(scores)):.6g} was not good "
            f"enough for {type(self.pruner).__name__}"
        )


class Judged(Protocol):
    """What the pruner asks of an objective."""

    @property
    def parts(self) -> Sequence[str]:
        """Names of the parts of a trial."""

    @property
    def direction(self) -> Direction:
        """Which scores are better."""


def make_pruner(
    record: StudyRecord, objective: Judged, notes: Notes
) -> Pruner | OptunaPruner | None:
    """Return what ends the trials of a study early; None if nothing does."""
    asked, n_parts = record.spec.pruned_by, len(objective.parts)
    if record.spec.pruner is not None and n_parts > 1:
        return OptunaPruner(record, make_optuna_pruner(record.spec.pruner), notes)
    if asked is None or n_parts <= asked.after:
        return None
    rule = Rule(
        asked.percentile, asked.after, asked.startup_trials, objective.direction == "maximize"
    )
    return Pruner(rule, CompleteParts(record, n_parts).read)
