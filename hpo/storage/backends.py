"""Opens SQLite files and PostgreSQL servers, and explains what stands in the way."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)

from hpo.errors import StorageError
from hpo.storage.schema import METADATA, STUDIES
from hpo.storage.storage import BUSY_TIMEOUT_S, StudyStorage, first_line
from hpo.storage.urls import hide_password, resolve_url

_SCHEMA_ATTEMPTS = 20


_OPENING_ERRORS = (ImportError, RuntimeError, SQLAlchemyError, StorageInternalError)


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


def open_storage(url: str, *, create: bool) -> StudyStorage:
    """Open a storage by its SQLAlchemy URL.

    Parameters
    ----------
    url
        Such as `sqlite:///hpo.db` or `postgresql://user:password@host/database`, or a folder or
        file that holds one (see `resolve_url`).
    create
        Whether to make the database and its tables where they are missing. Workers never do:
        the schema is made once, before them.

    Raises
    ------
    StorageError
        If the URL is not valid, or the database is missing, damaged or of another version.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        parsed = sa.make_url(resolve_url(url))
    except (ArgumentError, ValueError) as exc:
        raise StorageError(
            f"--storage {hide_password(url)}: not a database URL; expected e.g. sqlite:///hpo.db"
        ) from exc
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return _open_postgresql(parsed.set(drivername="postgresql+psycopg"), url, create=create)
    shown = parsed.render_as_string(hide_password=True)
    is_file = parsed.get_backend_name() == "sqlite"
    if is_file:
        _prepare_sqlite(parsed.database, shown, create=create)
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}} if is_file else {}
    for attempt in range(_SCHEMA_ATTEMPTS):
        try:
            return _open(parsed, options, create=create)
        except _OPENING_ERRORS as exc:
            # Two first runs at once: the other one is creating the same tables and rows.
            racing = isinstance(exc, IntegrityError) or any(
                sign in str(exc) for sign in ("already exists", "database is locked")
            )
            if create and racing and attempt < _SCHEMA_ATTEMPTS - 1:
                time.sleep(0.1)
                continue
            reason = first_line(exc)
            reason = _NO_STUDIES if "no such table" in reason else f"cannot be opened: {reason}"
            raise StorageError(f"{shown}: {reason}") from exc
    raise AssertionError("unreachable")


def _open(url: sa.URL, options: dict[str, Any], *, create: bool) -> StudyStorage:
    text = url.render_as_string(hide_password=False)
    storage = StudyStorage(text, engine_kwargs=options, skip_table_creation=not create)
    try:
        if create:
            METADATA.create_all(storage.engine)
        else:
            with storage.read() as c:
                _look_for_studies(c)
    except SQLAlchemyError:
        storage.engine.dispose()
        raise
    return storage


def _look_for_studies(connection: sa.Connection) -> None:
    """Fail where Optuna's tables may be, but ours are not."""
    connection.execute(sa.select(STUDIES.c.study_id).limit(1))


def _open_postgresql(url: sa.URL, given: str, *, create: bool) -> StudyStorage:
    """Open a storage on PostgreSQL; `given` is how the user named it."""
    connect_args = {
        name: value for name, value in _POSTGRESQL_CONNECT_ARGS.items() if name not in url.query
    }
    options = {
        "connect_args": connect_args,
        # A worker is two threads, itself and its heartbeat; a server has few connections to give.
        "pool_size": 1,
        "max_overflow": 1,
        "pool_timeout": BUSY_TIMEOUT_S,
        # A server that was started anew is met by a fresh connection, not by an error.
        "pool_pre_ping": True,
    }
    try:
        with _gate(url, connect_args, create=create):
            return _open(url, options, create=create)
    except _OPENING_ERRORS as exc:
        shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
        where = shown if "://" in given else f"{given} ({shown})"
        raise StorageError(f"{where}: {_explain(exc, given)}") from None


@contextlib.contextmanager
def _gate(url: sa.URL, connect_args: dict[str, Any], *, create: bool) -> Iterator[None]:
    """Let one process at a time make tables, and nobody in who would find none.

    On PostgreSQL even CREATE TABLE IF NOT EXISTS fails where two do it at once.
    """
    engine = sa.create_engine(url, connect_args=connect_args, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if create:
            connection.exec_driver_sql(f"SET lock_timeout = '{BUSY_TIMEOUT_S:g}s'")
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            yield
            return
        _look_for_studies(connection)
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


def _prepare_sqlite(database: str | None, shown: str, *, create: bool) -> None:
    if not database or database == ":memory:":
        raise StorageError(f"{shown}: workers are processes and need a file to share")
    path = Path(database)
    if not create and not path.is_file():
        raise StorageError(
            f"{shown}: no such file; give the storage that the study is in "
            "(--storage or HPO_STORAGE)"
        )
    if not path.parent.is_dir():
        raise StorageError(f"{shown}: the folder {path.parent} does not exist")
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
        _switch_to_wal(connection)
    except sqlite3.Error as exc:
        raise StorageError(f"{shown}: cannot be opened: {exc}") from exc
    finally:
        if connection is not None:
            connection.close()


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
