"""Opens the storage that all workers of a study share: Optuna's own schema, made safe to share.

SQLite runs in write-ahead mode, waits up to a minute for the writer before it, and takes the
write lock at the beginning of every transaction that changes something. Without the last, a
read followed by an update is not atomic there, and two workers can both win.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import logging
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
import sqlalchemy.orm
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from hpo.errors import StorageError

BUSY_TIMEOUT_S = 60.0
URL_FILE = "url"
_SCHEMA_ATTEMPTS = 20
_LONGEST_PAUSE_S = 5.0
_WARN_EVERY_S = 30.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_OPENING_ERRORS = (ImportError, RuntimeError, SQLAlchemyError, StorageInternalError)
_NO_STUDIES = (
    "no study was ever begun in this database; give the storage that the study is in "
    "(--storage or HPO_STORAGE)"
)
_UNDEFINED_TABLE = "42P01"
# Optuna's schema of today, as its own migrations name it.
SCHEMA_REVISION = "v3.2.0.a"
_CONNECTING_ERRORS = (ImportError, SQLAlchemyError)
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

_NOW: dict[str, sa.ColumnElement[float]] = {
    "sqlite": sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Float),
    "postgresql": sa.literal_column("extract(epoch FROM clock_timestamp())::float8", sa.Float),
}
_UP_SINCE: dict[str, sa.ColumnElement[float]] = {
    "sqlite": sa.literal_column("0.0", sa.Float),
    "postgresql": sa.literal_column(
        "extract(epoch FROM pg_postmaster_start_time())::float8", sa.Float
    ),
}
_writes: contextvars.ContextVar[bool] = contextvars.ContextVar("_writes", default=False)

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
    # gently (no new trials) | now (trials are given back); NULL while the study may go on.
    sa.Column("stop", sa.String(8)),
    # Who submits workers at this moment, and until when nobody else may.
    sa.Column("launcher", sa.String(128)),
    sa.Column("launcher_until", sa.Float),
)

# One row per unit of budget that was ever claimed, beside Optuna's trial of the same id.
CLAIMS = sa.Table(
    "hpo_claims",
    METADATA,
    sa.Column("trial_id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    # open (claimed, or given back and waiting for a worker) | finished | pruned | failed
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

# What happened to a study and must not be forgotten: accepted changes, deaths, looks at the test
# set. `detail` is a JSON object.
EVENTS = sa.Table(
    "hpo_events",
    METADATA,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


class StudyStorage(RDBStorage):
    """Optuna's relational storage whose changes of state are atomic on SQLite too.

    Attributes
    ----------
    patience_s
        How long `patiently` goes on trying while the database does not answer. None at all for
        a command that somebody waits for; workers wait for a server that is being restarted.
    now_sql, up_since_sql
        The time by the database's clock, and when its server was started, as SQL: seconds since the
        epoch. A file was started at 0.
    """

    patience_s = 0.0

    def __init__(self, url: str, **options: Any) -> None:
        if not self._attach(url, options):
            super().__init__(url, **options)
        self._prepare()

    def _attach(self, url: str, options: dict[str, Any]) -> bool:
        """Open a database that has Optuna's schema of today; False if this is none.

        As `RDBStorage.__init__` does, but for the migrations: to import them takes as long as to
        import the rest of Optuna, and here there is nothing to migrate.
        """
        if options.keys() - {"engine_kwargs", "skip_table_creation"}:
            return False
        self.engine_kwargs = options.get("engine_kwargs") or {}
        self.url = self._fill_storage_url_template(url)
        is_current = False
        with contextlib.suppress(*_CONNECTING_ERRORS):
            self.engine = sa.create_engine(self.url, **self.engine_kwargs)
            with contextlib.ExitStack() as stack:
                stack.callback(self.engine.dispose)
                connection = stack.enter_context(self.engine.connect())
                revisions = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
                is_current = revisions.scalars().all() == [SCHEMA_REVISION]
        # If not, Optuna says what is wrong, or makes what is missing.
        if is_current:
            self.skip_compatibility_check = False
            self.heartbeat_interval = self.grace_period = None
            self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
            self.scoped_session = sa.orm.scoped_session(sa.orm.sessionmaker(bind=self.engine))
        return is_current

    def _ask_migrations(self) -> Any:
        """Return what Optuna asks about its schema; only its migrations can answer."""
        from optuna.storages._rdb.storage import _VersionManager

        return _VersionManager(self.url, self.engine, self.scoped_session)

    _version_manager: Any = functools.cached_property(_ask_migrations)

    def __getstate__(self) -> dict[Any, Any]:
        # Optuna takes it out of the state, where it has to be.
        self.__dict__.setdefault("_version_manager", None)
        return super().__getstate__()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._prepare()

    def _prepare(self) -> None:
        dialect = self.engine.dialect.name
        self.now_sql, self.up_since_sql = _NOW[dialect], _UP_SINCE[dialect]
        _make_safe(self.engine)

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one transaction that changes something; commits at the end."""
        with _writing(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one transaction that reads alone: one consistent state of the study."""
        with self.engine.connect() as connection:
            yield connection

    def now(self, connection: sa.Connection) -> float:
        """Return the database's time in seconds since the epoch: every lease is judged by it."""
        return float(connection.execute(sa.select(self.now_sql)).scalar_one())

    def insert_new(self, table: sa.Table) -> sa.Insert:
        """Return an insertion that leaves rows alone that are there."""
        if self.engine.dialect.name == "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing()
        return postgresql.insert(table).on_conflict_do_nothing()

    def patiently(self, call: Callable[[], _T]) -> _T:
        """Call a function again while the database does not answer, for up to `patience_s`.

        The function may have been carried out although its answer was lost: it must come to the
        same when it is called twice.

        Raises
        ------
        StorageError
            If the database did not answer for that long.
        """
        began = warned = time.monotonic()
        pause_s = 0.05
        while True:
            try:
                return call()
            except (OperationalError, InterfaceError, sa.exc.TimeoutError) as exc:
                now = time.monotonic()
                # A missing table or column does not come back by waiting.
                if now - began >= self.patience_s or "no such" in str(exc):
                    shown = self.engine.url.render_as_string(hide_password=True)
                    raise StorageError(f"{shown}: does not answer: {_first_line(exc)}") from exc
                if warned == began or now - warned > _WARN_EVERY_S:
                    warned = now
                    _log.warning("the storage does not answer, trying again: %s", _first_line(exc))
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)

    def record_event(
        self, connection: sa.Connection, study_id: int, kind: str, **detail: Any
    ) -> None:
        """Write down, within a transaction, something that must not be forgotten."""
        connection.execute(
            EVENTS.insert().values(
                study_id=study_id, at=self.now(connection), kind=kind, detail=json.dumps(detail)
            )
        )


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    token = _writes.set(True)
    try:
        yield
    finally:
        _writes.reset(token)


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _writing():
            return method(*args, **kwargs)

    return call


