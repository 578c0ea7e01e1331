"""Reads the trials of a study by plain SQL: all of them, or those that a condition names.

Optuna's own storage makes an object of every row, which takes ten times as long and as much memory.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.schema import (
    ATTRIBUTES,
    PARAMS,
    PART_VALUES,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIALS,
    VALUES,
    part_value_of,
    value_of,
)

# So many trials are in memory at once while all are read.
BATCH = 2000
Condition = sa.ColumnElement[bool]
read_distribution = functools.lru_cache(json_to_distribution)


class TrialRow(NamedTuple):
    """A trial without what other tables keep of it but its values.

    Attributes
    ----------
    started, completed
        Times in UTC; None where there is none.
    values
        One number per objective; empty where the trial has no score.
    """

    trial_id: int
    number: int
    state: TrialState
    started: datetime | None
    completed: datetime | None
    values: tuple[float, ...]


class Drawn(NamedTuple):
    """The parameters of a trial, in the order in which they were drawn."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]


def read_rows(
    c: sa.Connection, study_id: int, *where: Condition, limit: int | None = None
) -> list[TrialRow]:
    """Return trials of a study in the order of their ids.

    Parameters
    ----------
    where
        Conditions on columns of Optuna's table of trials.
    limit
        How many at most.
    """
    query = _of_study(sa.select(TRIALS), study_id, where).order_by(TRIALS.c.trial_id).limit(limit)
    found = c.execute(query).all()
    if not found:
        return []
    values = defaultdict(list)
    scored = (*where, _between(found[0].trial_id, found[-1].trial_id))
    for row in _belonging(c, VALUES, study_id, scored, VALUES.c.objective):
        values[row.trial_id].append(value_of(row.value, row.value_type))
    return [
        TrialRow(
            row.trial_id,
            row.number,
            row.state,
            _utc(row.datetime_start),
            _utc(row.datetime_complete),
            tuple(values.get(row.trial_id, ())),
        )
        for row in found
    ]


def read_params(c: sa.Connection, study_id: int, *where: Condition) -> Mapping[int, Drawn]:
    """Return the parameters of trials by their ids."""
    found: dict[int, Drawn] = defaultdict(lambda: Drawn({}, {}))
    for row in _belonging(c, PARAMS, study_id, where, PARAMS.c.param_id):
        distribution = read_distribution(row.distribution_json)
        drawn = found[row.trial_id]
        drawn.params[row.param_name] = distribution.to_external_repr(row.param_value)
        drawn.distributions[row.param_name] = distribution
    return found


def read_part_values(
    c: sa.Connection, study_id: int, *where: Condition
) -> Mapping[int, dict[int, float]]:
    """Return the values that trials reported, by ids and steps."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for row in _belonging(c, PART_VALUES, study_id, where, PART_VALUES.c.step):
        found[row.trial_id][row.step] = part_value_of(
            row.intermediate_value, row.intermediate_value_type
        )
    return found


def read_attributes(
    c: sa.Connection, study_id: int, *where: Condition, table: sa.Table = ATTRIBUTES
) -> Mapping[int, dict[str, Any]]:
    """Return the user attributes of trials by their ids, or those of another `table`."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for row in _belonging(c, table, study_id, where, table.c[f"{table.name[:-1]}_id"]):
        found[row.trial_id][row.key] = json.loads(row.value_json)
    return found


def read_trials(
    c: sa.Connection, study_id: int, *where: Condition, batch: int = BATCH
) -> Iterator[FrozenTrial]:
    """Return trials as Optuna has them, in the order of their ids, reading `batch` at a time."""
    last = -1
    while rows := read_rows(c, study_id, *where, TRIALS.c.trial_id > last, limit=batch):
        last = rows[-1].trial_id
        these = (*where, _between(rows[0].trial_id, last))
        drawn = read_params(c, study_id, *these)
        part_values = read_part_values(c, study_id, *these)
        user = read_attributes(c, study_id, *these)
        system = read_attributes(c, study_id, *these, table=TRIAL_SYSTEM_ATTRIBUTES)
        for row in rows:
            params, distributions = drawn[row.trial_id]
            yield FrozenTrial(
                trial_id=row.trial_id,
                number=row.number,
                state=row.state,
                value=None,
                values=list(row.values) or None,
                datetime_start=_local(row.started),
                datetime_complete=_local(row.completed),
                params=params,
                distributions=distributions,
                user_attrs=user[row.trial_id],
                system_attrs=system[row.trial_id],
                intermediate_values=part_values[row.trial_id],
            )


def _belonging(
    c: sa.Connection,
    table: sa.Table,
    study_id: int,
    where: tuple[Condition, ...],
    order: sa.ColumnElement[Any],
) -> Iterator[Any]:
    """Return the rows of a table that belong to trials, in a trial's own order."""
    joined = sa.select(table).join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
    yield from c.execute(_of_study(joined, study_id, where).order_by(order))


def _of_study(query: sa.Select[Any], study_id: int, where: tuple[Condition, ...]) -> sa.Select[Any]:
    return query.where(TRIALS.c.study_id == study_id, *where)


def _between(first: int, last: int) -> Condition:
    return TRIALS.c.trial_id.between(first, last)


def _utc(stored: datetime | None) -> datetime | None:
    return None if stored is None else stored.replace(tzinfo=UTC)


def _local(time: datetime | None) -> datetime | None:
    """Return a time as Optuna hands it out: local, without saying so."""
    return None if time is None else time.astimezone().replace(tzinfo=None)


# All of a study, value by value ------------------------------------------------------------------


def stream_params(c: sa.Connection, study_id: int) -> Iterator[tuple[int, str, Any]]:
    """Return a trial's id, name and value of every parameter, in the order of ids and draws."""
    for trial_id, name, value, distribution in _stream(
        c, study_id, PARAMS.c.param_id, "param_name", "param_value", "distribution_json"
    ):
        yield trial_id, name, read_distribution(distribution).to_external_repr(value)


def stream_attributes(c: sa.Connection, study_id: int) -> Iterator[tuple[int, str, Any]]:
    """Return a trial's id, name and value of every user attribute, in the order of ids."""
    order, read = ATTRIBUTES.c.trial_user_attribute_id, json.JSONDecoder().decode
    for trial_id, name, text in _stream(c, study_id, order, "key", "value_json"):
        yield trial_id, name, read(text)


def stream_part_values(c: sa.Connection, study_id: int) -> Iterator[tuple[int, int, float]]:
    """Return a trial's id, step and value of every value that was reported, in this order."""
    columns = ("step", "intermediate_value", "intermediate_value_type")
    for trial_id, step, value, kind in _stream(c, study_id, PART_VALUES.c.step, *columns):
        yield trial_id, step, part_value_of(value, kind)


def _stream(
    c: sa.Connection, study_id: int, order: sa.Column[Any], *names: str
) -> Iterator[tuple[Any, ...]]:
    """Return rows of a table, a trial's together, of which few are in memory at once."""
    table = order.table
    query: sa.Select[*tuple[Any, ...]] = (
        sa.select(table.c.trial_id, *(table.c[name] for name in names))
        .join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
        .where(TRIALS.c.study_id == study_id)
        .order_by(TRIALS.c.trial_id, order)
    )
    found = c.execute(query, execution_options={"yield_per": BATCH})
    for rows in found.partitions():
        yield from rows
