"""What makes a worker leave: signals, and what its launcher says of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from hpo.errors import StopRequested

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopSignal:
    """TERM, INT and USR2: finish nothing more, give the trial back, leave.

    A signal interrupts the scoring of a part at once, and nothing else: what is being stored is
    stored wholly.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._interruptible = False
        self._pid = os.getpid()

    def install(self) -> None:
        """Take over the signals of this process."""
        self._pid = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._receive)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise StopRequested within this block, or before it."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let no signal raise within this block, which an interruptible one may be around."""
        before, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = before
        if before:
            self.check()

    def check(self) -> None:
        """Raise StopRequested if a signal has come."""
        if self.reason is not None:
            raise StopRequested(self.reason)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that the objective has forked is none of ours.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.reason is None:
            self.reason = signal.Signals(number).name
        if self._interruptible:
            raise StopRequested(self.reason)
