"""Points that somebody wants tried: trials that wait with parameters given, as Optuna has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.storage.schema import CLAIMS, TRIAL_SYSTEM_ATTRIBUTES, TRIALS, unit_row
from hpo.storage.trial_writer import make_trial

# Where Optuna keeps what `Study.enqueue_trial` was given.
FIXED_KEY = "fixed_params"


def insert_points(
    c: sa.Connection, study_id: int, points: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Add a waiting trial for each point, and return their numbers; the study must be locked."""
    numbers = []
    for point in points:
        trial_id, number = make_trial(c, study_id, TrialState.WAITING)
        row = {"trial_id": trial_id, "key": FIXED_KEY, "value_json": json.dumps(dict(point))}
        c.execute(TRIAL_SYSTEM_ATTRIBUTES.insert().values(**row))
        c.execute(CLAIMS.insert().values(unit_row(study_id, trial_id, number)))
        numbers.append(number)
    return numbers


def insert_new_points(
    c: sa.Connection, study_id: int, points: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Add a waiting trial for each point that no trial was enqueued with; as `insert_points`."""
    if not points:
        return []
    table = TRIAL_SYSTEM_ATTRIBUTES
    query = (
        sa.select(table.c.value_json)
        .join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
        .where(TRIALS.c.study_id == study_id, table.c.key == FIXED_KEY)
    )
    known = {_as_key(json.loads(stored)) for stored in c.execute(query).scalars()}
    new = {key: point for point in points if (key := _as_key(point)) not in known}
    return insert_points(c, study_id, [*new.values()])


def _as_key(point: Mapping[str, Any]) -> str:
    return json.dumps(dict(point), sort_keys=True)


def adopt_waiting(c: sa.Connection, study_id: int) -> list[int]:
    """Let trials be claimed that Optuna or its dashboard enqueued, and return their numbers.

    The study must be locked.
    """
    found = read_unclaimed(c, study_id)
    for trial_id, number in found:
        c.execute(CLAIMS.insert().values(unit_row(study_id, trial_id, number)))
    return [number for _, number in found]


def read_unclaimed(c: sa.Connection, study_id: int) -> list[tuple[int, int]]:
    """Return id and number of waiting trials that nobody can claim yet, in one statement."""
    known = sa.select(CLAIMS.c.trial_id).where(CLAIMS.c.study_id == study_id)
    query = (
        sa.select(TRIALS.c.trial_id, TRIALS.c.number)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state == TrialState.WAITING,
            TRIALS.c.trial_id.not_in(known),
        )
        .order_by(TRIALS.c.number)
    )
    return [(int(trial_id), int(number)) for trial_id, number in c.execute(query)]


def read_point(c: sa.Connection, trial_id: int) -> dict[str, Any] | None:
    """Return the parameters that a trial was enqueued with; None if it was not."""
    table = TRIAL_SYSTEM_ATTRIBUTES
    query = sa.select(table.c.value_json).where(
        table.c.trial_id == trial_id, table.c.key == FIXED_KEY
    )
    stored = c.execute(query).scalar_one_or_none()
    point: dict[str, Any] | None = None if stored is None else json.loads(stored)
    return point
