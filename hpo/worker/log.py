"""The log of a worker process: everything it prints, whoever prints it, in one file of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import sys
from pathlib import Path

from hpo.redaction import redact
from hpo.wording import printable

FORMAT = "%(asctime)s %(levelname)s %(message)s"


class PlainFormatter(logging.Formatter):
    """Log records without control characters, of a study's texts too, and without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as text."""
        return printable(redact(super().format(record)))


class _Forgiving(io.RawIOBase):
    """Writes to a file descriptor; what a full disk does not take is lost, and nothing else."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: object) -> int:
        block = bytes(data)  # type: ignore[call-overload]
        try:
            return os.write(self._descriptor, block)
        except OSError:
            return len(block)


def size_of_log() -> int:
    """Return how many bytes the file has that this process prints to; 0 if it is no file."""
    with contextlib.suppress(OSError):
        printed = os.fstat(1)
        if stat.S_ISREG(printed.st_mode):
            return printed.st_size
    return 0


def open_log(folder: Path, worker_id: str) -> Path | None:
    """Send what this process prints to `folder/worker_id.log`, and its log records with it.

    On a terminal the lines stay there, and the file has the log records. A folder that cannot be
    written never stops a worker: its lines go where they went before, or are lost.

    Returns
    -------
    Path or None
        The file; None if there is none.
    """
    logging.raiseExceptions = False
    path: Path | None = folder.resolve() / f"{worker_id}.log"
    handlers: list[logging.Handler] = []
    try:
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o644)
    except OSError as exc:
        sys.stderr.write(f"no log in {folder}: {exc.strerror}\n")
        path = None
    else:
        if sys.stderr.isatty():
            handlers.append(logging.StreamHandler(_text(descriptor)))
        else:
            sys.stderr.write(f"log: {path}\n")
            sys.stderr.flush()
            sys.stdout.flush()
            os.dup2(descriptor, sys.stdout.fileno())
            os.dup2(descriptor, sys.stderr.fileno())
            os.close(descriptor)
            sys.stdout, sys.stderr = _text(1), _text(2)
    handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(PlainFormatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=handlers)
    return path


def _text(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(descriptor)), encoding="utf-8", line_buffering=True
    )


def lines_of_trial(text: str, number: int) -> list[str]:
    """Return the lines that a worker wrote while it had a trial in hand."""
    found, inside = [], False
    mark = f" trial {number}: "
    for line in text.splitlines():
        if mark in line and "attempt" in line and line.endswith("begins"):
            inside = True
        elif " trial " in line and line.endswith("begins"):
            inside = False
        if inside or mark in line:
            found.append(line)
        if inside and any(
            f"{mark}{word}" in line for word in ("finished", "pruned", "released", "taken")
        ):
            inside = False
    return found
