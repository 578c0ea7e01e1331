"""Outages of a database: which errors are one, and waiting until it answers again."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import StorageError

_LONGEST_PAUSE_S = 5.0
_WARN_EVERY_S = 30.0
# What no waiting mends, in the words of SQLite and PostgreSQL.
_LASTING = re.compile(
    r"no such (table|column)|malformed|not a database|readonly database"
    r"|authentication failed|no password supplied|no pg_hba\.conf entry|permission denied"
    r"|(database|role) \"[^\"]*\" does not exist"
)
# PostgreSQL's own: a standby that is read-only, a server that ended an idle transaction.
_PASSING = re.compile(r"read-only transaction|idle-in-transaction|terminating connection")

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def wait_for(
    call: Callable[[], _T],
    patience_s: float,
    shown: str,
    on_silence: Callable[[], None] = lambda: None,
) -> _T:
    """Call a function again while a database does not answer, for up to `patience_s`.

    Parameters
    ----------
    shown
        The database, as an error names it.
    on_silence
        Called before each further try.

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
                text = f"{shown}: does not answer: {first_line(exc)}"
                raise StorageError(text, passing=passing) from exc
            on_silence()
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
    return outage or cause.connection_invalidated or _PASSING.search(str(cause.orig)) is not None


def is_lasting(exc: BaseException) -> bool:
    """Whether an error of a database says what no waiting mends."""
    cause = _database_error(exc)
    return isinstance(cause, DatabaseError) and _LASTING.search(str(cause.orig)) is not None


def first_line(exc: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(exc, StorageInternalError) and exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def _database_error(exc: BaseException | None) -> DBAPIError | None:
    """Return the database's own error behind an error of Optuna's or SQLAlchemy's."""
    while exc is not None and not isinstance(exc, DBAPIError):
        exc = exc.__cause__
    return exc
