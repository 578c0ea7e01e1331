"""Files and folders that appear whole or not at all, whoever is killed when; and who makes which.

Work in progress lies in `<root>/.tmp/<token>/` beside a `<token>.lock` that its owner holds
locked. The kernel drops the lock when the owner dies, so the next one to come by can tell dead
work from live work, also from other machines and containers, and clears it away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SCRATCH_NAME = ".tmp"


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Yield an empty folder under `root`, on its file system, and remove it afterwards."""
    parent = root / SCRATCH_NAME
    parent.mkdir(parents=True, exist_ok=True)
    lock_path, handle = _new_lock(parent)
    folder = lock_path.with_suffix("")
    try:
        folder.mkdir()
        yield folder
    finally:
        # The lock goes last: a folder without a lock would belong to nobody.
        shutil.rmtree(folder, ignore_errors=True)
        lock_path.unlink(missing_ok=True)
        handle.close()


def clear_dead_scratch(root: Path) -> int:
    """Remove what killed owners left under `root` and return how many of them there were."""
    cleared = 0
    for lock_path in sorted((root / SCRATCH_NAME).glob("*.lock")):
        try:
            handle = lock_path.open("r+")
        except OSError:
            continue  # its owner has just finished, or it is another user's
        with handle:
            if _is_free(handle):
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink(missing_ok=True)
                cleared += 1
    return cleared


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to a new file and wait until it is on the disk."""
    with path.open("xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the entries of `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(root: Path, path: Path, data: bytes) -> None:
    """Put `data` at `path`, under `root`, in one step; readers see the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(root) as scratch:
        staged = scratch / path.name
        write_durably(staged, data)
        staged.replace(path)
        sync_folder(path.parent)


@contextmanager
def claim_file(path: Path) -> Iterator[IO[bytes] | None]:
    """Open a file for this process alone, empty if there was none; None if another one has it.

    The kernel drops the claims of a process that dies, on this machine or another. Where the file
    system has no locks everybody gets the file, so what is done with it must bear to be done twice.
    Other than a look at the path, which a network's file system may answer with what it remembers,
    making and locking the file asks the server: what an earlier holder wrote is seen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "r+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        except OSError:
            pass  # no locks here
        yield handle


def _new_lock(parent: Path) -> tuple[Path, IO[str]]:
    while True:
        path = parent / f"{uuid.uuid4().hex}.lock"
        handle = path.open("x")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            return path, handle  # a file system without locks: nobody clears, nothing breaks
        # Between `open` and `flock` somebody clearing up may have taken it for a dead one.
        if path.exists():
            return path, handle
        handle.close()


def _is_free(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # held, or locks do not work here: leave it alone
    return True
