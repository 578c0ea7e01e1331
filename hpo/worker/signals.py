"""Reasons for a worker to leave: signals, a lost parent, the time limit; and its heartbeat."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from hpo.errors import StopRequested, StorageError
from hpo.storage.ledger import Ledger

_log = logging.getLogger(__name__)


class StopSignal:
    """TERM, INT and USR2: finish nothing more, give the trial back, leave.

    A signal interrupts the scoring of a part at once, and nothing else: what is being stored is
    stored wholly.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._interruptible = False

    def install(self) -> None:
        """Take over the signals of this process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._receive)

    def request(self, reason: str) -> None:
        """Stop this process's work from one of its other threads."""
        if self.reason is None:
            self.reason = reason
            # Interrupts the main thread wherever it may be interrupted.
            os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise StopRequested within this block, or before it."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    def check(self) -> None:
        """Raise StopRequested if a signal has come."""
        if self.reason is not None:
            raise StopRequested(self.reason)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is None:
            self.reason = signal.Signals(number).name
        if self._interruptible:
            raise StopRequested(self.reason)


TIME_LIMIT = "the time limit is near"


@dataclass(frozen=True)
class LeaveConditions:
    """When a worker leaves before its study is finished.

    Attributes
    ----------
    parent_pid
        Leave when this is not the parent any more: nobody would know that the worker computes.
    leave_at
        Leave at this time, in seconds of `time.time()`; see `leave_time`.
    """

    parent_pid: int | None = None
    leave_at: float | None = None


def leave_time(ends_at: float, leave_before_s: float, stagger_s: float) -> float:
    """Return when a worker leaves a job that ends at `ends_at`.

    Workers that began together leave spread over `stagger_s` seconds, so that they do not all
    come to the database and to the queue at once.
    """
    return ends_at - leave_before_s - random.uniform(0.0, stagger_s)


class Heartbeat(threading.Thread):
    """Renews the worker's lease for as long as its process lives, and sees when it has to go."""

    def __init__(
        self, ledger: Ledger, worker_id: str, orders: LeaveConditions, stop: StopSignal
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._ledger, self._worker_id = ledger, worker_id
        self._orders, self._stop_signal = orders, stop
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat three times per lease until the worker ends."""
        interval_s = self._ledger.lease_s / 3.0
        next_beat = time.monotonic() + interval_s
        while not self._ended.wait(min(1.0, interval_s)):
            self._look_around()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + interval_s
                self._beat()

    def end(self) -> None:
        """Stop beating."""
        self._ended.set()
        self.join(timeout=5.0)

    def _look_around(self) -> None:
        orders = self._orders
        if orders.parent_pid is not None and os.getppid() != orders.parent_pid:
            self._stop_signal.request("the launcher is gone")
        if orders.leave_at is not None and time.time() >= orders.leave_at:
            self._stop_signal.request(TIME_LIMIT)

    def _beat(self) -> None:
        try:
            answer = self._ledger.renew(self._worker_id)
        except StorageError as exc:
            _log.warning("lease not renewed: %s", exc)
            return
        if answer is not None:
            self._stop_signal.request(answer.value)
