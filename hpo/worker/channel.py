"""What a launcher and a worker process tell each other: lines of JSON on a socket pair."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Message = dict[str, Any]
_BLOCK = 1 << 16


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker is started with.

    Attributes
    ----------
    storage
        The URL; it may hold a password, and is told over the channel alone.
    logs
        The folder of the study's logs.
    launcher
        The process without which it leaves.
    environment
        Variables of this worker alone, such as its GPUs.
    cpus
        Cores that it is tied to; none if it may run on all.
    threads
        Of the numerical libraries, and of programs that the objective starts.
    cluster, job, restarts
        The SLURM job that it runs in, if there is one.
    """

    storage: str
    study: str
    logs: str
    launcher: int
    worker_id: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: tuple[int, ...] = ()
    threads: int = 1
    cluster: str | None = None
    job: str | None = None
    restarts: int | None = None

    def as_message(self) -> dict[str, Any]:
        """Return what goes over the channel."""
        return asdict(self)


class Channel:
    """One end of a socket pair.

    Nothing is lost by what is told to nobody: who is gone has ended as a process, too.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._unread = connection, b""

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._socket.fileno()

    def tell(self, **message: Any) -> None:
        """Send a message."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, within_s: float = 0.0) -> list[Message]:
        """Return the messages that are there; if there are none, wait so long for one."""
        if within_s > 0.0 and not self._unread:
            select.select([self._socket], [], [], within_s)
        with contextlib.suppress(OSError):
            while block := self._socket.recv(_BLOCK, socket.MSG_DONTWAIT):
                self._unread += block
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
