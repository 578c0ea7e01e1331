"""Databases of one test each on a shared PostgreSQL server."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.postgres.server import Server
from hpo.storage.schema import EVENTS
from hpo.storage.urls import parse_url


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """Make an empty database, and drop it at the end, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    url = _administer(server, f"CREATE DATABASE {name} OWNER hpo")
    yield url.set(database=name).render_as_string(hide_password=False)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server: Server, statement: str) -> sa.URL:
    """Carry out a statement; a connection of its own, since a test may have stopped the server."""
    with server.connect_as_admin() as connection:
        connection.execute(statement.encode())
    return parse_url(str(server.folder))


def password(server: Server) -> str:
    """Return the password that workers have."""
    return str(parse_url(str(server.folder)).password)


def count_events(folder: Path) -> int:
    """Return how many events the storage of a folder has."""
    storage = open_storage(str(folder), Access.WORK)
    try:
        with storage.read() as c:
            return int(c.execute(sa.select(sa.func.count()).select_from(EVENTS)).scalar_one())
    finally:
        storage.engine.dispose()
