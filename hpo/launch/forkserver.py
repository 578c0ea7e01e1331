"""A process that imports and reads what workers need, and forks them when its launcher asks.

It is a fork of the launcher, so that what both have imported is there once; the table that it
reads is there once for all workers. It opens nothing that
must not be shared, such as a database, and has one thread, so that its forks begin like processes
of their own. Each is forked twice: it becomes a child of the launcher, which adopts what is
orphaned below it (`hpo.launch.processes`), sees its exit code, and is the parent that a worker
leaves without. When the launcher is gone, so is its end of the socket, and this process leaves.

The fork server of `multiprocessing` keeps the children to itself: when it is killed, workers that
live look as if they had ended, and nobody can learn how they end.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from hpo.system.resources import loading, name_process
from hpo.system.threads import use_threads
from hpo.worker.channel import Channel

# What launcher and warm process tell each other; a descriptor comes with the order to fork.
READY = b"ready"
FORK = b"fork"
SHARE = b"share "
NOT_FORKED = b"0"
ANSWER_BYTES = 32
# A path may have so many, and the word before it.
_ORDER_BYTES = len(SHARE) + 4096


def serve(
    launcher: socket.socket,
    modules: Iterable[str],
    threads: int,
    prepare: Callable[[], object],
    share: Callable[[Path], object],
    *,
    quiet: bool,
) -> NoReturn:
    """Import modules, `prepare`, fork workers until the launcher is gone; in a worker, be one.

    `share` is called with the table that the launcher names, before workers of it are forked.
    `quiet` says that workers print to their logs alone, and nowhere where these cannot be written.
    """
    _begin_anew(launcher, quiet=quiet)
    name_process("hpo-forkserver")
    load(modules, threads)
    with contextlib.suppress(Exception):
        # What cannot be prepared is told by the worker that needs it.
        prepare()
    channel = fork_on_demand(launcher, share)
    launcher.close()
    if channel is not None:
        _work(channel)
    os._exit(0)


def load(modules: Iterable[str], threads: int) -> None:
    """Import modules; what no collection touches stays shared with the forks."""
    use_threads(threads)
    # A thread that pyarrow's allocator would begin.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    with loading():
        for module in modules:
            # What cannot be imported is named by the worker that needs it.
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def fork_on_demand(launcher: socket.socket, share: Callable[[Path], object]) -> Channel | None:
    """Fork a worker for every channel that the launcher sends; share the tables that it names.

    Returns
    -------
    Channel or None
        In a worker its own; None in this process, when the launcher is gone.
    """
    try:
        launcher.send(READY)
        while True:
            message, descriptors, _, _ = socket.recv_fds(launcher, _ORDER_BYTES, 1)
            if not message:
                return None
            if message.startswith(SHARE):
                with contextlib.suppress(Exception):
                    # What cannot be read is told by the worker that needs it.
                    share(Path(os.fsdecode(message.removeprefix(SHARE))))
                launcher.send(READY)
                continue
            (descriptor,) = descriptors
            pid = _fork_twice()
            if pid == 0:
                return Channel(socket.socket(fileno=descriptor))
            os.close(descriptor)
            launcher.send(NOT_FORKED if pid is None else b"%d" % pid)
    except ConnectionError:
        return None


def _begin_anew(launcher: socket.socket, *, quiet: bool) -> None:
    """Leave the launcher's session, signals, terminal and open files to the launcher."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    kept, nothing = launcher.fileno(), os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3 if quiet else 1):
        os.dup2(nothing, descriptor)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


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


def _work(channel: Channel) -> NoReturn:
    from hpo.launch.worker_process import main as work

    # Ctrl-C in the terminal is for the launcher, which passes on what it means.
    os.setsid()
    if "numpy" in sys.modules:
        # Python's own random numbers differ after a fork, numpy's global ones do not.
        sys.modules["numpy"].random.seed()
    work(channel)
