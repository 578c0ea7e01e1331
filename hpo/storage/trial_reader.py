"""Reads the trials of a study by plain SQL: all, those that a condition names, or what has changed.

Optuna's own storage makes an object of every row, which takes ten times as long and as much memory.
Whoever follows a study keeps its `Position`: the trials that had not ended, by id, and the last id.
What has changed since costs as much as there are open and new trials, whichever is the oldest one.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.schema import (
    ATTRIBUTES,
    CLAIMS,
    PARAMS,
    PART_VALUES,
    SYSTEM_ATTRIBUTES,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIALS,
    VALUES,
    AttributeFields,
    ParamFields,
    PartValueFields,
    PartValueKind,
    TrialFields,
    ValueFields,
    part_value_of,
    value_of,
)

# So many trials are in memory at once while all are read.
BATCH = 2000
Condition = sa.ColumnElement[bool]
_OPEN = (TrialState.RUNNING, TrialState.WAITING)
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


_Row = TypeVar("_Row", bound=NamedTuple)


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
    query = _of_study(_select(TrialFields, TRIALS), study_id, where)
    ordered = query.order_by(TRIALS.c.trial_id).limit(limit)
    found = [TrialFields._make(row) for row in c.execute(ordered)]
    if not found:
        return []
    values = defaultdict(list)
    scored = (*where, _between(found[0].trial_id, found[-1].trial_id))
    for row in _belonging(c, ValueFields, study_id, scored, VALUES.c.objective):
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
    for row in _belonging(c, ParamFields, study_id, where, PARAMS.c.param_id):
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
    for row in _belonging(c, PartValueFields, study_id, where, PART_VALUES.c.step):
        found[row.trial_id][row.step] = part_value_of(
            row.intermediate_value, row.intermediate_value_type
        )
    return found


def read_attributes(
    c: sa.Connection, study_id: int, *where: Condition, table: sa.Table = ATTRIBUTES
) -> Mapping[int, dict[str, Any]]:
    """Return the user attributes of trials by their ids, or those of another `table`."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    order = table.c[f"{table.name[:-1]}_id"]
    for row in _belonging(c, AttributeFields, study_id, where, order):
        found[row.trial_id][row.key] = json.loads(row.value_json)
    return found


def read_study_attributes(c: sa.Connection, study_id: int) -> dict[str, str]:
    """Return the system attributes of a study, each as its JSON text."""
    query = sa.select(SYSTEM_ATTRIBUTES.c.key, SYSTEM_ATTRIBUTES.c.value_json)
    rows = c.execute(query.where(SYSTEM_ATTRIBUTES.c.study_id == study_id))
    return {row.key: row.value_json for row in rows}


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


class TrialChange(NamedTuple):
    """A trial that is new, or had not ended when it was read last.

    Attributes
    ----------
    values
        One number per objective; empty where it has no score.
    n_params, n_part_values, n_attributes
        How many parameters, reported values and system attributes are stored of it.
    """

    trial_id: int
    number: int
    state: TrialState
    values: tuple[float, ...]
    n_params: int
    n_part_values: int
    n_attributes: int


class Mark(NamedTuple):
    """A moment of a PostgreSQL server, to look back at.

    Attributes
    ----------
    transaction
        No transaction of this number or a higher one had ended.
    last_id, n_trials
        The last trial that was seen, and how many were seen that can have been preceded by others.
    """

    transaction: int
    last_id: int
    n_trials: int


class Position(NamedTuple):
    """Up to where the trials of a study are known.

    Attributes
    ----------
    open_ids
        Trials that had not ended.
    last_id
        The last trial; 0 where there was none.
    settled_id
        Nothing can appear any more up to this id.
    n_unsettled
        How many trials are known beyond it.
    mark
        When all transactions from before it have ended, its last trial is settled. None on SQLite,
        where one transaction writes at a time and everything is settled at once.
    """

    open_ids: frozenset[int]
    last_id: int
    settled_id: int = 0
    n_unsettled: int = 0
    mark: Mark | None = None


def read_position(c: sa.Connection, study_id: int) -> Position:
    """Return the position of somebody who knows all trials that there are now."""
    mine = TRIALS.c.study_id == study_id
    opened = c.execute(sa.select(TRIALS.c.trial_id).where(mine, TRIALS.c.state.in_(_OPEN)))
    position = Position(frozenset(opened.scalars()), 0)
    query = sa.select(sa.func.coalesce(sa.func.max(TRIALS.c.trial_id), 0), sa.func.count())
    last_id, n_trials = c.execute(query.where(mine)).one()
    position = position._replace(last_id=last_id, n_unsettled=n_trials)
    if c.dialect.name == "sqlite":
        return position
    _, transaction = c.execute(sa.select(_OLDEST, _NEXT)).one()
    return position._replace(mark=Mark(transaction, last_id, n_trials))


