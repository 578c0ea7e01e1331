"""The store of a simulated cluster: one server, a queue before it, and an audit of the books.

The audit counts what the ledger accepts, without asking the ledger: it would see a trial that is
told twice, or a part that is computed after its score was stored.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.records import BY_SCORE, WALL_KEY, Answer, Claim, Judged, Parts, ResolvedTrial, WorkerRun
from hpo.simulation.memory_ledger import MemoryLedger

_RUN = WorkerRun("simulated", 0)


class SimulatedStore:
    """What simulated workers call instead of a ledger; hands on to one that is in memory.

    A worker makes its calls in turns. The first call of a turn waits until the server is free,
    which `queue` says beforehand; all calls of the turn then take effect at that moment, and the
    others of them cost the worker their time afterwards.

    Parameters
    ----------
    latency_s
        What every call takes.
    service_s
        For how much of a second a call keeps the server from all others.

    Attributes
    ----------
    now
        The simulated time, set from outside.
    answered
        When the latest call was answered.
    closed_until
        Until when the store is out of order.
    calls
        Number of calls in each second, by kind.
    interrupted
        When each trial lost its worker that has not been taken over yet.
    restarts_s
        How long each trial that lost its worker waited for another.
    """

    def __init__(self, ledger: MemoryLedger, latency_s: float, service_s: float) -> None:
        self.ledger = ledger
        self.now = self.answered = self.closed_until = 0.0
        self.longest_wait_s = self.busy_s = 0.0
        self.calls: dict[str, Counter[int]] = {}
        self.told: Counter[int] = Counter()
        self.last_told_s = 0.0
        self.interrupted: dict[int, float] = {}
        self.restarts_s: list[float] = []
        self.begun = self.scored = self.refused = self.repeated = 0
        self.useful_s = 0.0
        self._latency_s, self._service_s = latency_s, service_s
        self._free_at = 0.0
        self._paid = False
        self._stored: dict[int, int] = {}

    # The server -------------------------------------------------------------------------------

    def queue(self) -> float:
        """Send a call; return for how many seconds others keep the server, and this one."""
        wait_s = self._free_at - self.now
        if wait_s <= 0.0:
            return 0.0
        self.longest_wait_s = max(self.longest_wait_s, wait_s)
        self._free_at += self._service_s
        self.busy_s += self._service_s
        return wait_s + self._service_s

    def take_turn(self, *, queued: bool) -> None:
        """Begin the calls of one worker, of which the first may have been queued."""
        self.answered, self._paid = self.now, queued

    def close(self, until: float) -> None:
        """Let the store be out of order; who is in the queue has to queue again."""
        self.closed_until = self._free_at = max(until, self.closed_until)
        self.ledger.up_since = self.closed_until

    def _charge(self, kind: str) -> None:
        tally = self.calls.get(kind)
        if tally is None:
            tally = self.calls[kind] = Counter()
        if self._paid:
            self._paid = False
        else:
            self.answered = max(self.answered, self._free_at) + self._service_s
            self._free_at = max(self.now, self._free_at) + self._service_s
            self.busy_s += self._service_s
        tally[int(self.answered)] += 1  # when it was served
        self.answered += self._latency_s

    # The ledger's calls -----------------------------------------------------------------------

    def register(self, worker_id: str) -> None:
        """Write down that a worker has come."""
        self._charge("register")
        self.ledger.register(worker_id, _RUN)

    def deregister(self, worker_id: str, outcome: str) -> None:
        """Write down that a worker has gone."""
        self._charge("deregister")
        self.ledger.deregister(worker_id, outcome)

    def beat(self, worker_id: str) -> Answer | None:
        """Renew the lease of the one worker of a launcher; an answer if it has to leave at once."""
        self._charge("beat")
        if self.interrupted:
            unit = self.ledger.in_hand(worker_id)
            if unit is not None:  # It only slept, and nobody has noticed.
                self.interrupted.pop(unit.number, None)
        beat = self.ledger.beat([worker_id])
        if beat.dismissed:
            return Answer.DISMISSED
        return Answer.STOPPED if beat.stop == "now" else None

    def claim(self, worker_id: str) -> Claim | Answer:
        """Take a unit of budget."""
        try:
            answer = self.ledger.claim(worker_id)
        except FailedStudyError:
            self._charge("claim without a trial")
            raise
        if isinstance(answer, Answer):
            self._charge("claim without a trial")
        elif answer.attempt == 1:
            self._charge("claim")
        else:
            self._charge("claim again")
            since = self.interrupted.pop(answer.number, None)
            if since is not None:
                self.restarts_s.append(self.answered - since)
        return answer

    def save_params(
        self,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Store the parameters of a trial."""
        self._charge("save_params")
        self.ledger.save_params(claim, params, distributions)

    def begin_part(self, number: int, part: int) -> None:
        """Note that a worker begins to compute a part."""
        self.begun += 1
        if part < self._stored.get(number, 0):
            self.repeated += 1

    def save(self, claim: Claim, parts: Parts) -> None:
        """Store the scores of parts."""
        self._charge("save")
        with self._storing(claim, parts):
            self.ledger.save(claim, parts)
        self._still_runs(claim)

    def finish(
        self,
        claim: Claim,
        scores: Mapping[str, float],
        parts: Parts,
        pruned: str = "",
        settled: ResolvedTrial | None = None,
        judged: Judged = BY_SCORE,
    ) -> None:
        """Tell the result of a trial, or why it was pruned."""
        self._charge("finish")
        with self._storing(claim, parts):
            self.ledger.finish(claim, scores, parts, pruned, settled, judged)
        self.told[claim.number] += 1
        self.last_told_s = max(self.last_told_s, self.answered)

    def fail(self, claim: Claim, reason: str, parts: Parts) -> None:
        """Give up a trial."""
        self._charge("fail")
        with self._storing(claim, parts):
            self.ledger.fail(claim, reason, parts)
        self._still_runs(claim)

    def release(self, claim: Claim, parts: Parts, reason: str) -> None:
        """Leave a trial to another worker."""
        self._charge("release")
        with self._storing(claim, parts):
            self.ledger.release(claim, parts, reason)
        self._still_runs(claim)

    @contextlib.contextmanager
    def _storing(self, claim: Claim, parts: Parts) -> Iterator[None]:
        """Count what the ledger accepts within this block."""
        try:
            yield
        except LostLeaseError:
            self.refused += len(parts)
            raise
        if parts:
            self._stored[claim.number] = max(parts) + 1
        self.scored += len(parts)
        self.useful_s += math.fsum(scores[WALL_KEY] for scores in parts.values())

    def _still_runs(self, claim: Claim) -> None:
        if self.interrupted:
            self.interrupted.pop(claim.number, None)
