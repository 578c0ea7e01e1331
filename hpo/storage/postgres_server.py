"""A PostgreSQL server of one's own: in one folder, under one's own account, no administrator.

    DIR/url           the address with the password, for `--storage DIR` (only its owner may read)
    DIR/service       the same for PostgreSQL's own programs: PGSERVICEFILE=DIR/service
    DIR/node          the machine that the server was started on, while it runs
    DIR/settings.json what was asked for at the first start and is kept
    DIR/data, DIR/log, DIR/backups

Two servers on one data folder destroy it. PostgreSQL guards against that on one machine; `node`
does between machines that share a file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hpo.errors import HpoError
from hpo.storage.postgres_address import (
    DATABASE,
    ROLE,
    answers,
    connect,
    free_port,
    is_free,
    make_url,
    outward_address,
    write_private,
)
from hpo.storage.postgres_programs import Programs, find_programs
from hpo.storage.postgres_status import (
    ServerStatus,
    Started,
    is_alive,
    is_server_of,
    recorded_pid,
)
from hpo.storage.urls import URL_FILE, resolve_url
from hpo.system.atomic_files import is_stream, replacing
from hpo.system.filesystem import locate

DEFAULT_CONNECTIONS = 500
_START_TIMEOUT_S = 60
_SOCKET_PATH_BYTES = 107

# A store that is small, shared by many, and must not lose what it was told.
_SETTINGS: Mapping[str, str | int] = {
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "min_wal_size": "64MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
    # Shared memory that belongs to a login is taken away by some systems when its owner logs out.
    "dynamic_shared_memory_type": "mmap",
    # A worker that vanished, or sleeps, within a transaction must not lock out the others.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": 30,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": "60s",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %h %a ",
}
_HBA = "local all all scram-sha-256\nhost all all all scram-sha-256\n"


class Server:
    """The server of one folder."""

    def __init__(self, folder: Path) -> None:
        try:
            self.folder = folder.expanduser().resolve()
        except RuntimeError as exc:  # nobody has that name, or links lead in a circle
            raise HpoError(f"{folder}: there is no such folder: {exc}") from exc
        self.data = self.folder / "data"
        self.log = self.folder / "log" / "server.log"
        self.service = self.folder / "service"
        self._node = self.folder / "node"
        self._kept = self.folder / "settings.json"

    # Starting ---------------------------------------------------------------------------------

    def start(
        self,
        host: str | None = None,
        connections: int | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> Started:
        """Start the server, after making it if there is none, and wait until it answers.

        Parameters
        ----------
        host
            The address to listen on and to write into the URL. By default the server listens on
            all addresses, and the URL has the name of this machine. Kept for later starts.
        connections
            How many connections the server allows. Kept for later starts.
        settings
            Settings of PostgreSQL that replace ours, for this start.

        Raises
        ------
        HpoError
            If it cannot be started, or was started on another machine.
        """
        self._prepare_folder()
        with self._alone():
            self._refuse_other_node("start")
            kept = self._keep(host, connections)
            if not self.data.is_dir():
                self._make_cluster()
            if self._pid() is not None:
                notes = ("it must be stopped first to change its settings",)
                return Started(self.address, True, notes if host or connections else ())
            return self._start(kept, settings or {})

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            there = sorted(path.name for path in self.folder.iterdir())
            # The lock is the first file that we make in a folder of our own.
            if there and "lock" not in there and not (self.data / "PG_VERSION").is_file():
                raise HpoError(
                    f"{self.folder}: is not empty ({there[0]}) and holds no server; give a "
                    "folder that is empty or does not exist"
                )
            (self.folder / "lock").touch(mode=0o600)
            self.folder.chmod(0o700)
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise HpoError(f"{self.folder}: cannot be used: {exc.strerror}") from exc

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time change the state of the server."""
        with (self.folder / "lock").open("w") as stream:
            # A file system without locks is no reason not to start.
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _keep(self, host: str | None, connections: int | None) -> dict[str, Any]:
        kept: dict[str, Any] = {"host": None, "connections": DEFAULT_CONNECTIONS}
        if self._kept.exists():
            kept |= json.loads(self._kept.read_text(encoding="utf-8"))
        given = {"host": host, "connections": connections}
        kept |= {name: value for name, value in given.items() if value is not None}
        write_private(self._kept, json.dumps(kept) + "\n")
        return kept

    def _make_cluster(self) -> None:
        """Make the data folder as a whole or not at all."""
        made = self.folder / "data.new"
        if made.exists():
            shutil.rmtree(made)
        password = secrets.token_urlsafe(24)
        word = self.folder / "data.new.password"
        write_private(word, password)
        try:
            done = find_programs().run(
                "initdb",
                *("-D", made, "--username", ROLE, "--pwfile", word),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
                "--data-checksums",
                as_server=True,
            )
        finally:
            word.unlink()
        if done.returncode != 0:
            raise HpoError(f"{self.folder}: initdb failed: {_last_line(done.stderr)}")
        (made / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
        with (made / "postgresql.conf").open("a", encoding="utf-8") as stream:
            stream.write("\n# Written anew at every start; what comes after it wins.\n")
            stream.write("include 'hpo.conf'\n")
        self._write_address("localhost", free_port(), password)
        made.rename(self.data)

    def _start(self, kept: Mapping[str, Any], settings: Mapping[str, str | int]) -> Started:
        notes = []
        url = self._url()
        password, port = str(url.password), url.port or 0
        if not is_free(port):
            notes.append(f"port {port} is taken by another program; workers must be started anew")
            port = free_port()
        place = locate(self.folder)
        if place.network:
            notes.append(
                f"{self.folder} is on a network file system ({place.type}): slower than a local "
                "disk, and never to be started on two machines"
            )
        self._configure(kept, port, with_socket=not place.network, settings=settings)
        write_private(self._node, socket.gethostname() + "\n")
        try:
            self._launch()
        except HpoError:
            self._node.unlink()
            raise
        address, remark = self._reachable_address(kept["host"], port, password)
        notes += [remark] if remark else []
        self._write_address(address, port, password)
        self._make_database()
        return Started(self.address, False, tuple(notes))

    def _configure(
        self,
        kept: Mapping[str, Any],
        port: int,
        *,
        with_socket: bool,
        settings: Mapping[str, str | int],
    ) -> None:
        socket_path = os.fsencode(self.folder / f".s.PGSQL.{port}")
        with_socket = with_socket and len(socket_path) <= _SOCKET_PATH_BYTES
        values = {
            **_SETTINGS,
            "listen_addresses": kept["host"] or "*",
            "port": port,
            # A list in which only quotes protect a comma or a space.
            "unix_socket_directories": f'"{self.folder}"' if with_socket else "",
            "unix_socket_permissions": "0700",
            "max_connections": kept["connections"],
            **settings,
        }
        lines = [f"{key} = '{_quoted(value)}'\n" for key, value in values.items()]
        write_private(self.data / "hpo.conf", "".join(lines))

    def _launch(self) -> None:
        """Start the process; after a kill -9 its orphans may need a moment to leave."""
        self._forget_strangers()
        programs = self._programs()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            begin = self.log.stat().st_size if self.log.exists() else 0
            done = programs.run(
                "pg_ctl",
                *("-D", self.data, "-l", self.log, "-w", "-t", str(_START_TIMEOUT_S)),
                *("-s", "start"),
                as_server=True,
            )
            if done.returncode == 0:
                return
            with self.log.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(begin)
                said = stream.read()
            orphans = "shared memory block" in said and "still in use" in said
            if not orphans or time.monotonic() > deadline:
                fatal = [line for line in said.splitlines() if "FATAL: " in line]
                reason = fatal[-1].split("FATAL: ")[1].strip() if fatal else _last_line(done.stderr)
                raise HpoError(
                    f"{self.folder}: the server does not start: {reason}; see {self.log}"
                )
            time.sleep(0.2)

    def _forget_strangers(self) -> None:
        """Remove locks of a server that is gone and whose process id is taken.

        After a reboot by some other program; in a container by what nobody reaped. PostgreSQL
        itself removes the locks whose process id is free.
        """
        for lock in (self.data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            pid = recorded_pid(lock)
            if pid is not None and is_alive(pid) and not is_server_of(self.data, pid):
                lock.unlink()

    def _reachable_address(
        self, host: str | None, port: int, password: str
    ) -> tuple[str, str | None]:
        """Return the first address that answers, and a remark if it is not the best one."""
        name = socket.gethostname()
        candidates = [host] if host else [name, socket.getfqdn(), outward_address(), "127.0.0.1"]
        for address in candidates:
            if address and answers(make_url(address, port, password)):
                if address in (host, name):
                    return address, None
                remark = f"the name of this machine ({name}) leads nowhere: using {address}"
                if address == "127.0.0.1":
                    remark += ", which no other machine can use (else: --host ADDRESS)"
                return address, remark
        self._stop()
        raise HpoError(
            f"{self.folder}: the server answers under none of {', '.join(filter(None, candidates))}"
            "; give an address of this machine: --host ADDRESS"
        )

    def _make_database(self) -> None:
        from psycopg import sql

        with self._connect("postgres") as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    # Looking and stopping ---------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The URL without its password."""
        return self._url().render_as_string(hide_password=True)

    def stop(self) -> bool:
        """Stop the server, and return whether it was running.

        Raises
        ------
        HpoError
            If it runs on another machine, or does not stop.
        """
        self._require()
        with self._alone():
            self._refuse_other_node("stop")
            was_running = self._pid() is not None
            if was_running:
                self._stop()
            self._node.unlink(missing_ok=True)
            return was_running

    def _stop(self) -> None:
        done = self._programs().run(
            "pg_ctl",
            *("-D", self.data, "-m", "fast", "-w", "-t", str(_START_TIMEOUT_S), "-s", "stop"),
            as_server=True,
        )
        if done.returncode != 0 and self._pid() is not None:
            raise HpoError(
                f"{self.folder}: the server does not stop: {_last_line(done.stderr)}; "
                f"see {self.log}"
            )
        self._node.unlink(missing_ok=True)

    def status(self) -> ServerStatus:
        """Say how the server is; works from other machines too."""
        import psycopg

        self._require()
        programs = self._programs()
        node = self._node.read_text(encoding="utf-8").strip() if self._node.exists() else None
        status: dict[str, Any] = {
            "folder": str(self.folder),
            "running": False,
            "node": node,
            "address": self.address,
            "version": programs.version,
            "programs": str(programs.folder),
        }
        if node is None or (node == socket.gethostname() and self._pid() is None):
            return ServerStatus(**status)
        try:
            with self._connect() as connection:
                row = connection.execute(
                    "SELECT pg_database_size(current_database()),"
                    " (SELECT count(*) FROM pg_stat_activity"
                    "  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),"
                    " current_setting('max_connections')::int,"
                    " extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8"
                ).fetchone()
        except psycopg.Error as exc:
            return ServerStatus(**status, problem=_first_line(str(exc)))
        assert row is not None
        names = ("size_bytes", "connections", "max_connections", "uptime_s")
        return ServerStatus(**{**status, "running": True}, **dict(zip(names, row, strict=True)))

    def backup(self, output: Path | None = None) -> tuple[Path, str]:
        """Write everything into one file, while workers work, and read its contents again.

        Parameters
        ----------
        output
            By default a new file below `DIR/backups`. Replaced as a whole if it exists.

        Returns
        -------
        The file, and the command that restores it.

        Raises
        ------
        HpoError
            If the server does not answer, or the file cannot be written.
        """
        self._require()
        programs = self._programs()
        if output is None:
            (self.folder / "backups").mkdir(mode=0o700, exist_ok=True)
            moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            output = self.folder / "backups" / f"hpo-{moment}.dump"
        if not is_stream(output):
            output = output.resolve()
        try:
            with replacing(output, 0o600) as partial:
                for name, arguments in (
                    ("pg_dump", ("--format=custom", "--no-password", f"--file={partial}")),
                    ("pg_restore", ("--list", partial)),
                ):
                    target = () if name == "pg_restore" else (f"--dbname=service={ROLE}",)
                    done = programs.run(
                        name, *arguments, *target, environment={"PGSERVICEFILE": str(self.service)}
                    )
                    if done.returncode != 0:
                        raise HpoError(
                            f"{self.folder}: {name} failed: {_first_line(done.stderr)}; "
                            f"is the server running? (hpo db status {self.folder})"
                        )
        except OSError as exc:
            raise HpoError(f"{output}: cannot be written: {exc.strerror}") from exc
        service, restore, written = (
            shlex.quote(str(path))
            for path in (self.service, programs.folder / "pg_restore", output)
        )
        command = (
            f"PGSERVICEFILE={service} {restore} --clean --if-exists --single-transaction "
            f"--dbname=service={ROLE} {written}"
        )
        return output, command

    # What the folder says ---------------------------------------------------------------------

    def _require(self) -> None:
        if not self.data.is_dir():
            raise HpoError(f"{self.folder}: no server; make one with: hpo db start {self.folder}")

    def _programs(self) -> Programs:
        version = (self.data / "PG_VERSION").read_text(encoding="ascii")
        return find_programs(int(version))

    def _refuse_other_node(self, what: str) -> None:
        if not self._node.exists():
            return
        node = self._node.read_text(encoding="utf-8").strip()
        if node == socket.gethostname():
            return
        said = "it answers" if answers(self._url()) else "it does not answer"
        raise HpoError(
            f"{self.folder}: its server was started on {node} ({said}), and two servers on one "
            f"folder destroy it; {what} it there. If {node} is gone for good: rm {self._node}"
        )

    def _pid(self) -> int | None:
        """Return the process id of the server; None if it does not run on this machine."""
        pid = recorded_pid(self.data / "postmaster.pid")
        return pid if pid is not None and is_alive(pid) and is_server_of(self.data, pid) else None

    def _url(self) -> sa.URL:
        if not (self.folder / URL_FILE).exists():
            raise HpoError(
                f"{self.folder / URL_FILE}: is missing, and with it the password; write it anew "
                f"(postgresql://{ROLE}:PASSWORD@HOST:PORT/{DATABASE}) from {self.service}"
            )
        return sa.make_url(resolve_url(str(self.folder)))

    def _write_address(self, host: str, port: int, password: str) -> None:
        url = make_url(host, port, password)
        write_private(self.folder / URL_FILE, url.render_as_string(hide_password=False) + "\n")
        lines = [
            f"[{ROLE}]",
            *(f"host={host}", f"port={port}"),
            *(f"user={ROLE}", f"dbname={DATABASE}", f"password={password}"),
        ]
        write_private(self.service, "\n".join(lines) + "\n")

    def _connect(self, database: str = DATABASE) -> Any:
        return connect(self._url(), database)


def _quoted(value: str | int) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "''")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].strip() if text.strip() else "no reason given"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip() if text.strip() else "no reason given"
