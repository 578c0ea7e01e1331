"""Which errors of a database are waited for: a corpus of real ones, of servers and of files."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.errors import StorageError
from hpo.storage.access.outages import first_line, is_lasting, is_outage, wait_for
from hpo.storage.postgres.server import Server
from hpo.storage.urls import parse_url

PASSES, LASTS, ELSE = "passes", "lasts", "else"


def run(url: sa.URL | str, *statements: str, pause: Callable[[], object] | None = None) -> None:
    """Carry out statements in one transaction, with a pause before the last one."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement)
        if pause is not None:
            pause()
        connection.exec_driver_sql(statements[-1])


def kind_of(call: Callable[[], object]) -> tuple[str, str]:
    """What an error comes to, and how it is told."""
    try:
        call()
    except Exception as exc:
        outage, lasting = is_outage(exc), is_lasting(exc)
        assert not (outage and lasting)
        return PASSES if outage else LASTS if lasting else ELSE, first_line(exc)
    raise AssertionError("no error")


# SQLite -----------------------------------------------------------------------------------------


def locked(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        run(f"sqlite:///{path}", "PRAGMA busy_timeout=20", "CREATE TABLE u (a)")


def unwritable(path: Path) -> None:
    run(f"sqlite:///file:{path}?mode=ro&uri=true", "CREATE TABLE u (a)")


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = b"\x5a" * (len(content) - 100)
    path.write_bytes(content)
    run(f"sqlite:///{path}", "SELECT * FROM t")


def no_database(path: Path) -> None:
    path.write_text("once upon a time " * 1000)
    run(f"sqlite:///{path}", "SELECT * FROM t")


def no_folder(path: Path) -> None:
    run(f"sqlite:///{path.parent / 'absent' / 'x.db'}", "SELECT 1")


def pool_is_empty(path: Path) -> None:
    engine = sa.create_engine(
        f"sqlite:///{path}", poolclass=sa.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.02
    )
    try:
        with engine.connect():
            engine.connect()
    finally:
        engine.dispose()


def statements(*texts: str) -> Callable[[Path], None]:
    return lambda path: run(f"sqlite:///{path}", *texts)


OF_FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "locked": (PASSES, locked),
    "full": (
        PASSES,
        statements("PRAGMA max_page_count=3", "INSERT INTO t VALUES (zeroblob(99999))"),
    ),
    "folder missing": (PASSES, no_folder),
    "all connections in use": (PASSES, pool_is_empty),
    "read-only": (LASTS, unwritable),
    "no database": (LASTS, no_database),
    "damaged": (LASTS, damaged),
    "no such table": (LASTS, statements("SELECT * FROM nope")),
    "no such column": (LASTS, statements("SELECT nope FROM t")),
    "no such column to write": (LASTS, statements("INSERT INTO t (nope) VALUES (1)")),
    "no SQL": (LASTS, statements("SELEC 1")),
    "a rule of the table": (
        ELSE,
        statements("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)"),
    ),
}


@pytest.mark.parametrize("name", OF_FILES)
def test_errors_of_sqlite(name, tmp_path):
    path = tmp_path / "x.db"
    run(f"sqlite:///{path}", "CREATE TABLE t (a PRIMARY KEY)")
    expected, call = OF_FILES[name]
    kind, told = kind_of(lambda: call(path))
    assert kind == expected, told
    assert "\n" not in told


# PostgreSQL -------------------------------------------------------------------------------------


