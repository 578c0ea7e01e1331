"""The ledger's state machine in memory: same calls, same answers, no database.

One contract test runs over this one and over `hpo.storage.ledger.Ledger`. It serves the simulation
of large clusters: every call takes a time that grows with the logarithm of the number of units at
most, but for a change of the budget. It is for one thread, and ends with its process.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import BaseDistribution

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.records import (
    BY_SCORE,
    BY_USER,
    INTERRUPTED,
    NO_PARTS,
    Answer,
    Attempts,
    Beat,
    Claim,
    Counts,
    Judged,
    OnLimit,
    Parts,
    ResolvedTrial,
    WorkerRun,
)
from hpo.storage.budget import BudgetChange
from hpo.storage.events import EventKind
from hpo.storage.ledger import DEFAULT_ATTEMPTS, after_retries


@dataclass(slots=True)
class Unit:
    """One unit of budget, as a row of `hpo_claims` and its trial.

    Attributes
    ----------
    number
        Number of the trial, which is its id, too.
    state
        open, finished, pruned or failed.
    stored
        How many parts have a stored score.
    scores
        The result that was told; None if there is none.
    failure, pruned
        Why the trial failed or was pruned; None if it did not, or was not.
    queued
        Whether the heap of leases has an entry for it.
    """

    number: int
    worker_id: str | None
    lease_until: float
    state: str = "open"
    attempt: int = 1
    deaths: int = 0
    stored: int = 0
    params: Mapping[str, Any] | None = None
    parts: dict[int, Mapping[str, float]] = field(default_factory=dict)
    scores: Mapping[str, float] | None = None
    failure: str | None = None
    pruned: str | None = None
    attempts: Attempts = field(default_factory=Attempts)
    queued: bool = False

    @property
    def held(self) -> bool:
        """Whether a worker has it in hand."""
        return self.state == "open" and self.worker_id is not None


class MemoryLedger:
    """The budget of one study that is in no storage.

    Scores and parameters are kept as they are given, not copied.

    Parameters
    ----------
    clock
        Returns the time in seconds that leases are judged by.
    """

    def __init__(
        self,
        budget: int,
        *,
        lease_s: float,
        max_deaths: int,
        max_failures: int,
        max_attempts: int = DEFAULT_ATTEMPTS,
        max_retry: int = 0,
        clock: Callable[[], float],
    ) -> None:
        self.lease_s, self.max_deaths, self.max_failures = lease_s, max_deaths, max_failures
        self.max_attempts, self.max_retry = max_attempts, max_retry
        self.units: list[Unit] = []
        # No lease is over within one lease of this moment.
        self.up_since = -math.inf
        self._clock, self._budget = clock, budget
        self._stop: str | None = None
        # Each worker's outcome; None while it works.
        self._workers: dict[str, str | None] = {}
        self._seen_at: dict[str, float] = {}
        self._in_hand: dict[str, Unit] = {}
        # Both heaps may hold entries of units that have moved on: they are dropped when met.
        self._free: list[int] = []
        self._leases: list[tuple[float, int]] = []
        self._finished = self._failed = self._pruned = 0
        self._events: list[dict[str, Any]] = []

    # Workers ----------------------------------------------------------------------------------

    def register(self, worker_id: str, run: WorkerRun) -> None:  # noqa: ARG002  as the other ledger
        """Write down that a worker has come."""
        if worker_id not in self._workers:
            self._workers[worker_id] = None
            self._seen_at[worker_id] = self._clock()

    def deregister(self, worker_id: str, outcome: str) -> None:
        """Write down that a worker has gone of its own will."""
        self._end_worker(worker_id, outcome)

    def beat(self, worker_ids: Collection[str]) -> Beat:
        """Renew the leases of workers."""
        now = self._clock()
        working = [w for w in worker_ids if self._workers.get(w, "unknown") is None]
        self._seen_at.update(dict.fromkeys(working, now))
        dismissed = frozenset(worker_ids) - set(working)
        if not working:
            return Beat(math.nan, None, dismissed, None)
        return Beat(now, self._stop, dismissed, self.counts())

    def note_outage(self) -> None:
        """Let nobody's lease be judged for the length of one: it could not be renewed in time."""
        self.record(EventKind.OUTAGE, {})
        self.up_since = max(self.up_since, self._clock())

    def reap(self, worker_id: str, reason: str) -> bool:
        """Free at once what a worker held that is known to be dead.

        Returns
        -------
        bool
            Whether it was thought alive until now.
        """
        unit = self._in_hand.get(worker_id)
        if unit is not None:
            self._reap(unit, reason)
        return self._end_worker(worker_id, reason)

    # The way of a trial -----------------------------------------------------------------------

    def claim(self, worker_id: str) -> Claim | Answer:
        """Take a unit of budget: a free one before a new one.

        Raises
        ------
        FailedStudyError
            If more trials failed than the study allows.
        """
        if self._workers.get(worker_id) is not None:
            return Answer.DISMISSED
        now = self._clock()
        mine = self._in_hand.get(worker_id)
        if mine is not None:  # The answer to an earlier call was lost.
            return _claim_of(mine, worker_id)
        if abs(now - self._seen_at.get(worker_id, now)) < self.lease_s / 2.0:
            self._reap_expired(now)
        if self._finished >= self._budget:
            return Answer.DONE
        if self._stop is not None:
            return Answer.STOPPED
        if self._finished + len(self._in_hand) >= self._budget:
            return Answer.WAIT
        if self._failed > self.max_failures:
            raise FailedStudyError(
                f"{self._failed} trials failed, max_failures is {self.max_failures}; "
                f"the last one: {self.last_failure()}"
            )
        unit = self._take_free(worker_id)
        if unit is None:
            unit = Unit(len(self.units), worker_id, now)
            self.units.append(unit)
        self._in_hand[worker_id] = unit
        unit.lease_until = now + self.lease_s
        if not unit.queued:
            unit.queued = True
            heapq.heappush(self._leases, (self._lease_end(unit), unit.number))
        return _claim_of(unit, worker_id)

    def save_params(
        self,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],  # noqa: ARG002  as the other ledger
    ) -> None:
        """Store the parameters of a trial, all at once."""
        unit = self._fenced(claim)
        if unit is not None and params and unit.params is None:
            unit.params = params

    def save(self, claim: Claim, parts: Parts) -> None:
        """Store the scores of parts, by their position, in the middle of a trial."""
        self._fenced(claim, parts=parts)

    def finish(
        self,
        claim: Claim,
        scores: Mapping[str, float],
        parts: Parts = NO_PARTS,
        pruned: str = "",
        settled: ResolvedTrial | None = None,
        judged: Judged = BY_SCORE,  # noqa: ARG002  as the other ledger
    ) -> None:
        """Tell the result of a trial, or why it was pruned; its unit of budget is spent.

        Scores of parts that are not stored yet come with it.
        """
        state = "pruned" if pruned else "finished"
        unit = self._fenced(claim, state=state, parts=parts)
        if unit is not None:
            del self._in_hand[claim.worker_id]
            unit.state, unit.scores, unit.pruned = state, _readable(scores), pruned or None
            self._finished += 1
            self._pruned += bool(pruned)
            if settled is not None:
                unit.params = {**(unit.params or {}), **settled.params}
                unit.parts |= {part: _readable(s) for part, s in enumerate(settled.parts)}

    def fail(self, claim: Claim, reason: str, parts: Parts = NO_PARTS) -> None:
        """Give up a trial that its objective refused, when it was tried again `max_retry` times."""
        again = claim.retried < self.max_retry
        unit = self._fenced(claim, state="open" if again else "failed", freed=again, parts=parts)
        if unit is None:
            return
        if again:
            unit.attempts = replace(unit.attempts, retried=claim.retried + 1)
            self._record_end(EventKind.RETRY, unit, reason)
            self._set_free(unit)
            return
        del self._in_hand[claim.worker_id]
        self._end_failed(unit, after_retries(claim, reason))

    def release(self, claim: Claim, parts: Parts = NO_PARTS, reason: str = INTERRUPTED) -> None:
        """Leave a trial to another worker, who goes on with the next part."""
        unit = self._fenced(claim, freed=True, parts=parts)
        if unit is None:
            return
        counted = reason not in BY_USER and self._stop != "now"
        if not (counted and self._give_up(unit, reason)):
            self._set_free(unit)

    def exceed(
        self, worker_id: str, reason: str, trial: int, then: OnLimit, retries: int = 0
    ) -> None:
        """End a trial that exceeded a limit, and whose worker was ended for it."""
        unit = self._in_hand.get(worker_id)
        if unit is not None and unit.number != trial:
            self._set_free(unit)
        elif unit is not None:
            self._record_end(EventKind.LIMIT, unit, reason)
            if then is OnLimit.PRUNE:
                del self._in_hand[worker_id]
                unit.state, unit.pruned = "pruned", reason
                self._finished += 1
                self._pruned += 1
            elif then is OnLimit.FAIL:
                self._fail_unit(unit, reason)
            elif not self._give_up(unit, reason, retries):
                self._set_free(unit)
        self._end_worker(worker_id, reason)

    # The budget -------------------------------------------------------------------------------

    def set_budget(self, budget: int) -> BudgetChange:
        """Raise or lower the budget; takes back the trials that it has no room for any more."""
        before = self._budget
        if before != budget:
            self.record(EventKind.BUDGET, {"before": before, "after": budget, "by_hand": True})
        self._budget = budget
        room = max(0, budget - self._finished)
        beyond = sorted(self._in_hand.values(), key=lambda unit: unit.number)[room:]
        for unit in beyond:
            self._set_free(unit)
        return BudgetChange(before, budget, [unit.number for unit in beyond])

    def stop(self, how: str | None) -> None:
        """Let no new trial begin (`gently`), have all released (`now`), or go on (None)."""
        if self._stop != how:
            self.record(EventKind.STOP, {"how": how})
        self._stop = how

    def stopped(self) -> str | None:
        """Return how the study was stopped; None if it may go on."""
        return self._stop

    def counts(self) -> Counts:
        """Return the budget and where its units are."""
        held = len(self._in_hand)
        gone = self._finished + self._failed
        return Counts(
            self._budget,
            finished=self._finished,
            failed=self._failed,
            held=held,
            free=len(self.units) - gone - held,
            pruned=self._pruned,
        )

    def in_hand(self, worker_id: str) -> Unit | None:
        """Return the unit that a worker holds; None if it holds none."""
        return self._in_hand.get(worker_id)

    def last_failure(self) -> str:
        """Return why the last failed trial failed."""
        failures = self.failures(limit=1)
        return f"trial {failures[0][0]}: {failures[0][1]}" if failures else "none"

    def failures(self, limit: int | None = None) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials, the last one first."""
        failed = [(u.number, u.failure) for u in reversed(self.units) if u.failure is not None]
        return failed[:limit]

    def events(self, kind: EventKind | None = None) -> list[dict[str, Any]]:
        """Return what happened to the study, oldest first; of one kind or of all."""
        return [event for event in self._events if kind in (None, event["kind"])]

    def record(self, kind: EventKind, detail: Mapping[str, Any]) -> None:
        """Write down something that must not be forgotten."""
        self._events.append({"at": self._clock(), "kind": kind, **detail})

    # One call's pieces ------------------------------------------------------------------------

    def _fenced(
        self, claim: Claim, *, state: str = "open", freed: bool = False, parts: Parts = NO_PARTS
    ) -> Unit | None:
        """Return the unit of a claim, to be changed, with scores of parts; refused if it moved on.

        None if it was changed before, by a call whose answer was lost.
        """
        unit = self.units[claim.trial_id]
        if unit.attempt == claim.attempt:
            stored = max(parts) + 1 if parts else unit.stored
            new = not parts or unit.stored < stored
            if unit.worker_id == claim.worker_id and unit.state == "open" and new:
                unit.lease_until = self._clock() + self.lease_s
                unit.stored = stored
                unit.parts |= {part: _readable(scores) for part, scores in parts.items()}
                return unit
            worker_id = None if freed else claim.worker_id
            if (unit.worker_id, unit.state, unit.stored) == (worker_id, state, stored):
                return None
        raise LostLeaseError(f"trial {claim.number}: attempt {claim.attempt} is over")

    def _take_free(self, worker_id: str) -> Unit | None:
        while self._free:
            unit = self.units[heapq.heappop(self._free)]
            if unit.state == "open" and unit.worker_id is None:
                unit.worker_id = worker_id
                unit.attempt += 1
                return unit
        return None

    def _set_free(self, unit: Unit) -> None:
        assert unit.worker_id is not None
        del self._in_hand[unit.worker_id]
        unit.worker_id = None
        heapq.heappush(self._free, unit.number)

    def _reap_expired(self, now: float) -> None:
        if now - self.up_since < self.lease_s:
            return
        expired = []
        while self._leases and self._leases[0][0] < now:
            unit = self.units[self._leases[0][1]]
            if unit.held and self._lease_end(unit) >= now:  # It was renewed since.
                heapq.heapreplace(self._leases, (self._lease_end(unit), unit.number))
                continue
            heapq.heappop(self._leases)
            unit.queued = False
            if unit.held:
                expired.append(unit)
        for unit in sorted(expired, key=lambda unit: unit.number):
            self._reap(unit, f"no sign of life for {self.lease_s:g} s")

    def _reap(self, unit: Unit, reason: str) -> None:
        """Free a dead worker's unit, or fail its trial if it has cost too many workers."""
        unit.deaths += 1
        self._record_end(EventKind.DEATH, unit, reason)
        if unit.deaths >= self.max_deaths:
            self._fail_unit(unit, f"{unit.deaths} workers died on it; the last: {reason}")
        elif not self._give_up(unit, reason):
            self._set_free(unit)

    def _give_up(self, unit: Unit, reason: str, retries: int | None = None) -> bool:
        """Count an attempt that ended; fail its trial, and return True, if there were too many."""
        before = unit.attempts
        idle = before.without_progress + 1 if unit.stored == before.parts else 0
        exceeded = before.exceeded + (retries is not None)
        unit.attempts = Attempts(unit.stored, idle, exceeded, reason, before.retried)
        if retries is not None and exceeded > retries:
            tried = f"{exceeded} attempts exceeded a limit; the last: " if retries else ""
            self._fail_unit(unit, f"{tried}{reason}")
        elif idle >= self.max_attempts:
            self._fail_unit(unit, f"{idle} attempts in a row stored no part; the last: {reason}")
        return unit.state == "failed"

    def _record_end(self, kind: EventKind, unit: Unit, reason: str) -> None:
        detail = {"trial": unit.number, "attempt": unit.attempt, "part": unit.stored}
        self.record(kind, {**detail, "worker": unit.worker_id, "reason": reason})

    def _fail_unit(self, unit: Unit, reason: str) -> None:
        assert unit.worker_id is not None
        del self._in_hand[unit.worker_id]
        self._end_failed(unit, reason)

    def _lease_end(self, unit: Unit) -> float:
        """Return when the lease of a held unit ends: its launcher and what it stores renew it."""
        seen_at = self._seen_at.get(unit.worker_id or "")
        return max(unit.lease_until, -math.inf if seen_at is None else seen_at + self.lease_s)

    def _end_failed(self, unit: Unit, reason: str) -> None:
        unit.state, unit.failure = "failed", reason
        self._failed += 1

    def _end_worker(self, worker_id: str, outcome: str) -> bool:
        working = self._workers.get(worker_id, outcome) is None
        if working:
            self._workers[worker_id] = outcome
        return working


def _claim_of(unit: Unit, worker_id: str) -> Claim:
    """Return the claim that a held unit is, with what is stored of its trial."""
    parts: list[Mapping[str, float]] = []
    while len(parts) in unit.parts:
        parts.append(unit.parts[len(parts)])
    known = (unit.params, tuple(parts), None, unit.attempts.retried)
    return Claim(unit.number, unit.number, unit.attempt, worker_id, *known)


def _readable(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return scores as they are read again: all that is not finite as NaN."""
    return {name: value if _is_readable(value) else math.nan for name, value in scores.items()}


def _is_readable(value: Any) -> bool:
    return isinstance(value, str) or math.isfinite(value)
