"""A process that has imported what a worker needs, and forks workers when its launcher asks.

    python -m hpo.forkserver worker DESCRIPTOR MODULE…

It opens nothing that must not be shared, such as a database, and has one thread, so that its forks
begin like processes of their own. Each is forked twice: it becomes a child of the launcher, which
adopts what is orphaned below it (`hpo.launch.processes`), sees its exit code, and is the parent
that a worker leaves without. When the launcher is gone, so is its end of the socket, and this
process leaves.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpo.cli import main as run_command
from hpo.launch.processes import MAX_MESSAGE, NOT_FORKED, READY
from hpo.system.resources import loading
from hpo.system.threads import use_one_thread


def main(arguments: Sequence[str]) -> int:
    """Import modules, fork workers until the launcher is gone; in a worker, be one."""
    _, descriptor, *modules = arguments
    load(modules)
    with socket.socket(fileno=int(descriptor)) as launcher:
        order = serve(launcher)
    return 0 if order is None else _work(order)


def load(modules: Iterable[str]) -> None:
    """Import modules, with one thread; what no collection touches stays shared with the forks."""
    use_one_thread()
    # A thread that pyarrow's allocator would begin.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    with loading():
        for module in modules:
            # What cannot be imported is named by the worker that needs it.
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def serve(launcher: socket.socket) -> Mapping[str, Any] | None:
    """Fork a worker for every order.

    Returns
    -------
    Mapping or None
        In a worker what it was ordered; None in this process, when the launcher is gone.
    """
    try:
        launcher.send(READY)
        while message := launcher.recv(MAX_MESSAGE):
            pid = _fork_twice()
            if pid == 0:
                order: Mapping[str, Any] = json.loads(message)
                return order
            launcher.send(NOT_FORKED if pid is None else b"%d" % pid)
    except ConnectionError:
        pass
    return None


def _fork_twice() -> int | None:
    """Fork a process that is nobody's child here; its id, 0 within it, None if it failed."""
    reader, writer = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        return None
    if between == 0:
        os.close(reader)
        _fork_and_leave(writer)
        return 0
    os.close(writer)
    told = os.read(reader, 32)
    os.close(reader)
    # From here on the fork is the launcher's child.
    os.waitpid(between, 0)
    return int(told) if told else None


def _fork_and_leave(writer: int) -> None:
    """Return in the fork alone; the process in between says its id and ends."""
    try:
        pid = os.fork()
    except OSError:
        os._exit(1)
    if pid:
        os.write(writer, b"%d" % pid)
        os._exit(0)
    os.close(writer)


def _work(order: Mapping[str, Any]) -> int:
    """Carry out a command as a process of its own would."""
    # Ctrl-C in the terminal is for the launcher, which passes on what it means.
    os.setsid()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    if "numpy" in sys.modules:
        # Python's own random numbers differ after a fork, numpy's global ones do not.
        sys.modules["numpy"].random.seed()
    return run_command(order["arguments"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
