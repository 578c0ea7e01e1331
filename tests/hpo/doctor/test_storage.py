"""What `hpo doctor` finds in real storages: SQLite files and PostgreSQL servers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

import optuna
import pytest

from hpo.doctor import storage
from hpo.doctor.storage import check_storage
from hpo.records import Access
from hpo.system import filesystem
from hpo.system.filesystem import locate
from tests.support.folders import listing
from tests.support.requirements import unavailable


def test_a_storage_that_is_not_there_is_not_made(tmp_path):
    before = listing(tmp_path)
    for url in ("sqlite:///hpo.db", "sqlite:///no/such/folder/hpo.db"):
        findings = check_storage(url)
        assert [finding.verdict for finding in findings] == ["not checked"] * 3
        assert "does not exist yet" in findings[0].found
        assert "hpo run STUDY" in findings[0].remedy
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hpo.db", "hpo.db: not a database URL"),
        ("sqlite://", "need a file to share"),
        ("nosuchdb://u:secret@h/d", "has not been tried"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "onnection refused"),
        ("postgresql+nosuchdriver://u:secret@127.0.0.1:1/d", "nosuchdriver"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_a_problem(url, said):
    if "+psycopg:" in url:
        need_psycopg()
    findings = check_storage(url)
    assert [finding.verdict for finding in findings] == ["problem", "not checked", "not checked"]
    assert said in findings[0].found
    assert findings[0].remedy
    assert ("pip install" in findings[0].remedy) == ("nosuchdriver" in url)
    assert not any("secret" in str(finding) for finding in findings)


def test_a_damaged_page_is_found(begin_study, tmp_path):
    record = begin_study()
    record.storage.remove_session()
    record.storage.engine.dispose()
    path = tmp_path / "hpo.db"
    with sqlite3.connect(path) as connection:
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'hpo_studies'"
        ).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size : root * size] = b"\xff" * size
    path.write_bytes(content)
    findings = check_storage(f"sqlite:///{path}")
    assert findings[0].verdict == "problem"
    assert "restore a copy" in findings[0].remedy


def test_a_database_of_something_else_is_said_and_kept(tmp_path):
    path = tmp_path / "other.db"
    for mode in ("delete", "wal"):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        connection.close()
        before = path.read_bytes()
        finding = check_storage(f"sqlite:///{path}")[0]
        assert finding.verdict == "warning"
        assert f"mode {mode}" in finding.found
        assert "no studies in it" in finding.remedy
        assert path.read_bytes() == before


def test_a_storage_that_plain_optuna_made_keeps_its_mode(tmp_path):
    url = f"sqlite:///{tmp_path / 'plain.db'}"
    plain = optuna.storages.RDBStorage(url)
    plain.remove_session()
    plain.engine.dispose()
    before = (tmp_path / "plain.db").read_bytes()
    finding = check_storage(url)[0]
    assert finding.verdict == "warning"
    assert "mode delete" in finding.found
    assert "write-ahead mode" in finding.remedy
    assert (tmp_path / "plain.db").read_bytes() == before


def test_a_file_that_another_machine_may_be_working_on_is_not_opened(
    tmp_path, storage, monkeypatch
):
    mounts = tmp_path / "mounts"
    mounts.write_text("22 1 0:61 / / rw - nfs4 nas:/export rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", mounts)
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    with storage.read() as connection:
        storage.now(connection)
        findings = check_storage(url)
    assert [finding.verdict for finding in findings] == ["warning", "not checked", "not checked"]
    assert "nfs4 (network), and in use" in findings[0].found
    storage.remove_session()
    storage.engine.dispose()
    findings = check_storage(url)
    assert [finding.verdict for finding in findings] == ["warning", "ok", "ok"]
    assert "one machine alone" in findings[0].remedy


def test_a_file_that_another_program_holds_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_S", 0.1)
    holder = sqlite3.connect(tmp_path / "hpo.db", isolation_level=None)
    holder.execute("CREATE TABLE notes (text TEXT)")
    holder.execute("BEGIN EXCLUSIVE")
    finding = check_storage(f"sqlite:///{tmp_path / 'hpo.db'}")[0]
    holder.close()
    assert finding.verdict == "problem"
    assert "locked" in finding.found
    assert "restore" not in finding.remedy


def test_a_storage_of_another_version_is_a_problem(tmp_path, storage):
    if locate(tmp_path).network is not False:
        unavailable("disk", "the temporary folder is not known to be on a local file system")
    with storage.write() as connection:
        connection.exec_driver_sql("UPDATE version_info SET schema_version = 7")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    finding = check_storage(f"sqlite:///{tmp_path / 'hpo.db'}")[0]
    assert finding.verdict == "problem"
    assert "cannot be opened" in finding.found


def test_slow_writes_and_clocks_apart_are_warned_of(monkeypatch):
    monkeypatch.setattr(storage, "SLOW_WRITE_MS", 1.0)
    slow = storage._latency(lambda: None, lambda: time.sleep(0.002))
    assert slow.verdict == "warning"
    assert slow.figures["write_ms"] >= 2.0
    assert storage._latency(lambda: time.sleep(0.002), lambda: None).verdict == "ok"
    behind = storage._clock(lambda: time.time() - 7.0, "the database's clock")
    assert behind.verdict == "warning"
    assert behind.figures["skew_ms"] == pytest.approx(-7000, abs=500)
    assert "harmless" in behind.remedy
    assert storage._clock(time.time, "the database's clock").verdict == "ok"


def need_psycopg() -> None:
    if importlib.util.find_spec("psycopg") is None:
        unavailable("psycopg", "install psycopg[binary]")


@pytest.fixture
def postgres_url():
    """The URL of a PostgreSQL server of its own, which listens on a socket in its folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb", path=os.defpath) or (found[-1] if found else None)
    if initdb is None:
        unavailable("postgresql", "install the package postgresql")
    need_psycopg()
    programs = Path(initdb).resolve().parent
    # The server refuses to run as root, and its user must reach the folder.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="hpo-test-"))
    if user:
        shutil.chown(folder, user)
    try:
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "me", "-N"],
            user=user,
            cwd="/",
            check=True,
            capture_output=True,
        )
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            user=user,
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 30
            ready = [str(programs / "pg_isready"), "-q", "-h", str(folder)]
            while subprocess.run(ready, check=False).returncode != 0:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"postgresql+psycopg://me@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_server_is_looked_at_and_left_as_it_was(postgres_url):
    import sqlalchemy as sa

    from hpo.storage.backends import open_storage

    findings = check_storage(postgres_url)
    assert [finding.verdict for finding in findings] == ["ok", "ok", "ok"], findings
    assert "no studies yet" in findings[0].found
    storage = open_storage(postgres_url, Access.CREATE)
    tables = set(sa.inspect(storage.engine).get_table_names())
    storage.remove_session()
    storage.engine.dispose()
    findings = check_storage(postgres_url)
    assert [finding.verdict for finding in findings] == ["ok", "ok", "ok"], findings
    assert "of 100 connections used, fsync on, synchronous_commit on" in findings[0].found
    assert "no studies yet" not in findings[0].found
    assert findings[1].figures["write_ms"] > 0
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    assert set(sa.inspect(engine).get_table_names()) == tables
    engine.dispose()


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(monkeypatch):
    need_psycopg()
    monkeypatch.setattr(storage, "CONNECT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        findings = check_storage(f"postgresql+psycopg://u:secret@127.0.0.1:{port}/d")
    assert findings[0].verdict == "problem"
    assert "timeout" in findings[0].found