class Site:
    """A server, and what an administrator does to it."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = parse_url(url).set(drivername="postgresql+psycopg")

    @contextlib.contextmanager
    def admin(self) -> Iterator[Callable[[str], Any]]:
        with self.server.connect_as_admin() as connection:
            connection.autocommit = True
            yield lambda text: connection.execute(text.encode())

    def run(self, *texts: str, **pause: Callable[[], object]) -> None:
        run(self.url, *texts, **pause)

    def changed(self, do: str, undo: str, *texts: str, url: sa.URL | None = None) -> None:
        with self.admin() as execute:
            execute(do)
            try:
                run(url or self.url, *(texts or ("SELECT 1",)))
            finally:
                execute(undo)

    def query(self, **options: str) -> None:
        run(self.url.update_query_dict(options), "SELECT 1")

    def end_backends(self) -> None:
        with self.admin() as execute:
            execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{self.url.database}'"
            )

    def locked(self) -> None:
        self.run("CREATE TABLE IF NOT EXISTS locked (a int)", "SELECT 1")
        other = sa.create_engine(self.url, poolclass=sa.NullPool)
        with other.begin() as connection:
            connection.exec_driver_sql("LOCK TABLE locked")
            self.run("SET lock_timeout = 50", "SELECT * FROM locked")

    def conflicting(self) -> None:
        self.run(
            "CREATE TABLE IF NOT EXISTS rows_of_two (a int)", "INSERT INTO rows_of_two VALUES (1)"
        )
        level = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
        self.run(
            *(level, "SELECT * FROM rows_of_two", "UPDATE rows_of_two SET a = 2"),
            pause=lambda: self.run("UPDATE rows_of_two SET a = 3"),
        )

    def idle(self) -> None:
        self.run(
            *("SET idle_in_transaction_session_timeout = 50", "SELECT 1"),
            pause=lambda: time.sleep(0.5),
        )

    def stopped_between(self) -> None:
        def restart() -> None:
            self.server.stop()
            self.server.start("127.0.0.1")

        self.run("SELECT 1", "SELECT 1", pause=restart)

    def stopped(self) -> None:
        self.server.stop()
        try:
            self.run("SELECT 1")
        finally:
            self.server.start("127.0.0.1")


OF_SERVERS: dict[str, tuple[str, Callable[[Site], None]]] = {
    "stopped": (PASSES, Site.stopped),
    "restarted in a transaction": (PASSES, Site.stopped_between),
    "backend terminated": (PASSES, lambda s: s.run("SELECT 1", "SELECT 1", pause=s.end_backends)),
    "too many connections of a role": (
        PASSES,
        lambda s: s.changed(
            "ALTER ROLE hpo CONNECTION LIMIT 0", "ALTER ROLE hpo CONNECTION LIMIT -1"
        ),
    ),
    "too many connections to a database": (
        PASSES,
        lambda s: s.changed(
            f"ALTER DATABASE {s.url.database} CONNECTION LIMIT 0",
            f"ALTER DATABASE {s.url.database} CONNECTION LIMIT -1",
        ),
    ),
    "database takes no connections": (
        PASSES,
        lambda s: s.changed(
            f"ALTER DATABASE {s.url.database} ALLOW_CONNECTIONS false",
            f"ALTER DATABASE {s.url.database} ALLOW_CONNECTIONS true",
        ),
    ),
    "read-only": (PASSES, lambda s: s.run("SET TRANSACTION READ ONLY", "CREATE TABLE t (a int)")),
    "idle in a transaction": (PASSES, Site.idle),
    "statement took too long": (
        PASSES,
        lambda s: s.run("SET statement_timeout = 50", "SELECT pg_sleep(2)"),
    ),
    "lock took too long": (PASSES, Site.locked),
    "transactions in conflict": (PASSES, Site.conflicting),
    "name of the server unknown": (PASSES, lambda s: run(s.url.set(host="no.invalid"), "SELECT 1")),
    "wrong password": (LASTS, lambda s: run(s.url.set(password="wrong"), "SELECT 1")),
    "no password": (LASTS, lambda s: run(s.url._replace(password=None), "SELECT 1")),
    "no such role": (LASTS, lambda s: run(s.url.set(username="nobody"), "SELECT 1")),
    "role may not log in": (
        LASTS,
        lambda s: s.changed("ALTER ROLE hpo NOLOGIN", "ALTER ROLE hpo LOGIN"),
    ),
    "no such database": (LASTS, lambda s: run(s.url.set(database="nope"), "SELECT 1")),
    "no TLS there": (LASTS, lambda s: s.query(sslmode="require")),
    "wrong option": (LASTS, lambda s: s.query(sslmode="perhaps")),
    "unknown option": (LASTS, lambda s: s.query(nope="1")),
    "no such table": (LASTS, lambda s: s.run("SELECT * FROM nope")),
    "no such column": (LASTS, lambda s: s.run("SELECT nope FROM pg_class")),
    "no such schema": (LASTS, lambda s: s.run("CREATE TABLE nope.t (a int)")),
    "no SQL": (LASTS, lambda s: s.run("SELEC 1")),
    "no right": (LASTS, lambda s: s.run("SELECT * FROM pg_authid")),
    "a rule of the table": (
        ELSE,
        lambda s: s.run("CREATE TEMP TABLE t (a int NOT NULL)", "INSERT INTO t VALUES (NULL)"),
    ),
}


@pytest.mark.parametrize("name", OF_SERVERS)
def test_errors_of_postgresql(name, postgres_server, shared_postgres_url):
    expected, call = OF_SERVERS[name]
    kind, told = kind_of(lambda: call(Site(postgres_server, shared_postgres_url)))
    assert kind == expected, told
    assert "\n" not in told


# Waiting ----------------------------------------------------------------------------------------


def outage() -> BaseException:
    return sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def test_an_outage_is_waited_for_and_told_before_each_further_try():
    answers = iter([outage(), outage(), None])
    silences: list[str] = []

    def call() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "answer"

    assert wait_for(call, 20.0, "db", silences.append) == "answer"
    assert silences == ["server closed the connection"] * 2


@pytest.mark.parametrize("patience_s", [0.0, 0.3])
def test_patience_ends(patience_s):
    def call() -> None:
        raise outage()

    with pytest.raises(StorageError, match=r"^db: does not answer: server closed") as caught:
        wait_for(call, patience_s, "db")
    assert caught.value.passing


def test_what_lasts_is_not_waited_for(tmp_path):
    calls = []

    def call() -> None:
        calls.append(1)
        run(f"sqlite:///{tmp_path / 'x.db'}", "SELECT * FROM nope")

    with pytest.raises(StorageError, match=r"^db: cannot be used: no such table: nope$") as caught:
        wait_for(call, 60.0, "db")
    assert not caught.value.passing
    assert len(calls) == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), sa.exc.ArgumentError("x")])
def test_errors_that_are_none_of_a_database_come_out_as_they_are(error):
    def call() -> None:
        raise error

    with pytest.raises(type(error)):
        wait_for(call, 60.0, "db")
