"""The tables of a study's database: Optuna's own, and those of this package beside them.

No other module imports the models of Optuna, which are not public.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _VersionManager
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import TrialState

OPTUNA_METADATA: sa.MetaData = models.BaseModel.metadata
OPTUNA_STUDIES: sa.Table = models.StudyModel.__table__
DIRECTIONS: sa.Table = models.StudyDirectionModel.__table__
SYSTEM_ATTRIBUTES: sa.Table = models.StudySystemAttributeModel.__table__
TRIALS: sa.Table = models.TrialModel.__table__
PARAMS: sa.Table = models.TrialParamModel.__table__
VALUES: sa.Table = models.TrialValueModel.__table__
PART_VALUES: sa.Table = models.TrialIntermediateValueModel.__table__
ATTRIBUTES: sa.Table = models.TrialUserAttributeModel.__table__
TRIAL_SYSTEM_ATTRIBUTES: sa.Table = models.TrialSystemAttributeModel.__table__

# System attributes of a trial that say by how much it breaks a constraint begin so.
CONSTRAINTS_KEY: str = _CONSTRAINTS_KEY

# What Optuna asks about its schema; only its migrations can answer.
VersionManager = _VersionManager

# How Optuna stores a number that SQL does not know, such as infinity: beside a kind.
store_value = models.TrialValueModel.value_to_stored_repr
value_of = models.TrialValueModel.stored_repr_to_value
store_part_value = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
part_value_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
ValueKind = models.TrialValueModel.TrialValueType
PartValueKind = models.TrialIntermediateValueModel.TrialIntermediateValueType


class TrialFields(NamedTuple):
    """What is read of a row of trials; times are naive and in UTC."""

    trial_id: int
    number: int
    state: TrialState
    datetime_start: datetime | None
    datetime_complete: datetime | None


class ValueFields(NamedTuple):
    """A score of a trial."""

    trial_id: int
    value: float | None
    value_type: ValueKind


class ParamFields(NamedTuple):
    """A parameter of a trial, as its distribution keeps it."""

    trial_id: int
    param_name: str
    param_value: float
    distribution_json: str


class PartValueFields(NamedTuple):
    """A value that a trial reported."""

    trial_id: int
    step: int
    intermediate_value: float | None
    intermediate_value_type: PartValueKind


class AttributeFields(NamedTuple):
    """An attribute of a trial; the value is JSON."""

    trial_id: int
    key: str
    value_json: str


# The attribute of a study that names its score; every study that is begun here has it.
METRIC_NAMES = "study:metric_names"

# Optuna's schema of today, as its own migrations name it.
SCHEMA_REVISION = "v3.2.0.a"

METADATA = sa.MetaData()

# One row per study: what it was begun with (JSON texts), and what is wanted of it now.
STUDIES = sa.Table(
    "hpo_studies",
    METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("budget", sa.Integer, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("table_path", sa.Text),
    sa.Column("provenance", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    # gently (no new trials) | now (trials are released); NULL while the study may go on.
    sa.Column("stop", sa.String(8)),
)

# One row per unit of budget that was ever claimed, beside Optuna's trial of the same id.
CLAIMS = sa.Table(
    "hpo_claims",
    METADATA,
    sa.Column("trial_id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    # open (claimed, or released and waiting for a worker) | finished | pruned | failed
    sa.Column("state", sa.String(16), nullable=False),
    # The fencing token: one more with every worker that takes the trial.
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False),
    # How many parts have a stored score.
    sa.Column("parts", sa.Integer, nullable=False),
    # Who holds it, or brought it to its end; NULL while it is free.
    sa.Column("worker_id", sa.String(128), index=True),
    # Seconds since the epoch, by the clock of the database.
    sa.Column("lease_until", sa.Float, nullable=False),
    # The budget is counted from this index alone.
    sa.Index("ix_hpo_claims_place", "study_id", "state", "worker_id"),
)

# One row per worker process: a job that SLURM runs again is another worker.
WORKERS = sa.Table(
    "hpo_workers",
    METADATA,
    sa.Column("worker_id", sa.String(128), primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("host", sa.String(256), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("outcome", sa.Text),
    # The SLURM cluster, its job (such as 12_3) and how often SLURM had restarted that; NULL
    # outside of SLURM.
    sa.Column("cluster", sa.String(64)),
    sa.Column("job", sa.String(64)),
    sa.Column("restarts", sa.Integer),
    sa.Column("log", sa.Text),
    # Where this worker's results come from: commit, packages, machine. A JSON object.
    sa.Column("provenance", sa.Text),
)

# What happened to a study and must not be forgotten: accepted changes, deaths, evaluations of the
# test set. `detail` is a JSON object.
EVENTS = sa.Table(
    "hpo_events",
    METADATA,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

# The ids of studies that were deleted. SQLite would give them out again, and a worker that does not
# know yet that its study is gone would take another one for it.
DELETED = sa.Table("hpo_deleted", METADATA, sa.Column("id", sa.Integer, primary_key=True))


def study_tables() -> list[sa.Table]:
    """Return the tables whose rows belong to studies, those that others refer to first."""
    tables = [*OPTUNA_METADATA.sorted_tables, *METADATA.sorted_tables]
    theirs = [table for table in tables if {"study_id", "trial_id"} & set(table.c.keys())]
    first = (OPTUNA_STUDIES, TRIALS)
    return [*first, *(table for table in theirs if table not in first)]


def unit_row(study_id: int, trial_id: int, number: int, **values: Any) -> dict[str, Any]:
    """Return a row of CLAIMS: free and never held, but for the values given."""
    row = {"trial_id": trial_id, "study_id": study_id, "number": number, "state": "open"}
    unheld = {"attempt": 0, "deaths": 0, "parts": 0, "worker_id": None, "lease_until": 0.0}
    return row | unheld | values
