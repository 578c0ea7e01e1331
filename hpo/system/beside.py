"""Calls in a fork of this process, so that two cores share what one of them would do alone."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from hpo.system.processes import leave_with_parent
from hpo.system.resources import cores

# A fork that has not answered after so long is given up.
PATIENCE_S = 300.0
# Elsewhere system libraries may not survive it.
_CAN_FORK = sys.platform == "linux"

_T = TypeVar("_T")


class Beside(Generic[_T]):
    """A call that is made beside this process; as a context, it ends with its block.

    It is made in a fork where that is safe and of use: this process runs no other Python thread,
    and has more than one core. Else it is made here, when its result is asked for. A fork changes
    nothing in this process; what it writes to files stays.

    Parameters
    ----------
    call
        Without arguments; what it returns, or raises, has to be picklable. It must not touch
        connections that were open before, nor use OpenMP, whose threads no fork has.
    """

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._process: multiprocessing.process.BaseProcess | None = None
        # Arrow and BLAS see to it themselves that their threads do not matter to a fork.
        if threading.active_count() != 1 or cores().usable < 2 or not _CAN_FORK:
            return
        forks = multiprocessing.get_context("fork")
        self._answer, theirs = forks.Pipe(duplex=False)
        process = forks.Process(target=_make, args=(call, theirs, os.getpid()), daemon=True)
        with theirs:
            try:
                process.start()
            except OSError:
                # No room for another process.
                self._answer.close()
                return
        self._process = process

    def result(self) -> _T:
        """Return what the call returns, or raise what it raises."""
        if self._process is None:
            return self._call()
        try:
            if not self._answer.poll(PATIENCE_S):
                return self._call()
            succeeded, found = self._answer.recv()
        except EOFError:
            # It was killed, for want of memory for instance.
            return self._call()
        if not succeeded:
            raise found
        result: _T = found
        return result

    def __enter__(self) -> Beside[_T]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._answer.close()
            self._process.kill()
            self._process.join()


def _make(call: Callable[[], Any], answer: Connection, parent: int) -> None:
    """Make a call in a fork, and tell its result."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    leave_with_parent(parent)
    # What was there before the fork stays shared as long as no collection touches it.
    gc.freeze()
    try:
        told = (True, call())
    except Exception as exc:  # whatever it is, it is raised where the result is asked for
        told = (False, exc)
    answer.send(told)
