"""Commands that read change nothing of a storage, and need no right to."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from hpo.cli import COMMANDS, main
from hpo.errors import StorageError
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.storage.postgres.server import Server
from hpo.study.lifecycle.copying import copy_studies
from hpo.study.record import find

# Every command that reads a study, with its arguments and its exit code. Three studies of quantiles
# are not there: that is said, and changes nothing either.
READING: dict[str, tuple[tuple[str, ...], int]] = {
    "status": (("t",), 0),
    "show": (("t",), 0),
    "logs": (("t",), 0),
    "provenance": (("t",), 0),
    "report": (("t", "--reports", "OUT"), 0),
    "export": (("t", "--output", "OUT/x.csv"), 0),
    "compare": (("t", "--reports", "OUT"), 0),
    "model": (("t",), 0),
    "rank": (("t", "mine.csv", "--output", "OUT/ranked.csv"), 0),
    "intervals": (("t", "t", "t", "--reports", "OUT"), 2),
    "simulate": (("--study", "t", "--workers", "2", "--trials", "4"), 0),
    "copy": ((), 0),
    "doctor": ((), 0),
    "sbatch": (("t",), 0),
}
# These begin or change something, or open no storage.
OTHERS = {
    "run", "resume", "worker", "submit", "refill", "stop", "budget", "delete", "nested", "wandb",
    "adopt", "enqueue", "check", "features", "db", "bench", "init",
}  # fmt: skip


@pytest.mark.slow
def test_every_command_reads_or_does_not():
    assert READING.keys() | OTHERS == COMMANDS.keys()
    assert not READING.keys() & OTHERS


def hold(path: Path, code: str) -> subprocess.Popen[str]:
    """Start a process that does something to a file, says so, and stays."""
    program = (
        "import sqlite3, sys, time, os\n"
        f"c = sqlite3.connect({str(path)!r}, isolation_level=None)\n{code}\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


EVENT = "INSERT INTO hpo_events (study_id, at, kind, detail) VALUES (99, 0, 'x', '{}')"
WRITE = f"c.execute({EVENT!r})"
# More pages than fit into its cache: some are in the file before it is committed.
SPILL = (
    "c.execute('PRAGMA cache_size=1')\nc.execute('BEGIN IMMEDIATE')\n"
    "c.execute('CREATE TABLE big (x)')\n"
    "c.executemany('INSERT INTO big VALUES (?)', [('x' * 3000,)] * 300)"
)


def at_rest(path: Path) -> None:
    """Nothing beside it."""


def deleting(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    connection.close()


def living(path: Path) -> subprocess.Popen[str]:
    return hold(path, WRITE)


def idle(path: Path) -> subprocess.Popen[str]:
    return hold(path, "c.execute('SELECT * FROM hpo_events').fetchall()")


def killed(path: Path) -> None:
    process = hold(path, WRITE)
    process.kill()
    process.communicate()


def without_index(path: Path) -> None:
    killed(path)
    path.with_name(f"{path.name}-shm").unlink()


def hot(path: Path) -> None:
    deleting(path)
    process = hold(path, SPILL)
    process.kill()
    process.communicate()


def writing(path: Path) -> subprocess.Popen[str]:
    deleting(path)
    return hold(path, f"c.execute('BEGIN IMMEDIATE')\n{WRITE}")


# How a file can be found, and what lies beside it then.
KINDS: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "write-ahead, at rest": (at_rest, set()),
    "delete, at rest": (deleting, set()),
    "write-ahead, written by others": (living, {"-wal", "-shm"}),
    "write-ahead, open by others": (idle, {"-wal", "-shm"}),
    "write-ahead, its writer killed": (killed, {"-wal", "-shm"}),
    "write-ahead, its index lost": (without_index, {"-wal"}),
    "delete, its writer killed": (hot, {"-journal"}),
    "delete, written by others": (writing, {"-journal"}),
}


@contextlib.contextmanager
def found_as(kind: str, finished: Path, folder: Path) -> Iterator[Path]:
    """Give a copy of the finished study as a file of one kind."""
    path = folder / "hpo.db"
    shutil.copy(finished / "hpo.db", path)
    make, beside = KINDS[kind]
    process = make(path)
    try:
        there = {file.name.removeprefix("hpo.db") for file in folder.iterdir()} - {""}
        assert there == beside
        yield path
    finally:
        if process is not None:
            process.kill()
            process.communicate()


def seen(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file, by another process.

    This one would lose its locks on a file that it closes.
    """
    program = (
        "import pathlib, pickle, sys\n"
        f"found = {{p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in "
        f"pathlib.Path({str(folder)!r}).iterdir() if p.is_file()}}\n"
        "sys.stdout.buffer.write(pickle.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    found: dict[str, tuple[bytes, int]] = pickle.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", READING)
