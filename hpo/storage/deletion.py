"""Deletion of studies: by this package, by Optuna or by its dashboard, none leaves rows behind.

Optuna deletes its own rows alone, and SQLite gives the ids of deleted rows out again. Triggers of
the database delete our rows together with Optuna's, whoever deletes. A database that is older may
hold rows of studies that are gone: these are removed when the triggers are made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from hpo.storage.schema import (
    CLAIMS,
    DELETED,
    METADATA,
    METRIC_NAMES,
    OPTUNA_STUDIES,
    STUDIES,
    SYSTEM_ATTRIBUTES,
    TRIALS,
    study_tables,
)
from hpo.storage.storage import StudyStorage

_TRIAL_TRIGGER, _STUDY_TRIGGER = "hpo_trial_deleted", "hpo_study_deleted"


def follow_deletions(storage: StudyStorage) -> None:
    """Let the database delete our rows of a study together with Optuna's, from now on."""
    is_sqlite = storage.engine.dialect.name == "sqlite"
    there = (
        f"SELECT count(*) FROM sqlite_master WHERE name IN ('{STUDIES.name}', '{_STUDY_TRIGGER}')"
        if is_sqlite
        else f"SELECT (to_regclass('{STUDIES.name}') IS NOT NULL)::int + count(*) FROM pg_trigger "
        f"WHERE tgname = '{_STUDY_TRIGGER}' AND tgrelid = to_regclass('{OPTUNA_STUDIES.name}')"
    )
    with storage.read() as c:
        # Of tables without triggers: to make these again would wait for all that is written.
        if c.exec_driver_sql(there).scalar_one() != 1:
            return
    try:
        with storage.write() as c:
            DELETED.create(c, checkfirst=True)
            for statement in _sqlite_triggers() if is_sqlite else _postgresql_triggers():
                c.exec_driver_sql(statement)
            remove_leftovers(c)
    except ProgrammingError:
        # The tables are another role's. Here no id is given out twice: what stays harms nobody, and
        # goes when the next study is begun.
        return


def delete_study(c: sa.Connection, study_id: int) -> int:
    """Delete every row of a study; return how many there were."""
    trials = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    deleted = 0
    # Ours come first, as they do in every transaction of a worker: it and this one wait for each
    # other in one order.
    for table in reversed(study_tables()):
        belongs = (
            table.c.study_id == study_id if "study_id" in table.c else table.c.trial_id.in_(trials)
        )
        deleted += c.execute(table.delete().where(belongs)).rowcount
    return deleted


def begun_here(c: sa.Connection) -> dict[int, str]:
    """Return id and name of the studies that this package began, oldest first.

    A row of ours alone does not tell: the study that it was made for may be gone, and its id that
    of another one, which Optuna made.
    """
    labelled = sa.select(SYSTEM_ATTRIBUTES.c.study_id).where(
        SYSTEM_ATTRIBUTES.c.key == METRIC_NAMES
    )
    query = (
        sa.select(OPTUNA_STUDIES.c.study_id, OPTUNA_STUDIES.c.study_name, STUDIES.c.spec)
        .join(STUDIES, STUDIES.c.study_id == OPTUNA_STUDIES.c.study_id)
        .where(OPTUNA_STUDIES.c.study_id.in_(labelled))
        .order_by(OPTUNA_STUDIES.c.study_id)
    )
    rows = c.execute(query).all()
    return {study_id: name for study_id, name, spec in rows if json.loads(spec)["name"] == name}


def remove_leftovers(c: sa.Connection) -> None:
    """Delete our rows of studies that are not there any more."""
    tables = [table for table in METADATA.sorted_tables if "study_id" in table.c]
    # Looked up first: what another transaction begins in between is in neither.
    named = {i for t in tables for i in c.execute(sa.select(t.c.study_id).distinct()).scalars()}
    for study_id in sorted(named - begun_here(c).keys()):
        for table in tables:
            c.execute(table.delete().where(table.c.study_id == study_id))
        if c.dialect.name == "sqlite":
            c.exec_driver_sql(f"INSERT OR IGNORE INTO {DELETED.name} VALUES ({study_id:d})")


def unused_study_id(c: sa.Connection) -> int | None:
    """Return an id that no study has or had; None where the database sees to that itself."""
    if c.dialect.name != "sqlite":
        return None
    columns = (OPTUNA_STUDIES.c.study_id, DELETED.c.id)
    largest = (c.execute(sa.select(sa.func.max(column))).scalar_one() for column in columns)
    return 1 + max(int(study_id or 0) for study_id in largest)


def _sqlite_triggers() -> Iterator[str]:
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {_TRIAL_TRIGGER} AFTER DELETE ON {TRIALS.name} "
        f"BEGIN {_deletion_of_trial()} END"
    )
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {_STUDY_TRIGGER} AFTER DELETE ON {OPTUNA_STUDIES.name} "
        f"BEGIN {_deletion_of_study()} "
        f"INSERT OR IGNORE INTO {DELETED.name} VALUES (OLD.study_id); END"
    )


def _postgresql_triggers() -> Iterator[str]:
    for trigger, table, statements in (
        (_TRIAL_TRIGGER, TRIALS, _deletion_of_trial()),
        (_STUDY_TRIGGER, OPTUNA_STUDIES, _deletion_of_study()),
    ):
        yield (
            f"CREATE OR REPLACE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {statements} RETURN OLD; END $$"
        )
        # Before, for our rows come first in all transactions.
        yield (
            f"CREATE OR REPLACE TRIGGER {trigger} BEFORE DELETE ON {table.name} "
            f"FOR EACH ROW EXECUTE FUNCTION {trigger}()"
        )


def _deletion_of_trial() -> str:
    return f"DELETE FROM {CLAIMS.name} WHERE trial_id = OLD.trial_id;"


def _deletion_of_study() -> str:
    tables = [table for table in METADATA.sorted_tables if "study_id" in table.c]
    return " ".join(f"DELETE FROM {t.name} WHERE study_id = OLD.study_id;" for t in tables)
