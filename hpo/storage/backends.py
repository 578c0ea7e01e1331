"""Opens SQLite files and PostgreSQL servers, and explains what stands in the way."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)

from hpo.errors import StorageError
from hpo.records import Access
from hpo.redaction import redact_argument
from hpo.storage.access.outages import first_line, is_outage
from hpo.storage.access.sqlite_reading import SqliteReader, holds_tables
from hpo.storage.deletion import follow_deletions
from hpo.storage.schema import METADATA, OPTUNA_STUDIES, SCHEMA_REVISION, STUDIES
from hpo.storage.storage import BUSY_TIMEOUT_S, StudyStorage
from hpo.storage.urls import parse_url, show_url

_SCHEMA_ATTEMPTS = 20
_LONGEST_PAUSE_S = 10.0
_log = logging.getLogger(__name__)

# ValueError and TypeError: options in a URL that the driver cannot read.
_OPENING_ERRORS = (
    ImportError,
    RuntimeError,
    SQLAlchemyError,
    StorageInternalError,
    TypeError,
    ValueError,
)

_NO_STUDIES = (
    "no study was ever begun in this database; give the storage that the study is in "
    "(--storage or HPO_STORAGE)"
)

_UNDEFINED_TABLE = "42P01"

# Any number that all versions of us share, and that nobody else in the same database uses.
_SCHEMA_LOCK = 4_867_279_002_025

# A server or a network that is gone is noticed within half a minute, in either direction.
_POSTGRESQL_CONNECT_ARGS = {
    "application_name": "hpo",
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


def open_patiently(url: str, access: Access, patience_s: float) -> StudyStorage:
    """Open a storage as `open_storage` does, and wait for one that does not answer yet."""
    deadline, pause_s = time.monotonic() + patience_s, 0.25
    while True:
        try:
            return open_storage(url, access)
        except StorageError as exc:
            if not exc.passing or time.monotonic() + pause_s > deadline:
                raise
            _log.warning("trying again: %s", exc)
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)


def explain_failure(exc: Exception, given: str | None) -> str | None:
    """Return what to say of an error of a database; None of any other error.

    Parameters
    ----------
    given
        The storage as the user named it, if that is known.
    """
    # SQLite hands out texts as they are; those of a damaged file may be none.
    from_sqlite = isinstance(exc, UnicodeDecodeError) and _passed_through(exc, "sqlalchemy")
    if not from_sqlite and not isinstance(
        exc, SQLAlchemyError | StorageInternalError | sqlite3.Error
    ):
        return None
    shown = "the storage" if given is None else f"--storage {redact_argument(given)}"
    return f"{shown}: {first_line(exc)}"


def _passed_through(exc: BaseException, package: str) -> bool:
    frames = traceback.walk_tb(exc.__traceback__)
    return any(str(f.f_globals.get("__name__", "")).startswith(package) for f, _ in frames)


def open_storage(url: str, access: Access) -> StudyStorage:
    """Open a storage by its SQLAlchemy URL.

    Parameters
    ----------
    url
        Such as `sqlite:///hpo.db` or `postgresql://user:password@host/database`, or a folder or
        file that holds one (see `resolve_url`).
    access
        To read, a database of plain Optuna will do. Workers never create: the schema is made once,
        before them.

    Raises
    ------
    StorageError
        If the URL is not valid, or the database is missing, damaged or of another version.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parsed = parse_url(url)
    backend = parsed.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return _open_postgresql(parsed.set(drivername="postgresql+psycopg"), url, access)
    shown = show_url(parsed)
    if backend == "sqlite" and parsed.query:
        raise StorageError(f"{shown}: a SQLite file takes no options; leave out what follows '?'")
    options = _prepare_sqlite(parsed.database, shown, access) if backend == "sqlite" else {}
    for attempt in range(_SCHEMA_ATTEMPTS):
        try:
            return _open(parsed, options, access)
        except _OPENING_ERRORS as exc:
            # Two first runs at once: the other one is creating the same tables and rows.
            racing = isinstance(exc, IntegrityError) or any(
                sign in str(exc) for sign in ("already exists", "database is locked")
            )
            if access is Access.CREATE and racing and attempt < _SCHEMA_ATTEMPTS - 1:
                time.sleep(0.1)
                continue
            text = f"{shown}: cannot be opened: {first_line(exc)}"
            raise StorageError(text, passing=is_outage(exc)) from exc
        except _UnreadableError as exc:
            raise StorageError(f"{shown}: {exc}") from None
    raise AssertionError("unreachable")


def _open(url: sa.URL, options: Mapping[str, Any], access: Access) -> StudyStorage:
    text = url.render_as_string(hide_password=False)
    create = access is Access.CREATE
    if not create:
        how = {key: options[key] for key in ("connect_args", "creator") if key in options}
        engine = sa.create_engine(url, poolclass=sa.NullPool, **how)
        _look_for_studies(engine)
    storage = StudyStorage(text, engine_kwargs=dict(options), skip_table_creation=not create)
    storage.read_only = access is Access.READ
    try:
        if create:
            METADATA.create_all(storage.engine)
        if access is not Access.READ:
            follow_deletions(storage)
    except SQLAlchemyError:
        storage.engine.dispose()
        raise
    return storage


class _UnreadableError(Exception):
    """A database has no tables that are known here; says what to do."""


