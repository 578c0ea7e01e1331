"""A PostgreSQL server of one's own: in one folder, under one's own account, no administrator.

    DIR/url           the address with the password, for `--storage DIR` (only its owner may read)
    DIR/service       the same for PostgreSQL's own programs: PGSERVICEFILE=DIR/service
    DIR/admin         the password of the superuser, which no worker needs
    DIR/root.crt      the server's certificate, which clients need beside `url`; DIR/server.key
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
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hpo.errors import HpoError
from hpo.storage.postgres.address import (
    ADMIN,
    DATABASE,
    HERE,
    ROLE,
    answers,
    connect,
    free_port,
    is_free,
    is_loopback,
    make_url,
    outward_address,
)
from hpo.storage.postgres.backup import write_backup
from hpo.storage.postgres.certificate import CERTIFICATE, KEY, make_certificate, require_tls
from hpo.storage.postgres.configuration import SETTINGS, logins_text, settings_text
from hpo.storage.postgres.programs import Programs, find_programs, first_line, last_line
from hpo.storage.postgres.roles import separate
from hpo.storage.postgres.status import (
    ServerStatus,
    Started,
    is_alive,
    is_server_of,
    recorded_pid,
)
from hpo.storage.urls import URL_FILE, parse_url
from hpo.system.atomic_files import write_private
from hpo.system.filesystem import locate

DEFAULT_CONNECTIONS = 500
_START_TIMEOUT_S = 60
_SOCKET_PATH_BYTES = 107
_SHELL_SIGNS = '"$`\\\n\r'


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
        self._admin = self.folder / "admin"

    # Starting ---------------------------------------------------------------------------------

    def start(
        self,
        host: str | None = None,
        connections: int | None = None,
        settings: Mapping[str, str | int] | None = None,
        *,
        share: bool | None = None,
        tls: bool | None = None,
    ) -> Started:
        """Start the server, after making it if there is none, and wait until it answers.

        Parameters
        ----------
        host
            The address to listen on and to write into the URL, 127.0.0.1 by default: this machine
            alone. Kept for later starts, as are all but `settings`.
        connections
            How many connections the server allows.
        settings
            Settings of PostgreSQL that replace ours, for this start.
        share
            Whether other machines are let in: without a `host` the server listens on all addresses,
            and the URL has the name of this machine.
        tls
            Whether other machines have to use TLS, as they have unless this is False.

        Raises
        ------
        HpoError
            If it cannot be started, was started on another machine, or would let other machines in
            without TLS.
        """
        self._prepare_folder()
        with self._alone():
            self._refuse_other_node("start")
            given = {"host": host, "connections": connections, "share": share, "tls": tls}
            given = {name: value for name, value in given.items() if value is not None}
            kept = self._recall(given)
            if self._pid() is not None:
                self._keep(kept)
                return Started(self.address, True, self._notes_of_running(given))
            if kept["share"] and kept["tls"]:
                require_tls(self._programs(tls=True))
                make_certificate(self.folder)
            self._keep(kept)
            if not self.data.is_dir():
                self._make_cluster(tls=kept["share"] and kept["tls"])
            return self._start(kept, settings or {})

    def _notes_of_running(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        notes = []
        if given:
            notes.append("it must be stopped first to change its settings")
        if not self._admin.exists():
            notes.append(
                "an earlier version of hpo made it, and its workers may do anything on "
                "this machine; stop and start it to take these rights from them"
            )
        return tuple(notes)

    def _prepare_folder(self) -> None:
        if odd := sorted({*str(self.folder)} & {*_SHELL_SIGNS}):
            raise HpoError(
                f"{str(self.folder)!r}: pg_ctl, which starts the server through a shell, takes no "
                f"folder with {', '.join(map(repr, odd))}; give another one"
            )
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

    def _recall(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was asked for at earlier starts, with what is asked for now over it."""
        kept: dict[str, Any] = {"host": None, "connections": DEFAULT_CONNECTIONS}
        if self._kept.exists():
            kept |= json.loads(self._kept.read_text(encoding="utf-8"))
        if "share" not in kept:
            # Earlier versions listened on all addresses, and knew of no TLS.
            open_to_all = self.data.is_dir() and not is_loopback(kept["host"] or "")
            kept |= {"share": open_to_all, "tls": not open_to_all}
        kept |= given
        if "host" in given and "share" not in given:
            kept["share"] = not is_loopback(given["host"])
        if kept["share"] and is_loopback(kept["host"] or ""):
            kept["host"] = None
        return kept

    def _keep(self, kept: Mapping[str, Any]) -> None:
        write_private(self._kept, json.dumps(kept) + "\n")

    def _make_cluster(self, *, tls: bool) -> None:
        """Make the data folder as a whole or not at all."""
        made = self.folder / "data.new"
        if made.exists():
            shutil.rmtree(made)
        write_private(self._admin, secrets.token_urlsafe(24))
        done = find_programs(tls=tls).run(
            "initdb",
            *("-D", made, "--username", ADMIN, "--pwfile", self._admin),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            "--data-checksums",
            as_server=True,
        )
        if done.returncode != 0:
            raise HpoError(f"{self.folder}: initdb failed: {last_line(done.stderr)}")
        with (made / "postgresql.conf").open("a", encoding="utf-8") as stream:
            stream.write("\n# Written anew at every start; what comes after it wins.\n")
            stream.write("include 'hpo.conf'\n")
        self._write_address("localhost", free_port(), secrets.token_urlsafe(24))
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
        if not self._admin.exists():
            write_private(self._admin, secrets.token_urlsafe(24))
        shared, tls = kept["share"], kept["share"] and kept["tls"]
        if shared and not tls:
            notes.append(
                "without TLS: others on the network could read what workers send (but no "
                f"password); keep to this machine: hpo db start {self.folder} --host 127.0.0.1"
            )
        with_socket = self._configure(kept, port, with_socket=not place.network, settings=settings)
        logins = logins_text(shared=shared, tls=tls)
        write_private(self.data / "pg_hba.conf", logins)
        write_private(self._node, socket.gethostname() + "\n")
        try:
            self._launch()
        except HpoError:
            self._node.unlink()
            raise
        near = str(self.folder) if with_socket else self._listening_on(kept)[1]
        if self._separate_roles(near, port, password):
            notes.append("workers have lost the rights of a superuser, which they do not need")
        certificate = self.folder / CERTIFICATE if tls else None
        address, remark = self._reachable_address(kept, port, password, certificate)
        notes += [remark] if remark else []
        self._write_address(address, port, password, certificate)
        return Started(self.address, False, tuple(notes))

    def _configure(
        self,
        kept: Mapping[str, Any],
        port: int,
        *,
        with_socket: bool,
        settings: Mapping[str, str | int],
    ) -> bool:
        """Write the settings of a start, and return whether there will be a local socket."""
        socket_path = os.fsencode(self.folder / f".s.PGSQL.{port}")
        with_socket = with_socket and len(socket_path) <= _SOCKET_PATH_BYTES
        values = {
            **SETTINGS,
            "listen_addresses": self._listening_on(kept)[0],
            "port": port,
            # A list in which only quotes protect a comma or a space.
            "unix_socket_directories": f'"{self.folder}"' if with_socket else "",
            "unix_socket_permissions": "0700",
            "max_connections": kept["connections"],
        }
        if kept["share"] and kept["tls"]:
            files = {"ssl_cert_file": CERTIFICATE, "ssl_key_file": KEY}
            values |= {key: str(self.folder / name) for key, name in files.items()}
            values |= {"ssl": "on", "ssl_min_protocol_version": "TLSv1.2"}
        write_private(self.data / "hpo.conf", settings_text({**values, **settings}))
        return with_socket

    def _listening_on(self, kept: Mapping[str, Any]) -> tuple[str, str]:
        """Return the addresses to listen on, and the one among them for this process."""
        host = kept["host"] or ("" if kept["share"] else HERE)
        return host or "*", host or HERE

    def _separate_roles(self, near: str, port: int, password: str) -> bool:
        def connect_as(role: str, word: str, database: str) -> Any:
            return connect(make_url(near, port, word, role=role), database)

        import psycopg

        try:
            return separate(connect_as, password, self._admin.read_text(encoding="utf-8").strip())
        except psycopg.Error as exc:
            self._stop()
            raise HpoError(
                f"{self.folder}: its roles cannot be set up: {first_line(str(exc))}"
            ) from exc

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
                reason = fatal[-1].split("FATAL: ")[1].strip() if fatal else last_line(done.stderr)
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
        self, kept: Mapping[str, Any], port: int, password: str, certificate: Path | None
    ) -> tuple[str, str | None]:
        """Return the first address that answers, and a remark if it is not the best one."""
        name, host = socket.gethostname(), kept["host"] or (None if kept["share"] else HERE)
        candidates = [host] if host else [name, socket.getfqdn(), outward_address(), HERE]
        for address in candidates:
            if address and answers(make_url(address, port, password, certificate)):
                if address in (host, name):
                    return address, None
                remark = f"the name of this machine ({name}) leads nowhere: using {address}"
                if address == HERE:
                    remark += ", which no other machine can use (else: --host ADDRESS)"
                return address, remark
        self._stop()
        raise HpoError(
            f"{self.folder}: the server answers under none of {', '.join(filter(None, candidates))}"
            "; give an address of this machine: --host ADDRESS"
        )

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
                f"{self.folder}: the server does not stop: {last_line(done.stderr)}; see {self.log}"
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
            return ServerStatus(**status, problem=first_line(str(exc)))
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
        return write_backup(self.folder, self.service, self._programs(), output)

    # What the folder says ---------------------------------------------------------------------

    def _require(self) -> None:
        if not self.data.is_dir():
            raise HpoError(f"{self.folder}: no server; make one with: hpo db start {self.folder}")

    def _programs(self, *, tls: bool = False) -> Programs:
        version = self.data / "PG_VERSION"
        major = int(version.read_text(encoding="ascii")) if version.exists() else None
        return find_programs(major, tls=tls)

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
        return parse_url(str(self.folder))

    def connect_as_admin(self, database: str = "postgres") -> Any:
        """Connect as the superuser, from this machine."""
        url, word = self._url(), self._admin.read_text(encoding="utf-8").strip()
        return connect(url.set(username=ADMIN, password=word), database)

    def _write_address(
        self, host: str, port: int, password: str, certificate: Path | None = None
    ) -> None:
        url = make_url(host, port, password, certificate)
        write_private(self.folder / URL_FILE, url.render_as_string(hide_password=False) + "\n")
        lines = [
            f"[{ROLE}]",
            *(f"host={host}", f"port={port}"),
            *(f"user={ROLE}", f"dbname={DATABASE}", f"password={password}"),
            *(f"{key}={value}" for key, value in url.query.items()),
        ]
        write_private(self.service, "\n".join(lines) + "\n")

    def _connect(self, database: str = DATABASE) -> Any:
        return connect(self._url(), database)
