"""The best trials of a study: by their score, or by several values the Pareto front.

A trial that breaks a constraint is none of them. The only file that imports how Optuna finds a
front and its hypervolume, which is not public.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike, NDArray
from optuna._hypervolume import compute_hypervolume
from optuna.study import StudyDirection
from optuna.study._multi_objective import _is_pareto_front
from optuna.trial import TrialState

from hpo.storage.schema import (
    CONSTRAINTS_KEY,
    DIRECTIONS,
    METRIC_NAMES,
    SYSTEM_ATTRIBUTES,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIALS,
    VALUES,
    store_value,
)
from hpo.storage.trial_reader import read_rows, trials_among

_COMPLETE = TRIALS.c.state == TrialState.COMPLETE


@dataclass(frozen=True)
class Front:
    """The trials of a study that no other one is better than in every value, or as good.

    Attributes
    ----------
    numbers, trial_ids
        Of the trials, the one with the best first value first.
    value_names, values
        What the values are; and those of each trial.
    reference_point
        The worst of each value among all trials that count.
    hypervolume
        What lies between the front and the reference point, in the product of the values' units;
        the larger, the better.
    """

    numbers: tuple[int, ...]
    trial_ids: tuple[int, ...]
    value_names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    reference_point: tuple[float, ...]
    hypervolume: float


def read_directions(c: sa.Connection, study_id: int) -> list[StudyDirection]:
    """Return the direction of every objective of a study."""
    query = sa.select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == study_id)
    return list(c.execute(query.order_by(DIRECTIONS.c.objective)).scalars())


def read_value_names(c: sa.Connection, study_id: int, n: int) -> tuple[str, ...]:
    """Return what the values are called, as `Study.set_metric_names` stores it."""
    names = c.execute(
        sa.select(SYSTEM_ATTRIBUTES.c.value_json).where(
            SYSTEM_ATTRIBUTES.c.study_id == study_id, SYSTEM_ATTRIBUTES.c.key == METRIC_NAMES
        )
    ).scalar_one_or_none()
    if names is not None:
        return tuple(map(str, json.loads(names)))
    return ("score",) if n == 1 else tuple(f"value {k}" for k in range(n))


def read_best_ids(c: sa.Connection, study_id: int, n: int, *, maximise: bool) -> list[int]:
    """Return the ids of the n complete trials of the best scores, older ones first among equals."""
    score = sa.case(
        *((VALUES.c.value_type == store_value(at)[1], at) for at in (math.inf, -math.inf)),
        else_=VALUES.c.value,
    )
    ordered = (
        sa.select(TRIALS.c.trial_id)
        .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, _COMPLETE)
        .order_by(score.desc() if maximise else score, TRIALS.c.number, TRIALS.c.trial_id)
    )
    best = list(c.execute(ordered.limit(n)).scalars())
    if not read_violating_ids(c, study_id, best):
        return best
    violating = read_violating_ids(c, study_id)
    return [found for found in c.execute(ordered).scalars() if found not in violating][:n]


def read_best_trials(c: sa.Connection, study_id: int, n: int = 1) -> Sequence[int]:
    """Return the ids of the n best trials, or of those on the Pareto front; the best first."""
    directions = read_directions(c, study_id)
    if len(directions) > 1:
        front = read_front(c, study_id)
        return front.trial_ids if front else ()
    return read_best_ids(c, study_id, n, maximise=directions[0] is StudyDirection.MAXIMIZE)


def read_violating_ids(
    c: sa.Connection, study_id: int, among: Collection[int] | None = None
) -> set[int]:
    """Return the ids of trials that break a constraint."""
    found = read_constraints(c, study_id, among)
    return {trial_id for trial_id, broken in found.items() if any(by > 0 for by in broken.values())}


def read_constraints(
    c: sa.Connection, study_id: int, among: Collection[int] | None = None
) -> Mapping[int, dict[str, float]]:
    """Return by how much trials break each constraint, by its name: 0 and less is none.

    Trials that have none are left out.
    """
    table = TRIAL_SYSTEM_ATTRIBUTES
    named = table.c.key.startswith(f"{CONSTRAINTS_KEY}:")
    query = (
        sa.select(table.c.trial_id, table.c.key, table.c.value_json)
        .join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
        .where(TRIALS.c.study_id == study_id, named | (table.c.key == CONSTRAINTS_KEY))
        .order_by(table.c.trial_id, table.c.trial_system_attribute_id)
    )
    if among is not None:
        query = query.where(trials_among(among))
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for trial_id, key, text in c.execute(query):
        stored = json.loads(text)
        if key == CONSTRAINTS_KEY:
            # As Optuna stored them before its version 5: all of a trial in one list.
            found[trial_id].update({str(k): by for k, by in enumerate(stored or ())})
        else:
            found[trial_id][key.removeprefix(f"{CONSTRAINTS_KEY}:")] = stored
    return found


def read_front(c: sa.Connection, study_id: int) -> Front | None:
    """Return the Pareto front of a study; None before a trial is complete that counts."""
    directions = read_directions(c, study_id)
    violating = read_violating_ids(c, study_id)
    rows = [r for r in read_rows(c, study_id, _COMPLETE) if r.trial_id not in violating]
    rows = [row for row in rows if len(row.values) == len(directions)]
    if not rows:
        return None
    values = np.array([row.values for row in rows])
    found = [rows[place] for place in front_places(values, directions)]
    reference_point = worst(values, directions)
    return Front(
        tuple(row.number for row in found),
        tuple(row.trial_id for row in found),
        read_value_names(c, study_id, len(directions)),
        tuple(row.values for row in found),
        tuple(reference_point.tolist()),
        hypervolume([row.values for row in found], reference_point, directions),
    )


def front_places(values: NDArray[np.float64], directions: Sequence[StudyDirection]) -> list[int]:
    """Return the places of the rows that none dominates, the best in the first value first.

    Parameters
    ----------
    values
        Array of shape (n_trials, n_objectives), none of them undefined.
    """
    losses = _losses(values, directions)
    places = np.flatnonzero(_is_pareto_front(losses, assume_unique_lexsorted=False))
    return sorted(places.tolist(), key=lambda place: (*losses[place], place))


def worst(values: NDArray[np.float64], directions: Sequence[StudyDirection]) -> NDArray[np.float64]:
    """Return the worst finite value of each objective; shapes (n_trials, m) and (m,)."""
    losses = _losses(values, directions)
    highest = np.max(losses, axis=0, where=np.isfinite(losses), initial=-math.inf)
    return np.asarray(highest * _signs(directions))


def hypervolume(
    values: ArrayLike, reference_point: ArrayLike, directions: Sequence[StudyDirection]
) -> float:
    """Return the hypervolume that trials dominate, up to a reference point.

    Trials beyond it, or with an infinite value, count nothing (Zitzler & Thiele, IEEE Trans. Evol.
    Comput. 3, 257 (1999)).

    Parameters
    ----------
    values, reference_point
        Arrays of shape (n_trials, n_objectives) and (n_objectives,).
    """
    losses = _losses(np.asarray(values, dtype=np.float64), directions)
    reference = np.asarray(reference_point, dtype=np.float64) * _signs(directions)
    within = losses[((losses <= reference) & np.isfinite(losses)).all(axis=1)]
    return float(compute_hypervolume(within, reference)) if len(within) else 0.0


def _losses(
    values: NDArray[np.float64], directions: Sequence[StudyDirection]
) -> NDArray[np.float64]:
    return values * _signs(directions)


def _signs(directions: Sequence[StudyDirection]) -> NDArray[np.float64]:
    return np.array([-1.0 if one is StudyDirection.MAXIMIZE else 1.0 for one in directions])