def test_a_reading_command_changes_nothing(
    command, kind, finished, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(finished)
    kept, out = tmp_path / "kept", tmp_path / "out"
    kept.mkdir()
    out.mkdir()
    given, code = READING[command]
    with found_as(kind, finished, kept) as path:
        url = f"sqlite:///{path}"
        arguments = [argument.replace("OUT", str(out)) for argument in given]
        arguments += ["--storage", url]
        if command == "copy":
            arguments = [url, f"sqlite:///{out / 'copy.db'}"]
        before = seen(kept)
        assert main([command, *arguments]) == code, capsys.readouterr()
        after = seen(kept)
        if kind.endswith("by others"):
            # Memory that the processes that have the file open share, and not a file's content.
            before.pop("hpo.db-shm", None)
            after.pop("hpo.db-shm", None)
        assert after == before
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    left = "index lost" in kind or kind == "delete, its writer killed"
    assert ("it is read from a copy" in caplog.text) == left


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_all_that_was_written(kind, finished, tmp_path):
    with found_as(kind, finished, tmp_path) as path:
        storage = open_storage(f"sqlite:///{path}", Access.READ)
        with storage.read() as c:
            found = c.exec_driver_sql("SELECT count(*) FROM hpo_events WHERE study_id = 99")
            n_written = found.scalar_one()
            assert c.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        # What was committed, and nothing that was not.
        assert n_written == (1 if make_of(kind) in (living, killed, without_index) else 0)
        with pytest.raises(DBAPIError), storage.write() as c:
            storage.record_event(c, 99, EventKind.STOP)


def make_of(kind: str) -> Callable[[Path], Any]:
    return KINDS[kind][0]


def as_nobody(arguments: list[str], answer: Any) -> None:
    out, err = io.StringIO(), io.StringIO()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    answer.send((code, out.getvalue(), err.getvalue()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_another_user_reads_a_file_that_may_not_be_written(kind, finished, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root becomes another user")
    monkeypatch.chdir("/")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with found_as(kind, finished, folder) as path:
            for file in folder.iterdir():
                file.chmod(0o444)
            folder.chmod(0o555)
            arguments = ["status", "t", "--storage", f"sqlite:///{path}"]
            # What is imported later could not be read by the other user.
            assert main(arguments) == 0
            before = seen(folder)
            context = multiprocessing.get_context("fork")
            mine, theirs = context.Pipe()
            process = context.Process(target=as_nobody, args=(arguments, theirs))
            process.start()
            process.join(60)
            assert mine.poll(), "no answer"
            code, out, err = mine.recv()
            assert (code, out.splitlines()[0].split(",")[0]) == (0, "t: finished"), err
            assert seen(folder) == before


@pytest.mark.slow
def test_what_a_writer_changes_meanwhile_is_refused(finished, tmp_path):
    path = tmp_path / "hpo.db"
    shutil.copy(finished / "hpo.db", path)
    storage = open_storage(f"sqlite:///{path}", Access.READ)

    def read_meanwhile() -> None:
        with storage.read() as c:
            assert c.exec_driver_sql("SELECT count(*) FROM studies").scalar_one() == 1
            # Its last connection brings what it wrote into the file itself.
            writer = sqlite3.connect(path, isolation_level=None)
            writer.execute("UPDATE hpo_studies SET budget = 7")
            writer.close()

    with pytest.raises(StorageError, match="was changed while it was read"):
        read_meanwhile()
    with storage.read() as c:
        assert c.exec_driver_sql("SELECT budget FROM hpo_studies").scalar_one() == 7


@pytest.mark.slow
def test_a_file_that_may_not_be_read_is_said(finished, tmp_path, monkeypatch, capsys):
    shutil.copy(finished / "hpo.db", tmp_path / "hpo.db")
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["status", "--storage", url]) == 2
    assert "this user may not read the file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_working_command_still_switches_to_write_ahead(finished, tmp_path):
    path = tmp_path / "hpo.db"
    shutil.copy(finished / "hpo.db", path)
    deleting(path)
    assert main(["budget", "t", "9", "--storage", f"sqlite:///{path}"]) == 0
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


# PostgreSQL ---------------------------------------------------------------------------------------


@pytest.fixture
def reader_url(finished: Path, postgres_url: str, postgres_server: Server) -> str:
    """The URL of a role that may read the finished study on PostgreSQL, and no more."""
    source = open_storage(f"sqlite:///{finished / 'hpo.db'}", Access.READ)
    target = open_storage(postgres_url, Access.CREATE)
    copy_studies(source, target)
    target.engine.dispose()
    url, role = sa.make_url(postgres_url), f"reader_{os.urandom(4).hex()}"
    with postgres_server.connect_as_admin(str(url.database)) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}".encode())
    return url.set(username=role, password="x").render_as_string(hide_password=False)


@pytest.mark.slow
@pytest.mark.parametrize("command", READING)
def test_a_role_that_may_only_read_can_read(
    command, reader_url, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(finished)
    given, code = READING[command]
    arguments = [argument.replace("OUT", str(tmp_path)) for argument in given]
    arguments += ["--storage", reader_url]
    if command == "copy":
        arguments = [reader_url, f"sqlite:///{tmp_path / 'copy.db'}"]
    assert main([command, *arguments]) == code, capsys.readouterr()


@pytest.mark.slow
def test_reading_writes_nothing_even_where_it_might(finished, postgres_url):
    source = open_storage(f"sqlite:///{finished / 'hpo.db'}", Access.READ)
    target = open_storage(postgres_url, Access.CREATE)
    copy_studies(source, target)
    target.engine.dispose()
    storage = open_storage(postgres_url, Access.READ)
    with pytest.raises(DBAPIError, match="read-only transaction"), storage.write() as c:
        storage.record_event(c, 1, EventKind.STOP)
    storage.engine.dispose()


@pytest.mark.slow
def test_a_table_that_may_not_be_read_is_said(reader_url, postgres_url, capsys):
    role = sa.make_url(reader_url).username
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"REVOKE SELECT ON hpo_workers FROM {role}".encode())
    assert main(["provenance", "t", "--storage", reader_url]) == 2
    assert "permission denied for table hpo_workers" in capsys.readouterr().err


# What has to be written down ----------------------------------------------------------------------


@pytest.mark.slow
def test_no_evaluation_of_the_test_set_goes_unrecorded(begin_study, tmp_path, monkeypatch, capsys):
    from tests.support.pages import work

    monkeypatch.chdir(tmp_path)
    record = begin_study(trials=2)
    work(record)
    record.storage.engine.dispose()
    path = tmp_path / "hpo.db"
    url = f"sqlite:///{path}"
    page = Path("reports/small/report.html")

    def evaluations() -> int:
        storage = open_storage(url, Access.READ)
        return len(find(storage, "small").ledger.events(EventKind.TEST_EVALUATION))

    def refuse(*_: Any) -> None:
        raise StorageError("may not be written")

    with monkeypatch.context() as patch:
        patch.setattr("hpo.study.record.open_storage", refuse)
        assert main(["report", "small", "--storage", url]) == 0
    assert evaluations() == 0
    assert "The test set was left alone" in page.read_text()
    assert "(may not be written)" in page.read_text()
    assert main(["report", "small", "--storage", url]) == 0
    assert evaluations() == 1
    assert "Held-out test set" in page.read_text()
    # Once it is written down, a page of it needs nothing but reading.
    before = seen(tmp_path)["hpo.db"]
    assert main(["report", "small", "--storage", url]) == 0
    assert seen(tmp_path)["hpo.db"] == before
    assert evaluations() == 1
