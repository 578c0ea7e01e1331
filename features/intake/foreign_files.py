"""Files of the user's own, of whatever size and kind: read within bounds, or refused."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Above the largest file that is read into memory as a whole.
MAX_BYTES = 4_000_000_000


def read_bounded(path: Path, most: int = MAX_BYTES) -> bytes:
    """Read a file, or what is in a pipe, of at most so many bytes.

    Raises
    ------
    OSError
        If it is larger, or a device, socket or folder; a pipe that nobody writes to is empty.
    """
    found = path.stat()
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise OSError(errno.EINVAL, "is a device or socket, no file", str(path))
    if stat.S_ISREG(mode) and found.st_size > most:
        raise OSError(errno.EFBIG, f"has more than {most / 1e6:g} MB", str(path))
    # A pipe that nobody writes to is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        os.set_blocking(descriptor, True)
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most / 1e6:g} MB", str(path))
    return data


def expand_home(path: Path) -> Path:
    """Return a path with its `~` replaced, or as it is where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
