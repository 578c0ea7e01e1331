"""Studies that Optuna alone made, which have trials and no study file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpo.storage.best import Front, read_directions, read_front, read_value_names
from hpo.storage.schema import TRIALS
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import read_trials
from hpo.study.record import find_id, read_plain_names
from hpo.study.status import read_best

PLAIN = "plain Optuna study"


@dataclass(frozen=True)
class PlainStatus:
    """A study of Optuna alone at one moment.

    Attributes
    ----------
    trials
        Number of trials by state, as Optuna calls it.
    objectives
        How many objectives it has; with several, no trial is the best.
    front
        The Pareto front, where there are several.
    """

    name: str
    trials: Mapping[str, int]
    objectives: int
    best_score: float | None
    best_trial: int | None
    front: Front | None = None
    state: str = PLAIN

    def as_dict(self) -> dict[str, Any]:
        """Return what `hpo status --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class PlainStudy:
    """A study of Optuna alone, with its trials in the order of their numbers.

    Attributes
    ----------
    best, front
        The best trial, and with several objectives the Pareto front; as of `StudySnapshot`.
    """

    name: str
    directions: tuple[StudyDirection, ...]
    value_names: tuple[str, ...]
    trials: tuple[FrozenTrial, ...]
    best: FrozenTrial | None
    front: Front | None


def read_plain(storage: StudyStorage, name: str) -> PlainStudy | None:
    """Read a study that Optuna alone made; None if there is none of that name."""
    with storage.read() as c:
        study_id = find_id(c, name)
        if study_id is None or name not in read_plain_names(c):
            return None
        directions = read_directions(c, study_id)
        trials = sorted(read_trials(c, study_id), key=lambda trial: trial.number)
        front = read_front(c, study_id) if len(directions) > 1 else None
        best = read_best(c, study_id, front)
        return PlainStudy(
            name,
            tuple(directions),
            read_value_names(c, study_id, len(directions)),
            tuple(trials),
            next((t for t in trials if best is not None and t.number == best.number), None),
            front,
        )


def list_plain(storage: StudyStorage) -> list[str]:
    """Return the names of the studies that Optuna alone made, oldest first."""
    with storage.read() as c:
        return read_plain_names(c)


def take_plain_status(storage: StudyStorage, name: str) -> PlainStatus | None:
    """Read the state of a study that Optuna alone made; None if there is none of that name."""
    with storage.read() as c:
        study_id = find_id(c, name)
        if study_id is None or name not in read_plain_names(c):
            return None
        objectives = len(read_directions(c, study_id))
        several = objectives > 1
        counted = sa.select(TRIALS.c.state, sa.func.count()).where(TRIALS.c.study_id == study_id)
        states = c.execute(counted.group_by(TRIALS.c.state))
        best = None if several else read_best(c, study_id)
        return PlainStatus(
            name=name,
            trials={state.name: number for state, number in states},
            objectives=objectives,
            best_score=None if best is None else best.score,
            best_trial=None if best is None else best.number,
            front=read_front(c, study_id) if several else None,
        )
