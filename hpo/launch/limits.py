"""Limits of a trial: what a worker tells of it, measured from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.spec.limits import LimitsSpec
from hpo.system.processes import members, memory_bytes

# Looking at the memory of all processes of a worker takes milliseconds.
MEASURE_EVERY_S = 1.0
# A launcher looks several times a second. What is longer is no time of a trial: the launcher was
# halted, as it is with its job or its machine, or waited for the database.
LONGEST_LOOK_S = 5.0
_GB, _MB = 1e9, 1e6


@dataclass
class _Clock:
    """Seconds that pass while it runs, as far as somebody looks."""

    now_s: float
    total_s: float = 0.0
    running: bool = True

    def read(self, now_s: float) -> float:
        if self.running:
            self.total_s += min(now_s - self.now_s, LONGEST_LOOK_S)
        self.now_s = now_s
        return self.total_s


@dataclass
class TrialWatch:
    """The trial that a worker has in hand, as its launcher sees it.

    Attributes
    ----------
    trial, attempt
        None while it has none.
    part
        The position of the part that is being scored; None in between.
    """

    limits: LimitsSpec
    session: int
    worker_id: str
    log: Path
    trial: int | None = None
    attempt: int | None = None
    part: int | None = None
    _before_s: float = 0.0
    _attempt: _Clock = field(default_factory=lambda: _Clock(0.0))
    _part: _Clock = field(default_factory=lambda: _Clock(0.0))
    _log_bytes: int = 0
    _measured_s: float = 0.0

    def note(self, message: Mapping[str, Any], now_s: float) -> None:
        """Take in what the worker tells."""
        if "trial" in message:
            self.trial, self.attempt = message["trial"], message["attempt"]
            self.part, self._before_s = None, message["before_s"]
            self._attempt, self._log_bytes = _Clock(now_s), message["log_bytes"]
        elif "part" in message:
            self.part, self._part = message["part"], _Clock(now_s)
        elif "scored" in message:
            self.part = None
        elif "idle" in message:
            self.trial = self.attempt = self.part = None
        elif "silent" in message:
            # The time of a trial is not spent while the database does not answer.
            for clock in (self._attempt, self._part):
                clock.read(now_s)
                clock.running = not message["silent"]

    def exceeded(self, now_s: float) -> str:
        """Return which limit the trial exceeds and by what; "" if none."""
        if self.trial is None:
            return ""
        attempt_s, limits = self._attempt.read(now_s), self.limits
        times = [
            ("attempt_s", limits.attempt_s, attempt_s),
            ("trial_s", limits.trial_s, self._before_s + attempt_s),
        ]
        if self.part is not None:
            times.insert(0, ("part_s", limits.part_s, self._part.read(now_s)))
        for name, limit_s, spent_s in times:
            if limit_s is not None and spent_s > limit_s:
                where = f", in part {self.part}" if self.part is not None else ""
                return f"limits.{name} = {limit_s:g} exceeded: {spent_s:.1f} s{where}"
        # What prints without end fills a disk within seconds.
        if reason := self._output_exceeded():
            return reason
        if now_s - self._measured_s < MEASURE_EVERY_S:
            return ""
        self._measured_s = now_s
        return self._memory_exceeded()

    def cut_log(self) -> None:
        """Leave of what the last trial printed no more than its limit; the worker has ended."""
        longest = self._log_bytes + int(self.limits.output_mb * _MB)
        if self._size() > longest:
            with contextlib.suppress(OSError):
                os.truncate(self.log, longest)

    def _output_exceeded(self) -> str:
        printed_mb = (self._size() - self._log_bytes) / _MB
        limit_mb = self.limits.output_mb
        if printed_mb <= limit_mb:
            return ""
        return f"limits.output_mb = {limit_mb:g} exceeded: {printed_mb:.0f} MB printed to its log"

    def _memory_exceeded(self) -> str:
        limit_gb = self.limits.memory_gb
        if limit_gb is None:
            return ""
        used_gb = memory_bytes(members(self.session, self.worker_id)) / _GB
        if used_gb <= limit_gb:
            return ""
        return f"limits.memory_gb = {limit_gb:g} exceeded: {used_gb:.2f} GB"

    def _size(self) -> int:
        try:
            return self.log.stat().st_size
        except OSError:
            return 0
