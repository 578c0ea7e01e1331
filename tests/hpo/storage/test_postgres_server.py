"""A PostgreSQL server of one's own: started, killed, moved, backed up, and never given away."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from hpo.cli import main
from hpo.errors import HpoError, StorageError
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.storage.postgres import programs as postgres_programs
from hpo.storage.postgres.programs import find_programs
from hpo.storage.postgres.server import Server
from hpo.storage.schema import EVENTS
from hpo.storage.urls import resolve_url
from tests.support.databases import count_events, password
from tests.support.studies import ROOT, wait_until


@pytest.fixture
def running(postgres_server):
    """The server that all tests share, made to run again if a test stopped it."""
    yield postgres_server
    postgres_server.start(settings={"fsync": "off"})


@pytest.fixture
def hpo(capsys):
    """Run `hpo ARGUMENTS`."""

    def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def server_pid(server: Server) -> int:
    return int((server.data / "postmaster.pid").read_text().splitlines()[0])


@pytest.mark.slow
def test_a_server_from_its_start_to_its_end(hpo, tmp_path, postgres_server):
    folder = tmp_path / "new" / "my store"
    server = Server(folder)
    try:
        out, error = hpo("db", "start", folder, "--host", "127.0.0.1", "--connections", "20")
        assert out == f"export HPO_STORAGE='{folder}'\n"
        assert "started: postgresql://hpo:***@127.0.0.1:" in error
        secret = password(server)
        said = out + error
        again, error = hpo("db", "start", folder)
        assert again == out
        assert "already running" in error
        told, _ = hpo("db", "status", folder)
        assert "of 20 connections in use" in told
        state = json.loads(hpo("db", "status", folder, "--json")[0])
        assert state["running"]
        assert state["node"] == socket.gethostname()
        assert state["max_connections"] == 20
        assert state["size_bytes"] > 1e6
        command = Path(f"/proc/{server_pid(server)}/cmdline")
        said += again + error + told + json.dumps(state) + server.log.read_text()
        said += command.read_text() if command.exists() else ""
        assert secret not in said
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("url", "service", "node", "admin"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        hba = (server.data / "pg_hba.conf").read_text().split("\n")
        assert {line.split()[-1] for line in hba if line} == {"scram-sha-256", "reject"}
        _, error = hpo("db", "stop", folder)
        assert "stopped" in error
        assert "was not running" in hpo("db", "stop", folder)[1]
        assert "not running; start it with" in hpo("db", "status", folder)[0]
        hpo("status", "--storage", folder, code=2)
        # What was asked for at the first start, the port among it, is kept.
        hpo("db", "start", folder)
        after = json.loads(hpo("db", "status", folder, "--json")[0])
        assert (after["address"], after["max_connections"]) == (state["address"], 20)
    finally:
        server.stop()


def test_a_storage_is_a_url_a_folder_or_a_file(running, hpo, tmp_path):
    url = resolve_url(str(running.folder))
    assert url.startswith("postgresql://hpo:")
    assert resolve_url(str(running.folder / "url")) == url
    assert resolve_url(f"@{running.folder / 'url'}") == url
    assert resolve_url("sqlite:///hpo.db") == "sqlite:///hpo.db"
    with pytest.raises(StorageError, match="hpo db start"):
        resolve_url(str(tmp_path))
    with pytest.raises(StorageError, match="cannot be read"):
        resolve_url("@nowhere")
    shared = tmp_path / "url"
    shared.write_text(url)
    shared.chmod(0o640)
    with pytest.raises(StorageError, match=f"chmod 600 {shared}") as caught:
        resolve_url(str(shared))
    assert password(running) not in str(caught.value)
    shared.chmod(0o600)
    shared.write_text("precious notes")
    with pytest.raises(StorageError, match="holds no database URL"):
        resolve_url(str(shared))
    open_storage(f"sqlite:///{tmp_path / 'x.db'}", Access.CREATE).engine.dispose()
    with pytest.raises(StorageError, match=f"give its URL: sqlite:///{tmp_path / 'x.db'}"):
        resolve_url(str(tmp_path / "x.db"))


def test_what_is_wrong_with_a_server_is_said_in_one_line_without_the_password(postgres_url):
    url = sa.make_url(postgres_url)
    secret = str(url.password)
    cases = {
        url: "no study was ever begun in this database",
        url.set(password=f"not-{secret}"): "password authentication failed",
        url.set(database="nowhere"): 'database "nowhere" does not exist; databases and roles',
        url.set(port=1): "hpo db status DIR, hpo db start DIR",
        url.set(host="nowhere.invalid"): "hpo db status DIR, hpo db start DIR",
    }
    for wrong, message in cases.items():
        with pytest.raises(StorageError) as caught:
            open_storage(wrong.render_as_string(hide_password=False), Access.WORK)
        assert message in str(caught.value)
        assert secret not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_way_to_write_postgresql_is_psycopg_with_two_connections(postgres_url, name):
    storage = open_storage(postgres_url.replace("postgresql", name, 1), Access.CREATE)
    assert storage.engine.url.drivername == "postgresql+psycopg"
    query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    with storage.read() as first, storage.read() as second:
        assert first.execute(query).scalar_one() == second.execute(query).scalar_one() == 2
        assert first.exec_driver_sql("SHOW application_name").scalar_one() == "hpo"
        storage.engine.pool._timeout = 0.1  # type: ignore[attr-defined]
        with pytest.raises(sa.exc.TimeoutError), storage.read():
            pass
    storage.engine.dispose()


def test_a_killed_server_is_started_again_and_nothing_is_lost(running, postgres_url):
    storage = open_storage(postgres_url, Access.CREATE)
    with storage.write() as c:
        storage.record_event(c, 1, EventKind.STOP)
    pid, address = server_pid(running), running.address
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not running.status().running)
    started = running.start(settings={"fsync": "off"})
    assert not started.already
    assert started.address == address
    assert server_pid(running) != pid
    # The same storage goes on with a new connection.
    with storage.read() as c:
        assert c.execute(sa.select(EVENTS.c.kind)).scalar_one() == EventKind.STOP
    storage.engine.dispose()


def test_a_killed_backend_takes_no_worker_along(running, postgres_url):
    storage = open_storage(postgres_url, Access.CREATE)
    with storage.read() as c:
        backend = c.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    os.kill(backend, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{backend}").exists())
    wait_until(lambda: running.status().running)
    with storage.write() as c:
        storage.record_event(c, 1, EventKind.BUDGET)
    storage.engine.dispose()


def test_a_process_id_that_is_another_programs_by_now_is_no_server(running):
    running.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        lines = [str(stranger.pid), str(running.data), "1", "5432", "", "*", "1 1", "ready", ""]
        (running.data / "postmaster.pid").write_text("\n".join(lines))
        assert not running.status().running
        assert not running.start(settings={"fsync": "off"}).already
        assert running.status().running
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_outlives_the_session_that_started_it(running):
    running.stop()
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", "db", "start", str(running.folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Ends as soon as nobody holds the pipes, the server neither.
    process.communicate(timeout=60)
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, signal.SIGHUP)
    assert os.getsid(server_pid(running)) != process.pid
    assert running.status().running


def test_a_server_of_another_machine_is_left_alone(running, hpo):
    running.stop()
    (running.folder / "node").write_text("login2\n")
    try:
        for what in ("start", "stop"):
            _, error = hpo("db", what, running.folder, code=2)
            assert "was started on login2 (it does not answer)" in error
            assert f"rm {running.folder}/node" in error
        told, _ = hpo("db", "status", running.folder)
        assert "does not answer" in told
        assert "started on login2" in told
    finally:
        (running.folder / "node").unlink()


def test_a_lost_address_is_not_mistaken_for_a_missing_server(running, hpo):
    running.stop()
    url = running.folder / "url"
    url.rename(running.folder / "lost")
    try:
        for what in ("start", "status"):
            assert (
                "is missing, and with it the password" in hpo("db", what, running.folder, code=2)[1]
            )
    finally:
        (running.folder / "lost").rename(url)


def test_a_port_that_is_taken_is_replaced_and_said(running):
    running.stop()
    port = sa.make_url(resolve_url(str(running.folder))).port
    with socket.create_server(("127.0.0.1", port or 0)):
        started = running.start(settings={"fsync": "off"})
    assert f"port {port} is taken" in started.notes[0]
    assert running.status().running


def start_at_once(folder: str, start) -> None:
    start.wait()
    Server(Path(folder)).start("127.0.0.1", settings={"fsync": "off"})


@pytest.mark.slow
def test_two_starts_at_once_make_one_server(tmp_path, postgres_server):
    folder = tmp_path / ("long" * 30)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    both = [context.Process(target=start_at_once, args=(str(folder), start)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=60)
    try:
        assert [process.exitcode for process in both] == [0, 0]
        assert Server(folder).status().running
        # The path of a socket in this folder would be longer than any system allows.
        assert not list(folder.glob(".s.PGSQL*"))
    finally:
        Server(folder).stop()


def test_a_backup_of_a_busy_server_is_restored_by_the_command_that_is_said(running, hpo, tmp_path):
    storage = open_storage(str(running.folder), Access.CREATE)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with storage.write() as c:
                storage.record_event(c, 1, EventKind.SUBMITTED, first=1)
                storage.record_event(c, 1, EventKind.SUBMITTED, second=2)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: count_events(running.folder) > 10)
        out, error = hpo("db", "backup", running.folder, "--output", tmp_path / "a b.dump")
    finally:
        ended.set()
        worker.join()
    last = count_events(running.folder)
    assert out == f"{tmp_path / 'a b.dump'}\n"
    assert stat.S_IMODE((tmp_path / "a b.dump").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a b.dump"]
    assert password(running) not in error
    storage.engine.dispose()
    subprocess.run(error.removeprefix("to restore it: "), shell=True, check=True)
    restored = count_events(running.folder)
    assert 10 < restored <= last
    assert restored % 2 == 0
    default, _ = hpo("db", "backup", running.folder)
    assert Path(default.strip()).parent == running.folder / "backups"
    running.stop()
    _, error = hpo("db", "backup", running.folder, "--output", tmp_path / "b.dump", code=2)
    assert "pg_dump failed" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a b.dump"]


def test_a_machine_whose_name_leads_nowhere_gets_an_address_that_works(running, monkeypatch):
    running.stop()
    kept = running.folder / "settings.json"
    before = kept.read_text()
    kept.write_text("{}")
    monkeypatch.setattr(socket, "gethostname", lambda: "nowhere.invalid")
    monkeypatch.setattr(socket, "getfqdn", lambda: "nowhere.invalid")
    try:
        started = running.start(settings={"fsync": "off"})
        assert "nowhere.invalid" not in started.address
        assert "the name of this machine (nowhere.invalid) leads nowhere: using" in started.notes[1]
        assert running.status().running
    finally:
        running.stop()
        kept.write_text(before)


def test_a_folder_with_something_else_in_it_is_refused_and_kept(hpo, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").write_text("years")
    _, error = hpo("db", "start", tmp_path, code=2)
    assert "is not empty (thesis.tex)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    for what in ("stop", "status", "backup"):
        assert "no server; make one with: hpo db start" in hpo("db", what, tmp_path, code=2)[1]


def test_an_address_of_no_machine_is_said_with_the_servers_own_words(hpo, tmp_path, running):
    running.stop()
    copied = tmp_path / "copy"
    shutil.copytree(running.folder, copied, ignore=shutil.ignore_patterns("*.s.PGSQL*"))
    _, error = hpo("db", "start", copied, "--host", "192.0.2.7", "--no-tls", code=2)
    assert "the server does not start: could not create any TCP/IP sockets" in error
    assert not (copied / "node").exists()


def test_data_of_a_version_that_is_not_here_name_both(running, tmp_path):
    with pytest.raises(HpoError, match="made by PostgreSQL 12, and here is only 1"):
        find_programs(12)
    newest = find_programs()
    assert find_programs(newest.major) == newest
    assert newest.folder.joinpath("initdb").is_file()


def test_root_without_name_spaces_is_sent_to_an_ordinary_account(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(HpoError, match=r"refuses to run as root.*use an ordinary account"):
        postgres_programs._prefix()


def test_others_on_the_machine_get_nowhere_without_the_password(running):
    url = sa.make_url(resolve_url(str(running.folder)))
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=url.host, port=url.port, user="hpo", dbname="hpo", passfile=os.devnull)
    if list(running.folder.glob(".s.PGSQL*")):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host=str(running.folder), port=url.port, user="hpo", dbname="hpo", passfile="/x"
            )
