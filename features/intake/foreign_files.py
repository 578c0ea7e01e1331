"""Files of the user's own, of whatever size and kind: read within bounds, or refused."""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

# Above the largest file that is read.
MAX_BYTES = 4_000_000_000
_BLOCK = 1 << 20  # bytes that are read at a time


def read_bounded(path: Path, most: int = MAX_BYTES) -> bytes:
    """Read a file, or what is in a pipe, of at most so many bytes.

    Raises
    ------
    OSError
        If it is larger, or a device, socket or folder; a pipe that nobody writes to is empty.
    """
    with _open_bounded(path, most) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise _too_large(path, most)
    return data


def open_bounded(path: Path, most: int = MAX_BYTES) -> OnDisk:
    """Open a file to be read more than once, or a copy of what is in a pipe.

    Raises
    ------
    OSError
        As `read_bounded` does.
    """
    stream = _open_bounded(path, most)
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return OnDisk(stream, path.name)
    with stream:
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        while block := stream.read(_BLOCK):
            copy.write(block)
            if copy.tell() > most:
                raise _too_large(path, most)
        copy.flush()
    return OnDisk(copy, path.name)


def _open_bounded(path: Path, most: int) -> BinaryIO:
    found = path.stat()
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise OSError(errno.EINVAL, "is a device or socket, no file", str(path))
    if stat.S_ISREG(mode) and found.st_size > most:
        raise _too_large(path, most)
    # A pipe that nobody writes to is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stream = os.fdopen(descriptor, "rb")
    os.set_blocking(descriptor, True)
    return stream


def _too_large(path: Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"has more than {most / 1e6:g} MB", str(path))


class Content(Protocol):
    """The bytes of a file, which may be read again and again, also at several places at once."""

    def open(self) -> BinaryIO:
        """Return a stream of its own, at the first byte."""
        ...

    def rewritten(self, blocks: Iterable[bytes]) -> Content:
        """Return other bytes, kept where these are: on disk or in memory."""
        ...


class InMemory:
    """The bytes of a file that was read as a whole."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> BinaryIO:
        """Return a stream of its own, at the first byte."""
        return io.BytesIO(self._data)

    def rewritten(self, blocks: Iterable[bytes]) -> InMemory:
        """Return other bytes, also in memory."""
        return InMemory(b"".join(blocks))


class OnDisk:
    """The bytes of an open file, of which a block at a time is in memory."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        weakref.finalize(self, stream.close)
        self._as_opened = self._look()

    def open(self) -> BinaryIO:
        """Return a stream of its own, at the first byte.

        Its end is an OSError where the file was written to since it was opened.
        """
        return io.BufferedReader(_Cursor(self._stream.fileno(), self._check), _BLOCK)

    def rewritten(self, blocks: Iterable[bytes]) -> OnDisk:
        """Return other bytes, in a temporary file that nobody else sees."""
        stream = tempfile.TemporaryFile()  # noqa: SIM115
        stream.writelines(blocks)
        stream.flush()
        return OnDisk(stream, self._name)

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self._stream.fileno())
        return found.st_size, found.st_mtime_ns

    def _check(self) -> None:
        if self._look() != self._as_opened:
            raise OSError(errno.EBUSY, "was written to while it was read", self._name)


class _Cursor(io.RawIOBase):
    """A place of its own in a file that others read, too; `check` is called at its end."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._descriptor, self._check, self._at = descriptor, check, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._descriptor, [buffer], self._at)
        if not count:
            self._check()
        self._at += count
        return count


def blocks_of(stream: BinaryIO, skipped: int = 0) -> Iterator[bytes]:
    """Yield what a stream has behind some bytes, a block at a time, and close it."""
    with stream:
        stream.read(skipped)
        while block := stream.read(_BLOCK):
            yield block


def expand_home(path: Path) -> Path:
    """Return a path with its `~` replaced, or as it is where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
