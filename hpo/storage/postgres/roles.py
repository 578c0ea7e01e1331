"""Roles of a PostgreSQL server of one's own: workers own their database and nothing else.

The superuser, who could run programs on the server's machine, has a password that stays in the
server's folder, and may not log in from another machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpo.storage.postgres.address import ADMIN, DATABASE, ROLE

# Connects as a role to a database.
Connect = Callable[[str, str, str], Any]
_MOVER = "hpo_mover"
# What ALTER … OWNER is needed for; indexes and the sequences of columns follow their tables.
_FOREIGN_OBJECTS = """
SELECT 'TABLE', n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND c.relowner <> %(role)s::regrole AND {ours}
UNION ALL
SELECT 'SEQUENCE', n.nspname, c.relname
 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relowner <> %(role)s::regrole AND {ours} AND NOT EXISTS
 (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
  AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i'))
UNION ALL
SELECT 'TYPE', n.nspname, t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype IN ('e', 'd') AND t.typowner <> %(role)s::regrole AND {ours}
""".replace("{ours}", "n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'")


def separate(connect: Connect, password: str, admin_password: str) -> bool:
    """Let workers have a role of their own, which owns the database; made where they are missing.

    A server that an earlier version made has a superuser of the workers' name: it gets another
    name and password, and a role without rights takes its place, with the password that workers
    have. Each step can be done again.

    Parameters
    ----------
    connect
        Connects as (role, password) to a database.
    password, admin_password
        Of the workers and of the superuser.

    Returns
    -------
    bool
        Whether the server was such an old one.
    """
    import psycopg

    moved = False
    try:
        admin = connect(ADMIN, admin_password, "postgres")
    except psycopg.OperationalError:
        _move_superuser(connect, password, admin_password)
        moved = True
        admin = connect(ADMIN, admin_password, "postgres")
    with admin:
        admin.execute(f"DROP ROLE IF EXISTS {_MOVER}")
        if not _exists(admin, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
            _create(admin, ROLE, password)
        if not _exists(admin, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
            admin.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        admin.execute(f"ALTER DATABASE {DATABASE} OWNER TO {ROLE}")
    with connect(ADMIN, admin_password, DATABASE) as admin:
        _hand_over(admin)
    return moved


def _move_superuser(connect: Connect, password: str, admin_password: str) -> None:
    """Rename the superuser that has the workers' name; nobody can rename who is logged in."""
    with connect(ROLE, password, "postgres") as old:
        old.execute(f"DROP ROLE IF EXISTS {_MOVER}")
        _create(old, _MOVER, admin_password, "SUPERUSER")
    with connect(_MOVER, admin_password, "postgres") as mover, mover.transaction():
        mover.execute(f"ALTER ROLE {ROLE} RENAME TO {ADMIN}")
        _set_password(mover, ADMIN, admin_password)
        _create(mover, ROLE, password)


def _hand_over(admin: Any) -> None:
    """Give everything in a database to the workers' role."""
    from psycopg import sql

    found = admin.execute(_FOREIGN_OBJECTS, {"role": ROLE}).fetchall()
    for kind, schema, name in found:
        statement = sql.SQL("ALTER {} {} OWNER TO {}")
        what = sql.Identifier(schema, name)
        admin.execute(statement.format(sql.SQL(kind), what, sql.Identifier(ROLE)))


def _create(connection: Any, role: str, password: str, rights: str = "NOSUPERUSER") -> None:
    connection.execute(f"CREATE ROLE {role} LOGIN {rights}")
    _set_password(connection, role, password)


def _set_password(connection: Any, role: str, password: str) -> None:
    from psycopg import sql

    # Hashed here: the server's log may show the statement.
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(hashed.decode())))


def _exists(connection: Any, query: str, name: str) -> bool:
    return connection.execute(query, [name]).fetchone() is not None
