"""Databases of one test each on a shared PostgreSQL server."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import psycopg
import sqlalchemy as sa

from hpo.storage.postgres_server import Server
from hpo.storage.urls import resolve_url


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """Make an empty database, and drop it at the end, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    url = _administer(server, f"CREATE DATABASE {name}")
    yield url.set(database=name).render_as_string(hide_password=False)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server: Server, statement: str) -> sa.URL:
    """Carry out a statement; a connection of its own, since a test may have stopped the server."""
    text = resolve_url(str(server.folder))
    with psycopg.connect(text, autocommit=True) as connection:
        connection.execute(statement.encode())
    return sa.make_url(text)