for _name in (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "_create_new_trial",
    "_set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
):
    setattr(StudyStorage, _name, _locked(getattr(RDBStorage, _name)))


def hide_password(url: str) -> str:
    """Return a URL as it may be shown, even one that is not valid."""
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)


def resolve_url(text: str) -> str:
    """Return the URL that `--storage` means: itself, or what a file holds.

    Parameters
    ----------
    text
        A URL, the folder of a server that `hpo db start` made, or a file with a URL in it
        (`FILE` or `@FILE`), which keeps the password out of command lines.

    Raises
    ------
    StorageError
        If the folder or file holds no URL, or if others may read the password in it.
    """
    if "://" in text:
        return text
    path = Path(text.removeprefix("@")).expanduser()
    if path.is_dir():
        path = path / URL_FILE
        if not path.exists():
            raise StorageError(
                f"--storage {text}: a folder without a server's address; make the server with: "
                f"hpo db start {text} (or give a file: sqlite:///{text}/hpo.db)"
            )
    elif not text.startswith("@") and not path.exists():
        return text
    try:
        content = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as exc:
        raise StorageError(f"--storage {text}: cannot be read: {exc.strerror}") from exc
    if content.startswith(b"SQLite format 3"):
        raise StorageError(f"--storage {text}: give its URL: sqlite:///{text}")
    lines = content.decode("utf-8", errors="replace").split("\n")
    url = lines[0].strip()
    if "://" not in url or any(line.strip() for line in lines[1:]):
        raise StorageError(f"--storage {text}: {path} holds no database URL, which is one line")
    if mode & 0o077:
        raise StorageError(
            f"--storage {text}: {path} may be read by others; it holds a password: chmod 600 {path}"
        )
    return url


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
            reason = _first_line(exc)
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
    reason = _first_line(original).removeprefix("connection failed: ").rstrip(".")
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


def _make_safe(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        _make_sqlite_safe(engine)
    elif engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", _limit_transactions)
        engine.dispose()


def _limit_transactions(connection: Any, _record: Any) -> None:
    # A worker that is frozen in the middle of a transaction must not hold up all others for ever.
    connection.autocommit = True
    connection.execute("SET idle_in_transaction_session_timeout = '60s'")
    connection.autocommit = False


def _make_sqlite_safe(engine: sa.Engine) -> None:
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions of its own, which would be deferred ones.
        connection.isolation_level = None
        # In write-ahead mode a killed process loses nothing that was committed.
        connection.execute("PRAGMA synchronous=NORMAL")

    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes.get() else "BEGIN")

    sa.event.listen(engine, "connect", on_connect)
    sa.event.listen(engine, "begin", on_begin)
    engine.dispose()


def _first_line(exc: BaseException) -> str:
    if isinstance(exc, StorageInternalError) and exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
