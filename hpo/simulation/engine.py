"""A cluster on a simulated clock: the worker's own loop, tabulated objectives, seeded faults.

`hpo.worker.loop.work` runs unchanged, a generator per worker, over a ledger in memory. What takes
time is an event on one heap: parts, draws, pauses, heartbeats, the store's queue, jobs that end and
come again, and whatever goes wrong. Ten thousand workers are simulated within a minute.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hpo.errors import FailedStudyError, HpoError, StopRequested
from hpo.records import WALL_KEY, Answer, Claim, Judged
from hpo.simulation.call_costs import price_calls
from hpo.simulation.memory_ledger import MemoryLedger
from hpo.simulation.scenario import (
    HOUR_S,
    PREEMPTION,
    TIME_LIMIT,
    Cluster,
    DurationTrace,
    Load,
    Result,
    Spread,
)
from hpo.simulation.store import SimulatedStore
from hpo.worker.loop import Pause, ScorePart, Scores, Step, poll_interval, run_parts, work

_PARAMS: Mapping[str, Any] = {"x": 0.5}
# A simulation with this many times the events that it ought to have will not end.
_TOO_MANY = 20


def simulate(cluster: Cluster, table: DurationTrace) -> Result:
    """Run a study on a simulated cluster; the same arguments give the same result.

    Raises
    ------
    HpoError
        If a value is not valid, or if the study does not come to an end.
    """
    cluster.check(table)
    with _quiet("hpo.worker.loop"):
        simulation = _Simulation(cluster, table)
        simulation.run()
    return simulation.sum_up()


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger say nothing: millions of lines would take longer than the simulation."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Objective:
    """Scores come from the table; only the combination is made."""

    def __init__(self, parts: int) -> None:
        self.parts: Sequence[str] = tuple(f"part {part}" for part in range(parts))

    def combine(self, parts: Sequence[Scores]) -> Scores:
        return {"score": math.fsum(part["score"] for part in parts)}

    def judge(self, scores: Scores) -> Judged:
        return Judged([scores["score"]])


class _Worker:
    """One job. Whatever it waits for is one event; a newer token makes an older event void."""

    __slots__ = (
        *("alive", "answer", "beat_due", "due", "entered", "frozen", "leaving", "next_beat"),
        *("queued", "reason", "slot", "started", "step", "steps", "then", "token", "worker_id"),
    )

    def __init__(self, slot: int, worker_id: str, steps: Generator[Step, Any, Answer]) -> None:
        self.slot, self.worker_id, self.steps = slot, worker_id, steps
        self.step: Step | None = None
        self.answer: Any = None
        self.token = 0
        self.started = self.due = self.beat_due = self.next_beat = 0.0
        self.then: Callable[[_Worker], None]
        self.alive, self.entered, self.frozen = True, False, False
        # Whether its call is in the store's queue, and whether its loop is told to stop next.
        self.queued = self.leaving = False
        # Why it was asked to leave.
        self.reason: str | None = None

    @property
    def interruptible(self) -> bool:
        """Whether a request to leave reaches it at once, as in `hpo.worker.worker`."""
        return not (self.frozen or self.queued or self.leaving) and isinstance(
            self.step, ScorePart | Pause
        )


_Event = tuple[float, int, Callable[[Any], None], Any, int]
_ALWAYS = -1  # the token of an event that is never void


class _Simulation:
    def __init__(self, cluster: Cluster, table: DurationTrace) -> None:
        self.cluster, self.rows = cluster, table.rows
        self.objective = _Objective(table.n_parts)
        self.poll_s = poll_interval(cluster.lease_s)
        self.beat_s = cluster.lease_s / 3.0
        self.random = random.Random(f"cluster {cluster.seed}")
        ledger = MemoryLedger(
            cluster.trials,
            lease_s=cluster.lease_s,
            max_deaths=cluster.max_deaths,
            max_failures=cluster.max_failures,
            clock=lambda: self.store.now,
        )
        self.store = SimulatedStore(ledger, cluster.store_latency_s, cluster.store_service_s)
        self.heap: list[_Event] = []
        self.ticket = itertools.count()
        self.events = self.jobs = self.running = 0
        self.slots: list[_Worker | None] = [None] * cluster.workers
        self.lives: list[tuple[float, float]] = []
        self.faults: Counter[str] = Counter()
        self.failure: str | None = None
        self.most_events = _TOO_MANY * self._expect_events(table)

    def _expect_events(self, table: DurationTrace) -> float:
        parts = self.cluster.trials * len(self.objective.parts)
        work_s = parts * table.mean_part_s + self.cluster.workers * (
            table.longest_part_s * len(self.objective.parts) + self.cluster.refill_s
        )
        return parts + 10_000 + work_s * (1.0 / self.beat_s + 1.0 / self.poll_s)

    # Events -----------------------------------------------------------------------------------

    def run(self) -> None:
        cluster, store = self.cluster, self.store
        for slot in range(cluster.workers):
            self._push(self.random.uniform(0.0, cluster.ramp_s), self._start, slot)
        self._schedule_faults()
        heap, most_events = self.heap, self.most_events
        while self.running or not self.over:
            at, _, then, subject, token = heapq.heappop(heap)
            if token != _ALWAYS and token != subject.token:
                continue
            store.now = at
            self.events += 1
            if self.events > most_events:
                raise HpoError(
                    f"after {at / HOUR_S:.1f} simulated hours {len(store.told)} of "
                    f"{cluster.trials} trials are finished, and it would not end: fewer faults "
                    "or shorter parts"
                )
            then(subject)

    @property
    def over(self) -> bool:
        """Whether no job has to come any more."""
        return self.failure is not None or len(self.store.told) >= self.cluster.trials

    def _push(
        self, at: float, then: Callable[[Any], None], subject: Any, token: int = _ALWAYS
    ) -> None:
        heapq.heappush(self.heap, (at, next(self.ticket), then, subject, token))

    def _wait(self, worker: _Worker, until: float, then: Callable[[_Worker], None]) -> None:
        """Let a worker do nothing else until then."""
        worker.due, worker.then = until, then
        worker.token += 1
        heapq.heappush(self.heap, (until, next(self.ticket), then, worker, worker.token))

    # The way of a worker ----------------------------------------------------------------------

    def _start(self, slot: int) -> None:
        if self.over:
            return
        cluster, now = self.cluster, self.store.now
        worker_id = f"worker-{self.jobs}"
        run_trial = partial(
            run_parts, self.store, self.objective, {}, cluster.checkpoint_s, self._prune
        )
        steps = work(self.store, worker_id, run_trial, self.poll_s)
        worker = self.slots[slot] = _Worker(slot, worker_id, steps)
        worker.started = now
        self.jobs += 1
        self.running += 1
        if cluster.time_limit_s is not None:
            ends = now + cluster.time_limit_s
            leaves = ends - cluster.leave_before_s - self.random.uniform(0.0, cluster.stagger_s)
            self._push(leaves, self._reach_limit, worker)
            self._push(ends, self._exceed_limit, worker)
        self._call_store(worker)

    def _prune(self, claim: Claim, parts: Sequence[Scores]) -> str:
        scored = len(self.rows[claim.number % len(self.rows)])
        return "as in the table" if len(parts) == scored else ""

    def _call_store(self, worker: _Worker) -> None:
        """Let the loop go on with what it waited for, which begins with a call of the store."""
        wait_s = self.store.queue()
        if wait_s:
            worker.queued = True
            self._wait(worker, self.store.now + wait_s, self._reach_store)
        else:
            self._go_on(worker, queued=False)

    def _reach_store(self, worker: _Worker) -> None:
        worker.queued = False
        if self.store.now < self.store.closed_until:
            self._call_store(worker)
        else:
            self._go_on(worker, queued=True)

    def _go_on(self, worker: _Worker, *, queued: bool) -> None:
        """Let the loop run until it yields something that takes time."""
        self.store.take_turn(queued=queued)
        if not worker.entered:
            self.store.register(worker.worker_id)
            worker.entered = True
            self._beat_at(worker, self.store.now + self.beat_s, self._beat)
        try:
            if worker.leaving:
                step = worker.steps.throw(StopRequested(worker.reason or ""))
            else:
                step = worker.steps.send(worker.answer)
        except StopIteration as done:
            self._leave(worker, done.value.value)
        except StopRequested as exc:
            self._leave(worker, f"stopped: {exc}")
        except FailedStudyError as exc:
            self.failure = str(exc)
            self._leave(worker, "error")
        else:
            self._carry_out(worker, step)

    def _carry_out(self, worker: _Worker, step: Step) -> None:
        worker.step = step
        if worker.reason is not None and worker.interruptible:
            worker.leaving, duration_s = True, 0.0
        elif isinstance(step, ScorePart):
            number = step.claim.number
            scores = self.rows[number % len(self.rows)][step.part]
            self.store.begin_part(number, step.part)
            worker.answer, duration_s = scores, scores[WALL_KEY]
        elif isinstance(step, Pause):
            worker.answer, duration_s = None, step.seconds
        else:
            worker.answer, duration_s = _PARAMS, self.cluster.draw_s
        self._wait(worker, self.store.answered + duration_s, self._call_store)

    def _leave(self, worker: _Worker, outcome: str) -> None:
        self.store.deregister(worker.worker_id, outcome)
        self._end(worker, self.cluster.requeue_s if worker.reason else None)

    def _end(self, worker: _Worker, again_s: float | None) -> None:
        """Let a job be over, and another one begin in its place after some time."""
        worker.alive = False
        worker.token += 1
        worker.steps.close()
        self.running -= 1
        self.lives.append((worker.started, self.store.now))
        self.slots[worker.slot] = None
        if again_s is not None and not self.over:
            self._push(self.store.now + again_s, self._start, worker.slot)

    def _request_stop(self, worker: _Worker, reason: str) -> None:
        if worker.reason is None:
            worker.reason = reason
        self._interrupt(worker)

    def _interrupt(self, worker: _Worker) -> None:
        if worker.interruptible:
            worker.leaving = True
            self._wait(worker, self.store.now, self._call_store)

    # Heartbeats -------------------------------------------------------------------------------

    def _beat_at(self, worker: _Worker, at: float, then: Callable[[_Worker], None]) -> None:
        worker.beat_due = at
        self._push(at, then, worker)

    def _beats_now(self, worker: _Worker) -> bool:
        """Whether this is the worker's next beat; a frozen one's comes when it thaws."""
        return worker.alive and not worker.frozen and worker.beat_due == self.store.now

    def _beat(self, worker: _Worker) -> None:
        if self._beats_now(worker):
            worker.next_beat = self.store.now + self.beat_s
            wait_s = self.store.queue()
            if wait_s:
                self._beat_at(worker, self.store.now + wait_s, self._reach_store_to_renew)
            else:
                self._renew(worker, queued=False)

    def _reach_store_to_renew(self, worker: _Worker) -> None:
        if self.store.now < self.store.closed_until:
            self._beat(worker)
        elif self._beats_now(worker):
            self._renew(worker, queued=True)

    def _renew(self, worker: _Worker, *, queued: bool) -> None:
        self.store.take_turn(queued=queued)
        answer = self.store.beat(worker.worker_id)
        self._beat_at(worker, max(worker.next_beat, self.store.answered), self._beat)
        if answer is not None:
            self._request_stop(worker, answer.value)

    # Faults -----------------------------------------------------------------------------------

    def _schedule_faults(self) -> None:
        faults, workers = self.cluster.faults, self.cluster.workers
        node_size = min(faults.node_size, workers)
        for rate, strike in (
            (faults.kill * workers, self._strike_kill),
            (faults.freeze * workers, self._strike_freeze),
            (faults.preemption * workers, self._strike_preemption),
            (faults.node * workers / node_size, self._strike_node),
            (faults.outage, self._strike_outage),
        ):
            if rate > 0.0:
                self._repeat(rate / HOUR_S, strike)

    def _repeat(self, rate_per_s: float, strike: Callable[[], None]) -> None:
        def come(_: None) -> None:
            strike()
            if not self.over:
                self._repeat(rate_per_s, strike)

        self._push(self.store.now + self.random.expovariate(rate_per_s), come, None)

    def _any_worker(self) -> _Worker | None:
        return self.slots[self.random.randrange(self.cluster.workers)]

    def _strike_kill(self) -> None:
        worker = self._any_worker()
        if worker is not None:
            self._kill(worker, "kill")

    def _strike_node(self) -> None:
        size = self.cluster.faults.node_size
        first = self.random.randrange(self.cluster.workers) // size * size
        for worker in self.slots[first : first + size]:
            if worker is not None:
                self._kill(worker, "node failure")

    def _strike_preemption(self) -> None:
        worker = self._any_worker()
        if worker is not None and worker.reason is None:
            self.faults[PREEMPTION] += 1
            self._request_stop(worker, PREEMPTION)

    def _strike_freeze(self) -> None:
        worker = self._any_worker()
        if worker is None or worker.frozen or not worker.entered:
            return
        self.faults["freeze"] += 1
        self._lose_sight(worker)
        worker.frozen = True
        worker.token += 1
        worker.due -= self.store.now  # what is left of it
        sleep_s = self.cluster.lease_s * self.random.uniform(*self.cluster.faults.freeze_leases)
        self._push(self.store.now + sleep_s, self._thaw, worker)

    def _strike_outage(self) -> None:
        self.faults["store outage"] += 1
        self.store.close(self.store.now + self.cluster.faults.outage_s)

    def _thaw(self, worker: _Worker) -> None:
        if not worker.alive:
            return
        worker.frozen = False
        self._wait(worker, self.store.now + max(0.0, worker.due), worker.then)
        worker.beat_due = self.store.now
        self._beat(worker)
        if worker.reason is not None:
            self._interrupt(worker)

    def _reach_limit(self, worker: _Worker) -> None:
        if worker.alive:
            self.faults[TIME_LIMIT] += 1
            self._request_stop(worker, TIME_LIMIT)

    def _exceed_limit(self, worker: _Worker) -> None:
        if worker.alive:  # It was frozen, or could not reach the store.
            self._kill(worker, "killed at the time limit")

    def _kill(self, worker: _Worker, kind: str) -> None:
        """Nobody is told: its lease has to run out."""
        self.faults[kind] += 1
        self._lose_sight(worker)
        self._end(worker, self.cluster.refill_s)

    def _lose_sight(self, worker: _Worker) -> None:
        unit = self.store.ledger.in_hand(worker.worker_id)
        if unit is not None:
            self.store.interrupted.setdefault(unit.number, self.store.now)

    # The result -------------------------------------------------------------------------------

    def sum_up(self) -> Result:
        store, budget = self.store, self.cluster.trials
        finished = len(store.told)
        makespan_s = store.last_told_s
        worker_s = math.fsum(max(0.0, min(end, makespan_s) - start) for start, end in self.lives)
        prices = price_calls()
        return Result(
            outcome=self.failure or "finished",
            budget=budget,
            finished=finished,
            pruned=store.ledger.counts().pruned,
            failed=store.ledger.counts().failed,
            overshoot=max(0, finished - budget),
            lost=max(0, budget - finished),
            told_twice=sum(times > 1 for times in store.told.values()),
            parts_scored=store.scored,
            parts_repeated=store.repeated,
            parts_unfinished=store.begun - store.scored - store.refused,
            parts_refused=store.refused,
            faults=dict(self.faults),
            makespan_s=makespan_s,
            utilisation=store.useful_s / worker_s if worker_s else 0.0,
            restart_s=Spread.of(store.restarts_s),
            restart_bound_s=self.cluster.lease_s + self.beat_s + self.poll_s,
            calls={kind: tally.total() for kind, tally in store.calls.items()},
            calls_per_s=self._load(lambda _: 1),
            statements_per_s=self._load(lambda kind: prices[kind].statements),
            transactions_per_s=self._load(lambda kind: prices[kind].transactions),
            store_busy=min(1.0, store.busy_s / store.now) if store.now else 0.0,
            longest_wait_s=store.longest_wait_s,
            events=self.events,
        )

    def _load(self, weight: Callable[[str], int]) -> Load:
        seconds: Counter[int] = Counter()
        for kind, tally in self.store.calls.items():
            each = weight(kind)
            for second, times in tally.items():
                seconds[second] += times * each
        length_s = max(1.0, self.store.now)
        return Load(seconds.total() / length_s, max(seconds.values(), default=0))
