"""What a PostgreSQL server of one's own says of itself, and which process it is."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """What came of a start.

    Attributes
    ----------
    address
        The URL without its password.
    already
        Whether the server was running before.
    notes
        What the user should know.
    """

    address: str
    already: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ServerStatus:
    """A server at one moment.

    Attributes
    ----------
    running
        Whether it answers.
    node
        The machine that it was started on; None if it was stopped.
    address
        Its URL without the password.
    problem
        Why it does not answer.
    size_bytes
        Size of its database.
    uptime_s
        Seconds since it was started.
    """

    folder: str
    running: bool
    node: str | None
    address: str
    version: str
    programs: str
    problem: str | None = None
    size_bytes: int | None = None
    connections: int | None = None
    max_connections: int | None = None
    uptime_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what `hpo db status --json` prints."""
        return asdict(self)


def recorded_pid(lock: Path) -> int | None:
    """Return the process that a lock file of PostgreSQL names; None if there is none."""
    try:
        return int(lock.read_text(encoding="utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def is_alive(pid: int) -> bool:
    """Return whether a process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_server_of(data: Path, pid: int) -> bool:
    """Return whether a process is the server of a data folder, not one that got its id later."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return os.fsencode(data) in words
    except OSError:
        told = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return str(data) in told.stdout
