"""What workers and other machines may do on a PostgreSQL server of one's own."""

from __future__ import annotations

import json
import shutil
import stat
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
from hpo.storage.postgres.certificate import make_certificate
from hpo.storage.postgres.server import Server
from hpo.storage.urls import resolve_url
from tests.support.databases import count_events, password
from tests.support.requirements import unavailable


@pytest.fixture
def hpo(capsys):
    """Run `hpo ARGUMENTS`."""

    def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def allowed_statements(url: str) -> list[str]:
    """Try what only a superuser may do, and return what was allowed."""
    statements = (
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/hpo-was-here'",
        "SELECT pg_read_file('pg_hba.conf')",
        "SELECT lo_import('/etc/passwd')",
        "CREATE ROLE other SUPERUSER",
        "ALTER ROLE hpo SUPERUSER",
        "ALTER SYSTEM SET log_statement = 'all'",
        "SELECT rolpassword FROM pg_authid",
        "CREATE DATABASE other",
        "SET ROLE hpo_admin",
        "CREATE FUNCTION f() RETURNS int AS '/x', 'f' LANGUAGE C",
    )
    allowed = []
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            try:
                connection.execute(statement.encode())
                allowed.append(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
    return allowed


def test_workers_may_do_nothing_but_work_on_their_database(postgres_server):
    url = resolve_url(str(postgres_server.folder))
    assert allowed_statements(url) == []
    storage = open_storage(url, Access.CREATE)
    with storage.write() as c:
        c.exec_driver_sql("CREATE TABLE IF NOT EXISTS later (x int)")
        c.exec_driver_sql("DROP TABLE later")
    storage.engine.dispose()


def make_older(server: Server) -> str:
    """Let a folder be as an earlier version left it: one role for all, a superuser."""
    storage = open_storage(str(server.folder), Access.CREATE)
    with storage.write() as c:
        storage.record_event(c, 7, EventKind.STOP)
    storage.engine.dispose()
    word = password(server)
    with server.connect_as_admin() as admin:
        admin.execute("CREATE ROLE mover SUPERUSER LOGIN PASSWORD 'x'")
    url = sa.make_url(resolve_url(str(server.folder)))
    mover = url.set(username="mover", password="x").render_as_string(hide_password=False)
    with psycopg.connect(mover, autocommit=True) as c:
        c.execute("REASSIGN OWNED BY hpo TO mover")
        c.execute("DROP ROLE hpo")
        c.execute("ALTER ROLE hpo_admin RENAME TO hpo")
        c.execute(f"ALTER ROLE hpo PASSWORD '{word}'".encode())
        c.execute("REASSIGN OWNED BY mover TO hpo")
    with psycopg.connect(resolve_url(str(server.folder)), autocommit=True) as c:
        c.execute("DROP ROLE mover")
    (server.folder / "admin").unlink()
    kept = json.loads((server.folder / "settings.json").read_text())
    (server.folder / "settings.json").write_text(
        json.dumps({"host": None, "connections": kept["connections"]})
    )
    return word


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_server_of_an_earlier_version_is_moved_over_at_its_next_start(
    hpo, tmp_path, interrupted, monkeypatch, postgres_server
):
    folder = tmp_path / "old"
    server = Server(folder)
    try:
        server.start(settings={"fsync": "off"})
        word = make_older(server)
        url = resolve_url(str(folder))
        with psycopg.connect(url) as connection:
            connection.execute("SELECT pg_read_file('pg_hba.conf')")
        _, error = hpo("db", "start", folder)
        assert "stop and start it to take these rights from them" in error
        server.stop()
        if interrupted:
            monkeypatch.setattr("hpo.storage.postgres.roles._hand_over", lambda admin: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                server.start(settings={"fsync": "off"})
            monkeypatch.undo()
            server.stop()
        _, error = hpo("db", "start", folder)
        assert interrupted or "workers have lost the rights of a superuser" in error
        assert "note: without TLS" in error, "as open as it was, but said"
        assert password(server) == word, "copies of the URL go on working"
        assert allowed_statements(resolve_url(str(folder))) == []
        assert count_events(folder) == 1
        storage = open_storage(str(folder), Access.CREATE)
        with storage.write() as c:
            storage.record_event(c, 7, EventKind.STOP)
            for table in ("hpo_events", "trials"):
                c.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN new int")
            c.exec_driver_sql("ALTER TYPE trialstate ADD VALUE 'NEW'")
        storage.engine.dispose()
        with server.connect_as_admin() as admin:
            roles = admin.execute("SELECT rolname FROM pg_roles WHERE rolsuper").fetchall()
        assert roles == [("hpo_admin",)]
    finally:
        server.stop()


def test_a_new_server_listens_to_this_machine_alone(postgres_server):
    with postgres_server.connect_as_admin() as admin:
        assert admin.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
    logins = (postgres_server.data / "pg_hba.conf").read_text()
    assert " all all all " not in logins


@pytest.mark.parametrize("options", [("--share",), ("--host", "192.0.2.1")])
def test_without_tls_other_machines_are_let_in_only_if_that_is_said(
    hpo, tmp_path, options, monkeypatch
):
    monkeypatch.setattr(postgres_programs.Programs, "has_tls", lambda self: False)
    _, error = hpo("db", "start", tmp_path / "new", *options, code=2)
    assert "was built without TLS" in error
    assert "--no-tls" in error
    assert not (tmp_path / "new" / "data").exists()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    """A server that lets other machines in, where there is a PostgreSQL that can."""
    server = Server(tmp_path_factory.mktemp("tls") / "server")
    try:
        server.start(share=True, settings={"fsync": "off"})
    except HpoError as exc:
        unavailable("postgresql-tls", str(exc))
    yield server
    server.stop()


@pytest.mark.slow
def test_other_machines_talk_to_the_holder_of_the_key_or_to_nobody(tls_server, tmp_path):
    url = sa.make_url(resolve_url(str(tls_server.folder)))
    certificate = tls_server.folder / "root.crt"
    assert url.query == {"sslmode": "verify-ca", "sslrootcert": str(certificate)}
    storage = open_storage(str(tls_server.folder), Access.CREATE)
    with storage.read() as c:
        query = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert tuple(c.exec_driver_sql(query).one()) == (True, "TLSv1.3")
    storage.engine.dispose()
    # A copy of the two files, on a machine that does not see the folder.
    elsewhere = tmp_path / "copies"
    elsewhere.mkdir(mode=0o700)
    shutil.copy(certificate, elsewhere)
    gone = url.update_query_dict({"sslrootcert": "/gone/root.crt"})
    (elsewhere / "url").write_text(gone.render_as_string(hide_password=False))
    (elsewhere / "url").chmod(0o600)
    assert sa.make_url(resolve_url(str(elsewhere / "url"))).query["sslrootcert"] == str(
        elsewhere / "root.crt"
    )
    open_storage(str(elsewhere / "url"), Access.READ).engine.dispose()
    # Another server with a certificate of its own is not talked to.
    make_certificate(tmp_path)
    wrong = url.update_query_dict({"sslrootcert": str(tmp_path / "root.crt")})
    with pytest.raises(StorageError, match="certificate verify failed"):
        open_storage(wrong.render_as_string(hide_password=False), Access.READ)
    hba = (tls_server.data / "pg_hba.conf").read_text()
    assert [line.split()[0] for line in hba.splitlines() if " all all all " in line] == ["hostssl"]
    assert stat.S_IMODE((tls_server.folder / "server.key").stat().st_mode) == 0o600
    path, _ = tls_server.backup()
    assert path.stat().st_size > 0
    assert allowed_statements(resolve_url(str(tls_server.folder))) == []