def read_changes(
    c: sa.Connection, study_id: int, position: Position
) -> tuple[list[TrialChange], Position] | None:
    """Return what may have changed since a position, in the order of ids, and the new position.

    Returns
    -------
    tuple or None
        None if a trial has appeared whose id is lower than the last one that was seen, and
        everything must be read anew. Neither `Ledger` nor Optuna lets that happen, since both make
        trials one at a time under a lock on the study's row; on PostgreSQL, ids are given out
        before they are committed, and other programs may take no lock.
    """
    told = {"its_study": study_id, "open_ids": sorted(position.open_ids)}
    changes = _read_changes(c, _select_changed(), told | {"last_id": position.last_id})
    new = [change.trial_id for change in changes if change.trial_id > position.last_id]
    position = position._replace(
        open_ids=frozenset(change.trial_id for change in changes if change.state in _OPEN),
        last_id=max(new, default=position.last_id),
        n_unsettled=position.n_unsettled + len(new),
    )
    settled = position if position.mark is None else _settle(c, study_id, position, position.mark)
    return None if settled is None else (changes, settled)


def read_as_changed(
    c: sa.Connection, study_id: int, trial_ids: Collection[int] | None
) -> list[TrialChange]:
    """Return some trials as if they had changed, or all of them, in the order of ids."""
    which = sa.true() if trial_ids is None else trials_among(trial_ids)
    return _read_changes(c, _changes(which), {"its_study": study_id})


def read_latest_ids(c: sa.Connection, study_id: int, n: int) -> list[int]:
    """Return the ids of the n trials of the highest numbers that have ended, the last one first."""
    query = sa.select(TRIALS.c.trial_id).where(TRIALS.c.state.not_in(_OPEN))
    ordered = query.order_by(TRIALS.c.number.desc(), TRIALS.c.trial_id.desc()).limit(n)
    return list(c.execute(_of_study(ordered, study_id, ())).scalars())


def read_finished_parts(
    c: sa.Connection, study_id: int, n_parts: int, trial_ids: Collection[int] | None = None
) -> NDArray[np.float64]:
    """Return the part scores of finished units of budget, those that have a score of every part.

    Parameters
    ----------
    trial_ids
        Which ones; all of the study without it.

    Returns
    -------
    Array of shape (n_units, n_parts), in the order of the trials' ids.
    """
    which = (
        CLAIMS.c.study_id == study_id
        if trial_ids is None
        else CLAIMS.c.trial_id.in_(_listed(trial_ids))
    )
    query = (
        sa.select(PART_VALUES.c.trial_id, PART_VALUES.c.step, PART_VALUES.c.intermediate_value)
        .join(CLAIMS, CLAIMS.c.trial_id == PART_VALUES.c.trial_id)
        .where(which, CLAIMS.c.state == "finished")
    )
    # Numbers of a long study take less memory than its rows.
    rows = c.execute(query.execution_options(yield_per=BATCH))
    cells = np.fromiter(itertools.chain.from_iterable(rows), np.float64).reshape(-1, 3)
    cells = cells[np.lexsort((cells[:, 1], cells[:, 0]))]
    _, first, counts = np.unique(cells[:, 0], return_index=True, return_counts=True)
    scores: NDArray[np.float64] = cells[first[counts == n_parts, None] + np.arange(n_parts), 2]
    return scores


def trials_among(trial_ids: Collection[int]) -> Condition:
    """Return the condition that a trial is one of these, however many they are."""
    return TRIALS.c.trial_id.in_(_listed(trial_ids))


# The number of the oldest transaction that goes on, and one above all that have ended.
_SNAPSHOT = sa.func.txid_current_snapshot()
_OLDEST = sa.func.txid_snapshot_xmin(_SNAPSHOT, type_=sa.BigInteger)
_NEXT = sa.func.txid_snapshot_xmax(_SNAPSHOT, type_=sa.BigInteger)


def _settle(c: sa.Connection, study_id: int, position: Position, mark: Mark) -> Position | None:
    """Look back, once whatever was under way has ended; None if a trial has appeared since."""
    between = TRIALS.c.trial_id.between(position.settled_id + 1, mark.last_id)
    count = sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id, between)
    row = sa.select(_OLDEST, _NEXT, count.select_from(TRIALS).scalar_subquery())
    oldest, transaction, n_trials = c.execute(row).one()
    if oldest < mark.transaction:
        return position
    if n_trials != mark.n_trials:
        return None
    left = position.n_unsettled - n_trials
    return position._replace(
        settled_id=mark.last_id,
        n_unsettled=left,
        mark=Mark(transaction, position.last_id, left),
    )


