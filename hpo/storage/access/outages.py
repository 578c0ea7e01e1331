"""Outages of a database: which errors are one, and waiting until it answers again."""

from __future__ import annotations

import logging
import random
import re
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import StorageError

_LONGEST_PAUSE_S = 5.0
_WARN_EVERY_S = 30.0
# What no waiting mends, where PostgreSQL refuses a connection, which comes without a code.
_LASTING_WORDS = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|permission denied"
    r"|(database|role) \"[^\"]*\" does not exist|not permitted to log in"
    r"|does not support SSL|certificate verify failed|root certificate file|does not match host"
    r"|invalid (connection option|\w+ value)"
)
# The same by PostgreSQL's classes of codes: authorisation, no such database, schema or table, what
# is no SQL, a dropped database, damaged data.
_LASTING_STATES = ("28", "3D", "3F", "42", "57P04", "XX001", "XX002")
# A standby that is read-only, a transaction that took too long, a server that is stopped.
_PASSING_STATES = ("25006", "25P03", "25P04", "57", "08")
_LASTING_CODES = (
    sqlite3.SQLITE_ERROR,  # no such table or column, what is no SQL
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOTADB,
)

# SQLite's messages, in the words of somebody who has files rather than pages and locks.
_IN_WORDS = {
    "database or disk is full": "the disk, or what you may use of it, is full; make room and call "
    "the same command again: what was stored is kept",
    "disk I/O error": "the file system could not read or write the file; look whether the disk is "
    "full or failing: what was stored is kept",
    "attempt to write a readonly database": "the file, or the folder that it is in, may not be "
    "written",
    "unable to open database file": "the file, or one beside it, cannot be opened or made",
    "database disk image is malformed": "the file is damaged; use a copy of it",
    "file is not a database": "the file is no SQLite database, or is damaged",
}

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def wait_for(
    call: Callable[[], _T],
    patience_s: float,
    shown: str,
    on_silence: Callable[[str], None] = lambda _why: None,
) -> _T:
    """Call a function again while a database does not answer, for up to `patience_s`.

    Parameters
    ----------
    shown
        The database, as an error names it.
    on_silence
        Called before each further try, with why the last one failed.

    Raises
    ------
    StorageError
        If the database did not answer for that long, or if no waiting would mend it.
    """
    began = warned = time.monotonic()
    pause_s = 0.05
    while True:
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError) as exc:
            passing, now = is_outage(exc), time.monotonic()
            if not passing and not is_lasting(exc):
                raise
            if not passing or now - began >= patience_s:
                what = "does not answer" if passing else "cannot be used"
                text = f"{shown}: {what}: {first_line(exc)}"
                raise StorageError(text, passing=passing) from exc
            on_silence(first_line(exc))
            if warned == began or now - warned > _WARN_EVERY_S:
                warned = now
                _log.warning("the storage does not answer, trying again: %s", first_line(exc))
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)


def is_outage(exc: BaseException) -> bool:
    """Whether an error of a database may pass: it gave no answer to what was asked."""
    if isinstance(exc, PoolTimeoutError):
        return True
    cause = _database_error(exc)
    if cause is None or is_lasting(cause):
        return False
    outage = isinstance(cause, OperationalError | InterfaceError)
    return outage or cause.connection_invalidated or _state(cause).startswith(_PASSING_STATES)


def is_lasting(exc: BaseException) -> bool:
    """Whether an error of a database says what no waiting mends."""
    cause = _database_error(exc)
    if cause is None:
        return False
    if state := _state(cause):
        return state.startswith(_LASTING_STATES)
    code = getattr(cause.orig, "sqlite_errorcode", None)
    if code is not None:
        # The lowest byte; what is above it tells more of the same.
        return code & 0xFF in _LASTING_CODES
    return _LASTING_WORDS.search(str(cause.orig)) is not None


def first_line(exc: BaseException) -> str:
    """Return what an error says, in one line and, where that is possible, in a user's words."""
    if isinstance(exc, UnicodeDecodeError):
        return f"the file is damaged; use a copy of it (a text in it is no UTF-8: {exc.reason})"
    cause: BaseException = _database_error(exc) or exc
    if isinstance(cause, DBAPIError) and cause.orig is not None:
        cause = cause.orig
    said = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return next((f"{words} ({said})" for sign, words in _IN_WORDS.items() if sign in said), said)


def _state(cause: DBAPIError) -> str:
    """Return the code that PostgreSQL gave an error; "" without one."""
    return getattr(cause.orig, "sqlstate", None) or ""


def _database_error(exc: BaseException | None) -> DBAPIError | None:
    """Return the database's own error behind an error of Optuna's or SQLAlchemy's."""
    while exc is not None and not isinstance(exc, DBAPIError):
        exc = exc.__cause__
    return exc
