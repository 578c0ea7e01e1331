"""Checks of the storage of studies: whether it opens, how fast it is, its clock.

As in `hpo.doctor.checks`, libraries are imported where they are needed: one may be missing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.doctor.result import GB, MB, CheckResult, Verdict, examine
from hpo.errors import StorageError
from hpo.storage.access.sqlite_reading import SqliteReader, is_wal
from hpo.storage.urls import parse_url, show_url
from hpo.system.filesystem import locate

if TYPE_CHECKING:
    import sqlalchemy as sa

READS, WRITES = 50, 20
SLOW_WRITE_MS = 50.0
SKEW_S = 5.0
FREE_BYTES = 1 * GB
# Each of these bounds a wait: for a server, for a lock, for the check of a large file.
CONNECT_S, BUSY_S, INTEGRITY_S = 3, 2.0, 2.0
_ONE_MACHINE = "serves the workers of one machine alone; for several machines: 'hpo db start DIR'"
_RESTORE = "if it was a study storage, restore a copy of it; or give another (--storage)"
NAMES = ("storage", "database latency", "clocks")


def check_storage(url: str) -> list[CheckResult]:
    """Return what there is to say about a storage, which is never created nor changed."""
    try:
        parsed = parse_url(url)
    except StorageError as exc:
        remedy = "give a database URL, such as sqlite:///hpo.db (--storage or HPO_STORAGE)"
        return _not_open(CheckResult("storage", "problem", str(exc), remedy))
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            found = f"{url}: workers are processes and need a file to share"
            return _not_open(
                CheckResult("storage", "problem", found, "name a file: sqlite:///hpo.db")
            )
        return _check_sqlite(url, Path(str(parsed.database)))
    return _check_server(url, parsed)


def _not_open(finding: CheckResult) -> list[CheckResult]:
    why = "the storage is not open"
    return [finding, *(CheckResult(name, "not checked", why) for name in NAMES[1:])]


# --- SQLite


def _check_sqlite(url: str, path: Path) -> list[CheckResult]:
    shown = f"sqlite:///{path}"
    if not path.is_file():
        remedy = "the first 'hpo run STUDY' makes it; or give another (--storage, HPO_STORAGE)"
        return _not_open(
            CheckResult("storage", "not checked", f"{shown}: does not exist yet", remedy)
        )
    where = locate(path)
    if where.network is not False and path.with_name(f"{path.name}-wal").exists():
        # Opening it here would not see the locks in the memory of the machine that works on it.
        found = f"{shown}: on {where}, and in use, perhaps on another machine; not looked into"
        remedy = f"run 'hpo doctor' where its workers run; {_ONE_MACHINE}"
        return _not_open(CheckResult("storage", "warning", found, remedy))
    try:
        connection = SqliteReader(path, BUSY_S)()
    except sqlite3.Error as exc:
        remedy = "see who owns the file and its folder, and whether they can be read"
        if not isinstance(exc, sqlite3.OperationalError):
            remedy = _RESTORE
        return _not_open(CheckResult("storage", "problem", f"{shown}: {exc}", remedy))
    try:
        finding = _sqlite_file(url, path, connection)
        if finding.verdict == "problem":
            return _not_open(finding)
        return [
            finding,
            *examine("database latency", lambda: [_sqlite_latency(path, connection)]),
            *examine("clocks", lambda: [_clock(lambda: _sqlite_now(connection), "SQLite's clock")]),
        ]
    finally:
        connection.close()


def _sqlite_file(url: str, path: Path, connection: sqlite3.Connection) -> CheckResult:
    from hpo.records import Access
    from hpo.storage.backends import open_storage

    shown = f"sqlite:///{path}"
    try:
        mode = "wal" if is_wal(path) else "delete"
        integrity = _integrity(connection)
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'version_info'"
        begun = bool(connection.execute(query).fetchone()[0])
        if begun and integrity == "ok":
            # Asks for the version that wrote it.
            open_storage(url, Access.READ).engine.dispose()
    except (sqlite3.Error, StorageError) as exc:
        said = str(exc).removeprefix(f"{shown}: ")
        remedy = _RESTORE
        if "locked" in said:
            remedy = "another program holds it: end that one, or look again later"
        return CheckResult("storage", "problem", f"{shown}: {said}", remedy)
    where = locate(path)
    free = shutil.disk_usage(path).free
    figures = {"size_bytes": path.stat().st_size, "free_bytes": free}
    verdict: Verdict = "ok"
    remedies = []
    if where.network is not False:
        verdict = "warning"
        remedies.append(_ONE_MACHINE)
    if not begun:
        verdict = "warning"
        remedies.append("no studies in it: see whether it is the file you meant (--storage)")
    elif mode != "wal":
        verdict = "warning"
        remedies.append("not in write-ahead mode; the next 'hpo run' switches it")
    if free < FREE_BYTES:
        verdict = "warning"
        remedies.append("less than 1 GB free: make room before workers have to stop")
    if integrity not in ("ok", "not checked to its end"):
        verdict = "problem"
        remedies = ["the file is damaged: stop its workers and restore a copy of it"]
    found = (
        f"{shown}: {path.stat().st_size / MB:.1f} MB on {where}, {free / GB:.1f} GB free, "
        f"mode {mode}, integrity {integrity}"
    )
    return CheckResult("storage", verdict, found, "; ".join(remedies), figures)


def _integrity(connection: sqlite3.Connection) -> str:
    deadline = time.monotonic() + INTEGRITY_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as exc:
        if "interrupted" in str(exc):
            return "not checked to its end"
        raise
    finally:
        connection.set_progress_handler(None, 0)


def _sqlite_latency(path: Path, connection: sqlite3.Connection) -> CheckResult:
    def read() -> None:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    if not os.access(path.absolute().parent, os.W_OK):
        read_ms = _median_ms(read, READS)
        found = f"read {read_ms:.2f} ms (median of {READS}); this user may not write in its folder"
        return CheckResult("database latency", "not checked", found, figures={"read_ms": read_ms})
    with tempfile.TemporaryDirectory(prefix=".hpo-doctor-", dir=path.absolute().parent) as folder:
        scratch = sqlite3.connect(Path(folder) / "scratch.db", timeout=BUSY_S, isolation_level=None)

        def write() -> None:
            scratch.execute("BEGIN IMMEDIATE")
            scratch.execute("INSERT INTO written VALUES (1)")
            scratch.execute("COMMIT")

        try:
            # As hpo.storage sets them for every study.
            scratch.execute("PRAGMA journal_mode=WAL").fetchone()
            scratch.execute("PRAGMA synchronous=NORMAL")
            scratch.execute("CREATE TABLE written (x INTEGER)")
            return _latency(read, write)
        finally:
            scratch.close()


def _sqlite_now(connection: sqlite3.Connection) -> float:
    query = "SELECT (julianday('now') - 2440587.5) * 86400.0"
    return float(connection.execute(query).fetchone()[0])


# --- PostgreSQL


def _check_server(url: str, parsed: sa.URL) -> list[CheckResult]:
    import sqlalchemy as sa

    shown = show_url(parsed)
    if parsed.get_backend_name() != "postgresql":
        remedy = "use SQLite on one machine and PostgreSQL on several"
        found = f"{shown}: a kind of database that has not been tried"
        return _not_open(CheckResult("storage", "problem", found, remedy))
    limits = {"connect_timeout": CONNECT_S, "options": "-c statement_timeout=3000"}
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=limits)
        with engine.connect() as connection:
            return [
                *examine("storage", lambda: [_server(shown, url, connection)]),
                *examine("database latency", lambda: [_server_latency(connection)]),
                *examine(
                    "clocks",
                    lambda: [_clock(lambda: _server_now(connection), "the database's clock")],
                ),
            ]
    except (ImportError, sa.exc.NoSuchModuleError) as exc:
        remedy = "install the driver that the URL names, as in: pip install 'psycopg[binary]'"
        return _not_open(CheckResult("storage", "problem", f"{shown}: {exc}", remedy))
    except sa.exc.SQLAlchemyError as exc:
        first = str(getattr(exc, "orig", None) or exc).strip().splitlines() or [type(exc).__name__]
        remedy = "see whether the server runs, and whether host, port, user and password are right"
        return _not_open(CheckResult("storage", "problem", f"{shown}: {first[0]}", remedy))


def _server(shown: str, url: str, connection: sa.Connection) -> CheckResult:
    import sqlalchemy as sa

    from hpo.records import Access
    from hpo.storage.backends import open_storage

    settings = {
        name: str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())
        for name in ("server_version", "max_connections", "synchronous_commit", "fsync")
    }
    used = int(
        connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        ).scalar_one()
    )
    begun = sa.inspect(connection).has_table("version_info")
    connection.rollback()
    verdict: Verdict = "ok"
    remedies = []
    highest = int(settings["max_connections"])
    if begun:
        try:
            open_storage(url, Access.READ).engine.dispose()
        except StorageError as exc:
            said = str(exc).removeprefix(f"{shown}: ")
            return CheckResult("storage", "problem", f"{shown}: {said}", "give another (--storage)")
    if used > 0.8 * highest:
        verdict = "warning"
        remedies.append("few connections are left: raise max_connections or use fewer workers")
    if settings["fsync"] != "on":
        verdict = "warning"
        remedies.append("fsync is off: a crash of its machine may destroy the database")
    found = (
        f"{shown}: PostgreSQL {settings['server_version'].split()[0]}, "
        f"{used} of {highest} connections used, fsync {settings['fsync']}, "
        f"synchronous_commit {settings['synchronous_commit']}"
        f"{'' if begun else '; no studies yet'}"
    )
    figures = {"connections": used, "max_connections": highest}
    return CheckResult("storage", verdict, found, "; ".join(remedies), figures)


def _server_latency(connection: sa.Connection) -> CheckResult:
    def read() -> None:
        connection.exec_driver_sql("SELECT count(*) FROM pg_namespace").scalar_one()
        connection.rollback()

    def write() -> None:
        connection.exec_driver_sql("INSERT INTO hpo_doctor VALUES (1)")
        # A temporary table alone is not logged; this makes the commit wait for the disk, as a
        # study's does, and leaves nothing to be read.
        connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'hpo doctor', '')")
        connection.commit()

    # Whatever went before may have left a transaction that failed.
    connection.rollback()
    connection.exec_driver_sql("CREATE TEMPORARY TABLE hpo_doctor (x integer)")
    connection.commit()
    try:
        return _latency(read, write)
    finally:
        connection.rollback()
        connection.exec_driver_sql("DROP TABLE hpo_doctor")
        connection.commit()


def _server_now(connection: sa.Connection) -> float:
    query = "SELECT extract(epoch FROM clock_timestamp())"
    return float(connection.exec_driver_sql(query).scalar_one())


# --- both


def _latency(read: Callable[[], None], write: Callable[[], None]) -> CheckResult:
    read_ms, write_ms = _median_ms(read, READS), _median_ms(write, WRITES)
    found = f"read {read_ms:.2f} ms, write {write_ms:.2f} ms (medians of {READS} and {WRITES})"
    figures = {"read_ms": read_ms, "write_ms": write_ms}
    if write_ms <= SLOW_WRITE_MS:
        return CheckResult("database latency", "ok", found, figures=figures)
    remedy = (
        f"above {SLOW_WRITE_MS:g} ms a write: a trial takes some ten of them; "
        "use longer parts, fewer workers or a nearer disk"
    )
    return CheckResult("database latency", "warning", found, remedy, figures)


def _median_ms(transact: Callable[[], None], times: int) -> float:
    walls = []
    for _ in range(times):
        begin = time.perf_counter()
        transact()
        walls.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(walls)


def _clock(database_now: Callable[[], float], whose: str) -> CheckResult:
    database_now()
    before = time.time()
    theirs = database_now()
    skew_s = theirs - (before + time.time()) / 2
    found = (
        f"{whose} and this machine's differ by {abs(skew_s) * 1e3:.0f} ms; "
        "leases go by the database's alone"
    )
    figures = {"skew_ms": skew_s * 1e3}
    if abs(skew_s) <= SKEW_S:
        return CheckResult("clocks", "ok", found, figures=figures)
    remedy = (
        "harmless to studies, but times in logs of several machines do not compare: "
        "set the clocks by a time server"
    )
    return CheckResult("clocks", "warning", found, remedy, figures)
