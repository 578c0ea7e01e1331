"""Files that are written wholly or not at all, and outputs that are no files.

Of folders that several machines write to, and that outlive a loss of power, `features.atomic_files`
takes care; the engine's files are written by one process each and can be written again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

STDOUT = Path("-")
# Where Linux shows open descriptors: what is opened there is somebody's stream, also where that
# leads to a regular file.
_DESCRIPTORS = "/proc/"


def is_stream(path: Path) -> bool:
    """Whether a path is standard output (`-`), a device, a pipe or a socket.

    Such a path is written to; nothing takes its place, and nothing is written beside it.
    """
    if path == STDOUT or _is_descriptor(path):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give a new, empty file to write to; it takes the place of `path` if nothing is raised.

    Its name cannot be foreseen and it is made exclusively: nobody can have put a link there. Of a
    stream (`is_stream`), the content is copied into it at the end.

    Parameters
    ----------
    path
        The file; `-` is standard output.
    mode
        Permissions of the new file, less those that the umask takes.

    Raises
    ------
    OSError
        If it cannot be written, is a folder, or is a pipe that nobody reads.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    to_stream = is_stream(path)
    folder = Path(tempfile.gettempdir()) if to_stream else path.parent
    # Not named after `path`, whose own name may be as long as names can be.
    partial = folder / f".hpo-{secrets.token_hex(8)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        os.close(os.open(partial, flags, 0o600 if to_stream else mode))
    except OSError as exc:
        raise type(exc)(exc.errno, exc.strerror, str(path)) from None
    try:
        yield partial
        if to_stream:
            _copy_into(partial, path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file wholly or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_private(path: Path, text: str) -> None:
    """Write a file as a whole, which only its owner may read from the beginning."""
    with replacing(path, 0o600) as new, new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _is_descriptor(path: Path) -> bool:
    try:
        link = str(path.readlink())
    except (OSError, ValueError):
        link = ""
    return link.startswith(_DESCRIPTORS) or str(path.parent.resolve()).startswith(_DESCRIPTORS)


def _is_stdout(path: Path) -> bool:
    """Whether a stream is standard output, which was written to before and goes on from there."""
    if path == STDOUT:
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except OSError:
        # There is no such file, or standard output is none.
        return False


def _copy_into(content: Path, path: Path) -> None:
    sys.stdout.flush()
    with content.open("rb") as source:
        if _is_stdout(path):
            shutil.copyfileobj(source, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        # A pipe that nobody reads is an error at once, rather than waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        with os.fdopen(os.open(path, flags), "wb") as stream:
            os.set_blocking(stream.fileno(), True)
            shutil.copyfileobj(source, stream)
