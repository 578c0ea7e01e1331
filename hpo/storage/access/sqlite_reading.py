"""Opens SQLite files so that reading changes nothing: no byte, no mode, no file beside them.

How a file is opened is decided by what is there when a transaction begins:

| journal | beside the file | how |
|---|---|---|
| delete | nothing, or the journal of a writer that lives | locked, by `mode=ro` |
| delete | the journal of a writer that died | a private copy, in which SQLite undoes its write |
| WAL | nothing, or an empty -wal: the file is at rest | without locks, by `immutable=1` |
| WAL | -wal and -shm | as its writers do, by `mode=ro` |
| WAL | -wal with content, without -shm | a private copy |

A file in write-ahead mode can be read with locks only where a -shm file is or can be made, which
a reader would leave behind. A file at rest needs no locks, as long as nobody begins to write it;
whether somebody did is looked up when the transaction ends, and what was read is then refused.
Where -shm may be read alone, or where all processes that used it are dead, SQLite keeps an index of
its own in memory (`readonly_shm=1`). Nothing here depends on the right to write the file, its
folder or the files beside it.

The file itself is opened by SQLite alone: if Python opened and closed it, this process would lose
the locks of all of its other connections.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import time
import weakref
from pathlib import Path

from hpo.errors import StorageError

# The time of a file's last change is no finer than a tick of the kernel.
_TICK_S = 0.02
_COPY_ATTEMPTS = 5
_log = logging.getLogger(__name__)
State = tuple[tuple[int, int, int] | None, ...]


class UnlockedConnection(sqlite3.Connection):
    """A connection without locks, which knows whether its file was changed meanwhile."""

    path: Path
    before: State

    def was_changed(self) -> bool:
        """Return whether anybody has written to the file itself since it was opened."""
        return _state(self.path) != self.before


class CopyConnection(sqlite3.Connection):
    """A connection to a copy, which is there as long as its reader."""

    reader: SqliteReader


class SqliteReader:
    """Connects to one SQLite file for reading: each call looks anew at what is there."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._wal, self._shm, self._journal = (
            path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")
        )
        self._copied: tuple[State, Path] | None = None

    def __call__(self) -> sqlite3.Connection:
        """Return a connection that changes nothing.

        Raises
        ------
        sqlite3.Error
            If the file cannot be read.
        """
        if self._wal.exists() and self._shm.exists():
            return self._connect_beside_others()
        if _size(self._wal):
            return self._connect_to_copy(self._wal)
        if is_wal(self._path):
            return self._connect_unlocked()
        connection = self._connect("mode=ro")
        try:
            _touch(connection)
        except sqlite3.OperationalError as exc:
            connection.close()
            if not _is_refused(exc) or not _size(self._journal):
                raise
            return self._connect_to_copy(self._journal)
        return connection

    def _connect(
        self, query: str, factory: type[sqlite3.Connection] = sqlite3.Connection
    ) -> sqlite3.Connection:
        return _connect(self._path, query, self._timeout_s, factory)

    def _connect_beside_others(self) -> sqlite3.Connection:
        """Connect through the -shm file of those who use the file, or used it and died."""
        # The second one writes its place into -shm, which a living writer has asked for.
        for query in ("mode=ro&readonly_shm=1", "mode=ro"):
            connection = self._connect(query)
            try:
                _touch(connection)
            except sqlite3.OperationalError as exc:
                connection.close()
                if not _is_refused(exc):
                    raise
            else:
                return connection
        # Gone meanwhile, or of a kind that may not be read.
        return self._connect_to_copy(self._wal) if _size(self._wal) else self._connect_unlocked()

    def _connect_unlocked(self) -> UnlockedConnection:
        while True:
            before = _state(self._path)
            if before[0] is None or time.time_ns() - before[0][2] > _TICK_S * 1e9:
                break
            time.sleep(_TICK_S)
        connection = self._connect("mode=ro&immutable=1", UnlockedConnection)
        assert isinstance(connection, UnlockedConnection)
        connection.path, connection.before = self._path, before
        return connection

    def _connect_to_copy(self, beside: Path) -> sqlite3.Connection:
        """Connect to a copy of the file, and of the one that a dead writer left beside it."""
        now = _state(self._path, beside)
        if self._copied is None or self._copied[0] != now:
            self._copied = self._copy(beside)
            _log.warning(
                "%s: the last process that wrote to it left %s behind; it is read from a copy, as "
                "nothing here is to be changed",
                self._path,
                beside.name,
            )
        connection = _connect(self._copied[1], "mode=rw", self._timeout_s, CopyConnection)
        assert isinstance(connection, CopyConnection)
        connection.reader = self
        connection.execute("PRAGMA query_only=1")
        return connection

    def _copy(self, beside: Path) -> tuple[State, Path]:
        """Copy the file and the one beside it to where they are deleted with this object."""
        folder = tempfile.mkdtemp(prefix="hpo-read-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for _ in range(_COPY_ATTEMPTS):
            before = _state(self._path, beside)
            try:
                for file in (self._path, beside):
                    shutil.copyfile(file, Path(folder) / file.name)
            except OSError as exc:
                raise sqlite3.OperationalError(
                    f"cannot be copied to {folder}, to be read there: {exc.strerror}"
                ) from exc
            if _state(self._path, beside) == before:
                return before, Path(folder) / self._path.name
        raise sqlite3.OperationalError("is being changed all the time; look again later")


def refuse_changed(connection: object, shown: str) -> None:
    """Raise StorageError if what was read without locks may be of two moments."""
    if isinstance(connection, UnlockedConnection) and connection.was_changed():
        raise StorageError(
            f"{shown}: was changed while it was read, by workers that began meanwhile; call the "
            "same command again"
        )


def holds_tables(path: Path, *names: str) -> bool:
    """Return whether a SQLite file has all of these tables; False of what cannot be read."""
    try:
        connection = SqliteReader(path, timeout_s=1.0)()
    except (sqlite3.Error, UnicodeDecodeError):
        return False
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {*names} <= {name for (name,) in rows}
    except (sqlite3.Error, UnicodeDecodeError):
        return False
    finally:
        connection.close()


def _connect(
    path: Path,
    query: str,
    timeout_s: float,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        factory=factory,
        check_same_thread=False,
    )


def _touch(connection: sqlite3.Connection) -> None:
    """Read something: until then SQLite has not opened the files beside its own."""
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def is_wal(path: Path) -> bool:
    """Return whether a file is in write-ahead mode, which SQLite refuses to read without locks."""
    connection = _connect(path, "mode=ro&nolock=1", 0.0)
    try:
        _touch(connection)
    except sqlite3.Error as exc:
        return exc.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN and os.access(path, os.R_OK)
    finally:
        connection.close()
    return False


def _is_refused(exc: sqlite3.Error) -> bool:
    """Whether something would have had to be written, or a file beside could not be opened."""
    return exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _state(*paths: Path) -> State:
    """Return what changes with a file: which one it is, its size, and when it was last written."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
