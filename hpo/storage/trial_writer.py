"""Writes trials into Optuna's own tables, within a transaction of the ledger's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState

from hpo.records import FAILURE_KEY, Parts, ResolvedTrial, TrialWrites, Unsaved, part_key
from hpo.storage.schema import (
    ATTRIBUTES,
    PARAMS,
    PART_VALUES,
    SYSTEM_ATTRIBUTES,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIALS,
    VALUES,
    store_part_value,
    store_value,
)
from hpo.storage.storage import StudyStorage
from hpo.wording import one_line

# To make a statement takes several times as long as to execute it: these are made once.
_STATE = sa.bindparam("its_state", type_=TRIALS.c.state.type)
_AT = sa.bindparam("at", type_=TRIALS.c.datetime_start.type)
_STUDY = sa.bindparam("its_study", type_=TRIALS.c.study_id.type)
_LAST = (
    sa.select(TRIALS.c.number)
    .where(TRIALS.c.study_id == _STUDY)
    .order_by(TRIALS.c.trial_id.desc())
    .limit(1)
    .scalar_subquery()
)
_MAKE = (
    TRIALS.insert()
    .from_select(
        ["number", "study_id", "state", "datetime_start"],
        sa.select(sa.func.coalesce(_LAST, -1) + 1, _STUDY, _STATE, _AT),
    )
    .returning(TRIALS.c.trial_id, TRIALS.c.number)
)
_ITS = TRIALS.update().where(TRIALS.c.trial_id == sa.bindparam("its_id"))
_SET_STATE = _ITS.values(state=_STATE)
_BEGIN = _ITS.values(state=_STATE, datetime_start=sa.func.coalesce(TRIALS.c.datetime_start, _AT))
_END = _ITS.values(state=_STATE, datetime_complete=_AT)


def make_trial(
    c: sa.Connection, study_id: int, state: TrialState = TrialState.RUNNING
) -> tuple[int, int]:
    """Make a trial, and return its id and number; the study must be locked."""
    began = None if state is TrialState.WAITING else _utc_now()
    row = {"its_study": study_id, "its_state": state, "at": began}
    trial_id, number = c.execute(_MAKE, row).one()
    return trial_id, number


def set_state(c: sa.Connection, trial_id: int, state: TrialState) -> None:
    """Set the state of a trial that goes on."""
    c.execute(_SET_STATE, {"its_id": trial_id, "its_state": state})


def begin_trial(c: sa.Connection, trial_id: int) -> None:
    """Let a trial be RUNNING; one that was worked on before has begun then."""
    c.execute(_BEGIN, {"its_id": trial_id, "its_state": TrialState.RUNNING, "at": _utc_now()})


def end_trial(c: sa.Connection, trial_id: int, state: TrialState) -> None:
    """Set the state of a trial that is at its end."""
    c.execute(_END, {"its_id": trial_id, "its_state": state, "at": _utc_now()})


def end_failed(c: sa.Connection, trial_id: int, reason: str) -> None:
    """End a trial as FAIL, with the reason, which may be somebody else's text."""
    _insert_attributes(c, trial_id, {FAILURE_KEY: one_line(reason)})
    end_trial(c, trial_id, TrialState.FAIL)


def insert_values(c: sa.Connection, trial_id: int, values: Sequence[float]) -> None:
    """Store the values of a trial, one for each objective."""
    rows = []
    for objective, number in enumerate(values):
        value, kind = store_value(number)
        row = {"objective": objective, "value": value, "value_type": kind}
        rows.append({"trial_id": trial_id, **row})
    if rows:
        c.execute(VALUES.insert(), rows)


def insert_params(
    c: sa.Connection,
    storage: StudyStorage,
    trial_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Store parameters of a trial; what an earlier call stored, whose answer was lost, stays."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in params.items()
    ]
    c.execute(storage.insert_new(PARAMS), rows)


