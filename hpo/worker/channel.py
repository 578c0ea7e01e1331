"""What a launcher and a worker process tell each other: lines of JSON on a socket pair."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import UnionType
from typing import Any

Message = dict[str, Any]
_BLOCK = 1 << 16
# Who writes more than a line of ours can be, or writes without end, is not listened to for ever.
_MAX_LINE = 1 << 20
_BLOCKS_AT_ONCE = 64
_TYPES: Mapping[str, type | UnionType] = {
    **dict.fromkeys(("trial", "attempt", "part", "scored", "code"), int),
    **dict.fromkeys(("left", "refused", "kind", "leave", "why"), str),
    **dict.fromkeys(("registered", "idle", "silent", "wake", "limit", "passing", "busy"), bool),
    "before_s": int | float,
}
_COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "trial": ("attempt", "before_s"),
    "refused": ("kind", "code", "passing"),
}


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

    Nothing is lost by what is told to nobody: who is gone has ended as a process, too. What is no
    message is passed over: an objective may write to any descriptor of its process.

    Attributes
    ----------
    closed
        Whether the other end is known to be gone, or this one to be unusable.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._unread = connection, b""
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._socket.fileno()

    def tell(self, **message: Any) -> None:
        """Send a message."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.closed = True

    def hear(self, within_s: float = 0.0) -> list[Message]:
        """Return the messages that are there; if there are none, wait so long for one."""
        if within_s > 0.0 and self._socket.fileno() >= 0:
            # Unlike `select`, it takes descriptors of any number.
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.poll(1000.0 * within_s)
        try:
            for _ in range(_BLOCKS_AT_ONCE):
                block = self._socket.recv(_BLOCK, socket.MSG_DONTWAIT)
                if not block:
                    self.closed = True
                    break
                self._unread += block
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        *lines, self._unread = self._unread.split(b"\n")
        if len(self._unread) > _MAX_LINE:
            self._unread = b""
        return [message for line in lines if (message := _read_message(line)) is not None]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def _read_message(line: bytes) -> Message | None:
    """Return the message that a line is; None if it is none of ours."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    for key in message.keys() & _TYPES.keys():
        if not isinstance(message[key], _TYPES[key]):
            return None
        if not all(other in message for other in _COMPANIONS.get(key, ())):
            return None
    return message