def _look_for_studies(engine: sa.Engine) -> None:
    """Fail where Optuna's tables are missing, or of another version; ours need not be there."""
    for attempt in range(_SCHEMA_ATTEMPTS):
        with engine.connect() as connection:
            found = _revisions(connection)
        if found:
            break
        if attempt < _SCHEMA_ATTEMPTS - 1:
            # The first run of another process is making the tables; their version comes last.
            time.sleep(0.1)
    if found != [SCHEMA_REVISION]:
        named = found[0] if found else "unknown"
        raise _UnreadableError(
            "cannot be opened: its tables were made by another version of Optuna (schema "
            f"{named}, here {SCHEMA_REVISION}). If that is older, make a copy of the database and "
            "bring the copy up to date: optuna storage upgrade --storage URL"
        )


def _revisions(connection: sa.Connection) -> list[str]:
    there = sa.inspect(connection).get_table_names()
    if OPTUNA_STUDIES.name not in there:
        raise _UnreadableError(_NO_STUDIES)
    if "alembic_version" not in there:
        return []
    rows = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
    return [str(version) for version in rows.scalars()]


def _open_postgresql(url: sa.URL, given: str, access: Access) -> StudyStorage:
    """Open a storage on PostgreSQL; `given` is how the user named it."""
    connect_args = {
        name: value for name, value in _POSTGRESQL_CONNECT_ARGS.items() if name not in url.query
    }
    options: dict[str, Any] = {
        # A worker is two threads, itself and its heartbeat; a server has few connections to give.
        "pool_size": 1,
        "max_overflow": 1,
        "pool_timeout": BUSY_TIMEOUT_S,
        # A server that was started anew is met by a fresh connection, not by an error.
        "pool_pre_ping": True,
    }
    if access is Access.READ:
        own = url.query.get("options", "")
        connect_args["options"] = f"{own} -c default_transaction_read_only=on".strip()
        options = {"poolclass": sa.NullPool}
    options["connect_args"] = connect_args
    shown = show_url(url.set(drivername="postgresql"))
    where = shown if "://" in given else f"{given} ({shown})"
    try:
        with _gate(url, connect_args, access):
            return _open(url, options, access)
    except _OPENING_ERRORS as exc:
        text = f"{where}: {_explain(exc, given)}"
        raise StorageError(text, passing=is_outage(exc)) from None
    except _UnreadableError as exc:
        raise StorageError(f"{where}: {exc}") from None


@contextlib.contextmanager
def _gate(url: sa.URL, connect_args: dict[str, Any], access: Access) -> Iterator[None]:
    """Let one process at a time make tables.

    On PostgreSQL even CREATE TABLE IF NOT EXISTS fails where two do it at once.
    """
    if access is not Access.CREATE:
        yield
        return
    engine = sa.create_engine(url, connect_args=connect_args, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{BUSY_TIMEOUT_S:g}s'")
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
        yield


def _explain(exc: BaseException, given: str) -> str:
    """Return why PostgreSQL cannot be used, and what to do about it."""
    cause: BaseException = exc
    while not isinstance(cause, DBAPIError) and cause.__cause__ is not None:
        cause = cause.__cause__
    original = getattr(cause, "orig", None) or cause
    if getattr(original, "sqlstate", None) == _UNDEFINED_TABLE:
        return _NO_STUDIES
    reason = first_line(original).removeprefix("connection failed: ").rstrip(".")
    folder = "DIR" if "://" in given else given
    advice = ""
    if "password" in reason:
        advice = "; look whether the URL has the role and the password of this server"
    elif "permission denied" in reason:
        advice = "; to read, a role needs SELECT on all tables of the database"
    elif "does not exist" in reason:
        advice = "; databases and roles are created by the server's administrator (createdb NAME)"
    elif "too many clients" in reason or "connection slots" in reason:
        advice = "; wait for workers to end, or allow more: hpo db start DIR --connections N"
    elif isinstance(cause, OperationalError):
        advice = (
            "; is the server running, and can this machine reach it? For one of your own: "
            f"hpo db status {folder}, hpo db start {folder}"
        )
    return f"cannot be opened: {reason}{advice}"


def _prepare_sqlite(database: str | None, shown: str, access: Access) -> dict[str, Any]:
    """Make sure that there is a file as it is wanted; return how SQLAlchemy is to open it."""
    if not database or database == ":memory:":
        raise StorageError(f"{shown}: workers are processes and need a file to share")
    path = Path(database)
    try:
        is_there = path.is_file()
    except OSError as exc:
        raise StorageError(f"{shown}: cannot be reached: {exc.strerror}") from exc
    if access is not Access.CREATE and not is_there:
        raise StorageError(
            f"{shown}: no such file; give the storage that the study is in "
            "(--storage or HPO_STORAGE)"
        )
    if not path.parent.is_dir():
        raise StorageError(f"{shown}: the folder {path.parent} does not exist")
    if is_there and not os.access(path, os.R_OK):
        raise StorageError(f"{shown}: this user may not read the file")
    if access is Access.READ:
        reader = SqliteReader(path, BUSY_TIMEOUT_S)
        return {"creator": reader, "poolclass": sa.NullPool}
    # What Optuna alone works with is left as it is by those who begin nothing.
    if access is Access.CREATE or holds_tables(path, STUDIES.name):
        connection = None
        try:
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
            _switch_to_wal(connection)
        except sqlite3.Error as exc:
            raise StorageError(f"{shown}: cannot be opened: {first_line(exc)}") from exc
        finally:
            if connection is not None:
                connection.close()
    return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Set a mode that stays with the file; the switch itself does not wait for others."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