def insert_parts(
    c: sa.Connection,
    trial_id: int,
    parts: Parts,
    summary: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Store scores of parts, and with them a summary of the trial."""
    if parts:
        c.execute(PART_VALUES.insert(), [_part_row(trial_id, *part) for part in parts.items()])
    attributes = {part_key(part): finite(scores) for part, scores in parts.items()}
    if attributes or summary:
        _insert_attributes(c, trial_id, {**attributes, **summary})


def store(c: sa.Connection, storage: StudyStorage, trial_id: int, unsaved: Unsaved) -> None:
    """Store what is known of a trial; an attribute takes the place of an earlier one."""
    if not isinstance(unsaved, TrialWrites):
        insert_parts(c, trial_id, unsaved)
        return
    if unsaved.params:
        insert_params(c, storage, trial_id, unsaved.params, unsaved.distributions)
    if unsaved.reports:
        rows = [_report_row(trial_id, *report) for report in unsaved.reports.items()]
        c.execute(storage.insert_new(PART_VALUES), rows)
    for table, attributes in (
        (ATTRIBUTES, unsaved.user_attrs),
        (TRIAL_SYSTEM_ATTRIBUTES, unsaved.system_attrs),
    ):
        if attributes:
            _replace_attributes(c, storage, table, trial_id, attributes)


def settle(
    c: sa.Connection,
    storage: StudyStorage,
    trial_id: int,
    settled: ResolvedTrial,
    n_stored: int,
) -> None:
    """Store what was found when all parts were scored, in the parts that are stored, too."""
    if settled.params:
        insert_params(c, storage, trial_id, settled.params, settled.distributions)
    for part, scores in enumerate(settled.parts[:n_stored]):
        c.execute(
            PART_VALUES.update()
            .where(PART_VALUES.c.trial_id == trial_id, PART_VALUES.c.step == part)
            .values(intermediate_value=scores["score"])
        )
        c.execute(
            ATTRIBUTES.update()
            .where(ATTRIBUTES.c.trial_id == trial_id, ATTRIBUTES.c.key == part_key(part))
            .values(value_json=json.dumps(finite(scores)))
        )


def set_system_attributes(
    c: sa.Connection, storage: StudyStorage, trial_id: int, attributes: Mapping[str, Any]
) -> None:
    """Store system attributes of a trial, over those of the same name."""
    _replace_attributes(c, storage, TRIAL_SYSTEM_ATTRIBUTES, trial_id, attributes)


def replace_study_attribute(
    c: sa.Connection, storage: StudyStorage, study_id: int, key: str, before: str | None, now: str
) -> bool:
    """Store a system attribute of a study in place of the text that somebody has read.

    Returns
    -------
    bool
        False if it is another text by now, or there is one where there was none.
    """
    table = SYSTEM_ATTRIBUTES
    if before is None:
        row = {"study_id": study_id, "key": key, "value_json": now}
        new = storage.insert_new(table).values(**row).returning(table.c.key)
        return c.execute(new).one_or_none() is not None
    mine = (table.c.study_id == study_id, table.c.key == key, table.c.value_json == before)
    return c.execute(table.update().where(*mine).values(value_json=now)).rowcount == 1


def finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores as JSON can hold them: an undefined one as null, a text as it is."""
    return {
        name: value if isinstance(value, str) or math.isfinite(value) else None
        for name, value in scores.items()
    }


def _insert_attributes(c: sa.Connection, trial_id: int, attributes: Mapping[str, Any]) -> None:
    c.execute(ATTRIBUTES.insert(), _attribute_rows(trial_id, attributes))


def _replace_attributes(
    c: sa.Connection,
    storage: StudyStorage,
    table: sa.Table,
    trial_id: int,
    attributes: Mapping[str, Any],
) -> None:
    insertion = storage.upsert(table, ("trial_id", "key"), "value_json")
    c.execute(insertion, _attribute_rows(trial_id, attributes))


def _attribute_rows(trial_id: int, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]


def _part_row(trial_id: int, part: int, scores: Mapping[str, float]) -> dict[str, Any]:
    return _report_row(trial_id, part, scores["score"])


def _report_row(trial_id: int, step: int, reported: float) -> dict[str, Any]:
    value, kind = store_part_value(reported)
    return {
        "trial_id": trial_id,
        "step": step,
        "intermediate_value": value,
        "intermediate_value_type": kind,
    }


def _utc_now() -> datetime:
    # Optuna stores naive UTC.
    return datetime.now(UTC).replace(tzinfo=None)