def _read_changes(
    c: sa.Connection, query: sa.Executable, told: Mapping[str, Any]
) -> list[TrialChange]:
    found: dict[int, tuple[Any, dict[int, float]]] = {}
    for trial_id, number, state, objective, value, kind, *counts in c.execute(query, told):
        _, values = found.setdefault(trial_id, ((number, state, counts), {}))
        if kind is not None:
            values[objective] = value_of(value, kind)
    return [
        TrialChange(trial_id, number, state, tuple(values[at] for at in sorted(values)), *counts)
        for trial_id, ((number, state, counts), values) in sorted(found.items())
    ]


# To make a statement takes several times as long as to execute it.
@functools.cache
def _select_changed() -> sa.CompoundSelect[Any]:
    """Select the trials `open_ids` of the study `its_study`, and those after `last_id`."""
    open_ids: sa.BindParameter[int] = sa.bindparam("open_ids", expanding=True, literal_execute=True)
    new = TRIALS.c.trial_id > sa.bindparam("last_id")
    return sa.union_all(_changes(TRIALS.c.trial_id.in_(open_ids)), _changes(new))


def _changes(which: Condition) -> sa.Select[Any]:
    def count(table: sa.Table) -> sa.ScalarSelect[int]:
        its = table.c.trial_id == TRIALS.c.trial_id
        return sa.select(sa.func.count()).select_from(table).where(its).scalar_subquery()

    query = sa.select(
        TRIALS.c.trial_id,
        TRIALS.c.number,
        TRIALS.c.state,
        VALUES.c.objective,
        VALUES.c.value,
        VALUES.c.value_type,
        count(PARAMS),
        count(PART_VALUES),
        count(TRIAL_SYSTEM_ATTRIBUTES),
    ).outerjoin(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
    return query.where(TRIALS.c.study_id == sa.bindparam("its_study"), which)


def _listed(trial_ids: Collection[int]) -> sa.BindParameter[Collection[int]]:
    # As text: databases allow only so many parameters.
    return sa.bindparam(None, sorted(trial_ids), expanding=True, literal_execute=True)


def _belonging(
    c: sa.Connection,
    kind: type[_Row],
    study_id: int,
    where: tuple[Condition, ...],
    order: sa.Column[Any],
) -> Iterator[_Row]:
    """Return the rows of a table that belong to trials, in a trial's own order."""
    query = _select_belonging(kind, order, study_id, where).order_by(order)
    return map(kind._make, c.execute(query))


def _select_belonging(
    kind: type[NamedTuple], order: sa.Column[Any], study_id: int, where: tuple[Condition, ...]
) -> sa.Select[Any]:
    query = _select(kind, order.table)
    joined = query.join(TRIALS, TRIALS.c.trial_id == order.table.c.trial_id)
    return _of_study(joined, study_id, where)


def _select(kind: type[NamedTuple], table: sa.FromClause) -> sa.Select[Any]:
    """Select the columns that a row is made of."""
    return sa.select(*(table.c[name] for name in kind._fields))


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
    rows: Iterator[tuple[int, str, float, str]]
    rows = _stream(c, ParamFields, study_id, PARAMS.c.param_id)
    for trial_id, name, value, distribution in rows:
        yield trial_id, name, read_distribution(distribution).to_external_repr(value)


def stream_attributes(c: sa.Connection, study_id: int) -> Iterator[tuple[int, str, Any]]:
    """Return a trial's id, name and value of every user attribute, in the order of ids."""
    rows: Iterator[tuple[int, str, str]]
    rows = _stream(c, AttributeFields, study_id, ATTRIBUTES.c.trial_user_attribute_id)
    read = json.JSONDecoder().decode
    for trial_id, name, text in rows:
        yield trial_id, name, read(text)


def stream_part_values(c: sa.Connection, study_id: int) -> Iterator[tuple[int, int, float]]:
    """Return a trial's id, step and value of every value that was reported, in this order."""
    rows: Iterator[tuple[int, int, float | None, PartValueKind]]
    rows = _stream(c, PartValueFields, study_id, PART_VALUES.c.step)
    for trial_id, step, value, kind in rows:
        yield trial_id, step, part_value_of(value, kind)


def _stream(
    c: sa.Connection, kind: type[NamedTuple], study_id: int, order: sa.Column[Any]
) -> Iterator[Any]:
    """Return rows of a table, a trial's together, of which few are in memory at once."""
    # Tuples with the fields of `kind`, but not made into one, which takes a third longer.
    query = _select_belonging(kind, order, study_id, ()).order_by(TRIALS.c.trial_id, order)
    found = c.execute(query, execution_options={"yield_per": BATCH})
    for rows in found.partitions():
        yield from rows
