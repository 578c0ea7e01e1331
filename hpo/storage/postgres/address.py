"""Addresses of a PostgreSQL server of one's own: its URL, a free port, how it is reached."""

from __future__ import annotations

import ipaddress
import random
import socket
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hpo.errors import HpoError

ROLE = DATABASE = "hpo"
# The superuser, who is for `hpo db` alone.
ADMIN = "hpo_admin"
HERE = "127.0.0.1"
# Below the ports that systems give to outgoing connections, above those of known services.
_PORTS = range(20_000, 32_768)


def make_url(
    host: str, port: int, password: str, certificate: Path | None = None, role: str = ROLE
) -> sa.URL:
    """Return the URL of a server of one's own; with its certificate, no other one is talked to."""
    tls = {"sslmode": "verify-ca", "sslrootcert": str(certificate)}
    return sa.URL.create(
        "postgresql",
        username=role,
        password=password,
        host=host,
        port=port,
        database=DATABASE,
        query=tls if certificate else {},
    )


def connect(url: sa.URL, database: str) -> Any:
    """Connect to a database of a server, for administration."""
    import psycopg

    tls: dict[str, Any] = dict(url.query)
    return psycopg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        dbname=database,
        **tls,
        connect_timeout=5,
        application_name="hpo db",
        autocommit=True,
    )


def answers(url: sa.URL) -> bool:
    """Return whether a server answers under a URL."""
    import psycopg

    try:
        connect(url, "postgres").close()
    except psycopg.Error:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether an address reaches the machine itself and no other."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        if is_free(port):
            return port
    raise HpoError("no free port found on this machine")


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError:
            # A machine without IPv6 has nothing listening there.
            if family == socket.AF_INET:
                return False
    return True


def outward_address() -> str | None:
    """Return the address that this machine has towards others; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None
