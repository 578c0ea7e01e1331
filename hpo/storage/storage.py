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
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
import sqlalchemy.orm
from optuna.storages import RDBStorage
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, NoResultFound, ProgrammingError, SQLAlchemyError

from hpo.errors import StorageError, StudyNotFoundError
from hpo.storage.access.outages import first_line, wait_for
from hpo.storage.access.sqlite_reading import refuse_changed
from hpo.storage.events import EventKind
from hpo.storage.schema import EVENTS, SCHEMA_REVISION, VersionManager
from hpo.storage.urls import show_url

BUSY_TIMEOUT_S = 60.0
_T = TypeVar("_T")

_CONNECTING_ERRORS = (ImportError, SQLAlchemyError)

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
# SQLite keeps what it knows of its locks in the process. A fork that has inherited that, and opens
# the file as well, locks nothing, or another file: what it writes damages the database.
_open_files: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
_writes: contextvars.ContextVar[bool] = contextvars.ContextVar("_writes", default=False)


def _close_files() -> None:
    for engine in [*_open_files]:
        engine.dispose()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_files)


class StudyStorage(RDBStorage):
    """Optuna's relational storage whose changes of state are atomic on SQLite too.

    Attributes
    ----------
    patience_s
        How long `patiently` goes on trying while the database does not answer. None at all for
        a command that somebody waits for; workers wait for a server that is being restarted.
    on_silence
        Called with the reason when `patiently` begins to wait for the database, and then with "".
    read_only
        Whether it was opened to read alone.
    now_sql, up_since_sql
        The time by the database's clock, and when its server was started, as SQL: seconds since the
        epoch. A file was started at 0.
    """

    patience_s = 0.0
    on_silence: Callable[[str], None] | None = None
    read_only = False
    _silent = False
    _kept: sa.Connection | None = None

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
        return VersionManager(self.url, self.engine, self.scoped_session)

    _version_manager: Any = functools.cached_property(_ask_migrations)

    def __getstate__(self) -> dict[Any, Any]:
        # Optuna takes it out of the state, where it has to be.
        self.__dict__.setdefault("_version_manager", None)
        state = super().__getstate__()
        state.pop("_kept", None)
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._prepare()

    def _prepare(self) -> None:
        dialect = self.engine.dialect.name
        self.now_sql, self.up_since_sql = _NOW[dialect], _UP_SINCE[dialect]
        _make_safe(self.engine)
        sa.event.listen(self.engine, "engine_disposed", self._drop_kept)
        if dialect == "sqlite":
            _open_files.add(self.engine)

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one transaction that changes something; commits at the end."""
        with _writing(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def one_statement(self) -> Iterator[sa.Connection]:
        """Give a connection for one statement that changes something, and nothing around it.

        On PostgreSQL it is kept for the next one, so that nothing is sent but the statement. On
        SQLite the write lock is taken first, as always.
        """
        if self.engine.dialect.name == "sqlite":
            with self.write() as connection:
                yield connection
            return
        if self._kept is None:
            options = {"isolation_level": "AUTOCOMMIT"}
            self._kept = self.engine.connect().execution_options(**options)
        try:
            yield self._kept
        except SQLAlchemyError:
            self._drop_kept()
            raise

    def _drop_kept(self, _engine: sa.Engine | None = None) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.invalidate()
            kept.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one transaction that reads alone: one consistent state of the study.

        Raises
        ------
        StorageError
            If the role may not read a table, or a file that nobody wrote was written meanwhile.
        """
        shown = show_url(self.engine.url)
        with self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                # One moment for all statements; SQLite reads so by itself.
                connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            dbapi = connection.connection.dbapi_connection
            try:
                yield connection
            except DatabaseError as exc:
                refuse_changed(dbapi, shown)
                if isinstance(exc, ProgrammingError):
                    raise StorageError(f"{shown}: cannot be read: {first_line(exc)}") from exc
                raise
            refuse_changed(dbapi, shown)

    def now(self, connection: sa.Connection) -> float:
        """Return the database's time in seconds since the epoch: every lease is judged by it."""
        return float(connection.execute(sa.select(self.now_sql)).scalar_one())

    def insert_new(self, table: sa.Table) -> sa.Insert:
        """Return an insertion that leaves rows alone that are there."""
        return _insert_new(self.engine.dialect.name, table)

    def upsert(self, table: sa.Table, key: Sequence[str], column: str) -> sa.Insert:
        """Return an insertion that sets a column of the rows that are there by their key."""
        return _upsert(self.engine.dialect.name, table, tuple(key), column)

    def patiently(self, call: Callable[[], _T]) -> _T:
        """Call a function again while the database does not answer, for up to `patience_s`.

        The function may have been carried out although its answer was lost: it must come to the
        same when it is called twice.

        Raises
        ------
        StorageError
            If the database did not answer for that long.
        StudyNotFoundError
            If the study was deleted meanwhile.
        """
        try:
            return wait_for(call, self.patience_s, self._shown, self._note_silence)
        except NoResultFound as exc:
            raise StudyNotFoundError(f"{self._shown}: the study was deleted meanwhile") from exc
        finally:
            self._note_silence("")

    @functools.cached_property
    def _shown(self) -> str:
        return show_url(self.engine.url)

    def _note_silence(self, why: str) -> None:
        if bool(why) != self._silent and self.on_silence is not None:
            self.on_silence(why)
        self._silent = bool(why)

    def record_event(
        self, connection: sa.Connection, study_id: int, kind: EventKind, **detail: Any
    ) -> None:
        """Write down, within a transaction, something that must not be forgotten."""
        connection.execute(
            EVENTS.insert().values(
                study_id=study_id,
                at=self.now(connection),
                kind=kind.value,
                detail=json.dumps(detail),
            )
        )


# To make a statement takes several times as long as to execute it: these are made once.
@functools.cache
def _insert_new(dialect: str, table: sa.Table) -> sa.Insert:
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


@functools.cache
def _upsert(dialect: str, table: sa.Table, key: Sequence[str], column: str) -> sa.Insert:
    if dialect == "sqlite":
        new = sqlite.insert(table)
        return new.on_conflict_do_update(key, set_={column: new.excluded[column]})
    row = postgresql.insert(table)
    return row.on_conflict_do_update(index_elements=key, set_={column: row.excluded[column]})


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
