"""Scenarios: durations of trials, faults, a cluster; and the results of a simulation."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from optuna.trial import FrozenTrial, TrialState

from hpo.errors import HpoError
from hpo.records import WALL_KEY, part_key
from hpo.study.record import StudyRecord
from hpo.study.snapshot import trials_of
from hpo.worker.loop import Scores

HOUR_S = 3600.0
TIME_LIMIT, PREEMPTION = "time limit", "preemption"


@dataclass(frozen=True)
class DurationTrace:
    """The scores of every part of some trials, `wall_s` among them; used again from the start.

    Attributes
    ----------
    rows
        For each trial the scores of its parts; a trial with fewer than others is pruned after them.
    """

    rows: tuple[tuple[Scores, ...], ...]

    @classmethod
    def make(
        cls, parts: int, part_s: float, *, seed: int = 0, spread: float = 0.3, n_rows: int = 1000
    ) -> DurationTrace:
        """Return a table whose durations are log-normal around a mean.

        Parameters
        ----------
        part_s
            Mean duration of a part in seconds.
        spread
            Standard deviation of the duration's logarithm; 0 makes all parts alike.
        """
        source = random.Random(f"table {seed}")
        middle = math.log(part_s) - spread**2 / 2.0
        rows = (
            tuple(
                {
                    "score": source.random(),
                    WALL_KEY: source.lognormvariate(middle, spread) if spread else part_s,
                }
                for _ in range(parts)
            )
            for _ in range(n_rows)
        )
        return cls(tuple(rows))

    @classmethod
    def from_study(cls, record: StudyRecord) -> DurationTrace:
        """Return the stored parts of a study's finished and pruned trials.

        Raises
        ------
        HpoError
            If no trial has finished yet.
        """
        rows, complete = [], False
        for trial in trials_of(record, TrialState.COMPLETE, TrialState.PRUNED):
            complete = complete or trial.state is TrialState.COMPLETE
            keys = itertools.takewhile(
                lambda key, stored=trial.user_attrs: key in stored,  # type: ignore[misc]
                map(part_key, itertools.count()),
            )
            parts = tuple(_read_scores(trial.user_attrs[key]) for key in keys)
            # A trial that was evaluated as a whole is one part.
            rows.append(parts or (_whole(trial),))
        if not complete:
            raise HpoError(
                f"study '{record.name}': no trial has finished, so there are no durations to "
                "simulate with; give them with --parts and --part-s"
            )
        return cls(tuple(rows))

    @property
    def n_parts(self) -> int:
        """Number of parts of a trial that is not pruned."""
        return max(map(len, self.rows))

    @property
    def mean_part_s(self) -> float:
        """Mean duration of a part in seconds."""
        durations = [scores[WALL_KEY] for row in self.rows for scores in row]
        return math.fsum(durations) / len(durations)

    @property
    def longest_part_s(self) -> float:
        """Longest duration of a part in seconds."""
        return max(float(scores[WALL_KEY]) for row in self.rows for scores in row)


def _whole(trial: FrozenTrial) -> Mapping[str, float]:
    value = trial.values[0] if trial.values else 0.0
    return {"score": value, WALL_KEY: float(trial.user_attrs.get(WALL_KEY, 0.0))}


def _read_scores(stored: Mapping[str, float | None]) -> Scores:
    return {name: math.nan if value is None else value for name, value in stored.items()}


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and how often a worker is hit by it.

    Attributes
    ----------
    kill, freeze, preemption, node
        Times per hour of a worker: killed without a word; frozen for longer than its lease, and
        then going on as if nothing had been; asked to leave, and run again later; killed together
        with all others of its node.
    outage
        Times per hour of the store.
    node_size
        Workers per node.
    freeze_leases
        Shortest and longest sleep of a frozen worker, in leases.
    outage_s
        How long the store does not answer.
    """

    kill: float = 0.0
    freeze: float = 0.0
    preemption: float = 0.0
    node: float = 0.0
    outage: float = 0.0
    node_size: int = 32
    freeze_leases: tuple[float, float] = (1.1, 3.0)
    outage_s: float = 120.0

    @classmethod
    def of_all_kinds(cls, per_worker_hour: float) -> Faults:
        """Return kills, freezes, preemptions and node failures, equally often."""
        each = per_worker_hour / 4.0
        return cls(kill=each, freeze=each, preemption=each, node=each)


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes
    ----------
    workers, trials
        How many jobs are kept running, and the budget.
    lease_s, checkpoint_s, max_deaths, max_failures
        As in a study file.
    time_limit_s
        Of a job; None if jobs may run on. Workers leave `leave_before_s` and up to `stagger_s`
        before it, and are queued again.
    requeue_s, refill_s
        From the end of a job that left until it runs again, and from the death of a job until
        another runs in its place.
    ramp_s
        Within which time the jobs begin.
    draw_s
        What it takes to draw parameters.
    store_latency_s, store_service_s
        What a call of the store takes, and for how long it keeps the store from all others.
    """

    workers: int
    trials: int
    lease_s: float = 60.0
    checkpoint_s: float = 1.0
    max_deaths: int = 3
    max_failures: int = 10
    time_limit_s: float | None = None
    leave_before_s: float = 60.0
    stagger_s: float = 60.0
    requeue_s: float = 120.0
    refill_s: float = 120.0
    ramp_s: float = 0.0
    draw_s: float = 0.0
    store_latency_s: float = 0.0
    store_service_s: float = 0.0
    faults: Faults = field(default_factory=Faults)
    seed: int = 0

    def check(self, table: DurationTrace) -> None:
        """Raise HpoError if this cannot be simulated."""
        for name in ("workers", "trials", "lease_s", "max_deaths"):
            if getattr(self, name) <= 0:
                raise HpoError(f"{name}: must be above 0, got {getattr(self, name)}")
        for part in (self, self.faults):
            for at in fields(part):
                value = getattr(part, at.name)
                if isinstance(value, int | float) and not 0 <= value < math.inf:
                    raise HpoError(f"{at.name}: must be finite and not below 0, got {value}")
        if self.time_limit_s is not None:
            left = self.time_limit_s - self.leave_before_s - self.stagger_s
            if left <= table.longest_part_s:
                raise HpoError(
                    f"a time limit of {self.time_limit_s:g} s leaves {left:g} s for work, and the "
                    f"longest part takes {table.longest_part_s:.0f} s: raise --time-limit-s"
                )


@dataclass(frozen=True)
class Spread:
    """Quantiles of some durations in seconds."""

    n: int
    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the quantiles by nearest rank; None of nothing."""
        if not values:
            return None
        ranked = sorted(values)
        middle, high = (ranked[math.ceil(q * len(ranked)) - 1] for q in (0.5, 0.95))
        return cls(len(ranked), middle, high, ranked[-1])


@dataclass(frozen=True)
class Load:
    """What the store has to bear per second: on average, and in the worst second."""

    mean: float
    peak: float


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes
    ----------
    outcome
        "finished", or why the study stopped.
    finished, failed, budget
        Trials that were told, trials that were given up, and trials that were wanted.
    pruned
        Trials among the finished ones that were told after fewer parts.
    overshoot, lost, told_twice
        Trials told beyond the budget, trials of the budget that were never told, and trials that
        were told more than once. A study that finished has none of them.
    parts_scored, parts_repeated
        Parts whose score was stored, and parts that were computed after that, which never happens.
    parts_unfinished, parts_refused
        Parts that were cut short or lost before they were stored, and parts whose worker had been
        taken for dead when it came.
    faults
        What hit workers, by kind.
    makespan_s
        When the last trial was told.
    utilisation
        Share of the workers' time that went into parts whose score was stored.
    restart_s, restart_bound_s
        From the death of a worker until another runs its trial; and a lease, a heartbeat and a
        poll, within which it does if a worker is idle.
    calls, calls_per_s, statements_per_s, transactions_per_s
        What the store is asked, by kind and per second; without what samplers read.
    store_busy, longest_wait_s
        Share of the time in which the store serves a call, and the longest wait for it.
    events
        How many events were simulated.
    """

    outcome: str
    budget: int
    finished: int
    pruned: int
    failed: int
    overshoot: int
    lost: int
    told_twice: int
    parts_scored: int
    parts_repeated: int
    parts_unfinished: int
    parts_refused: int
    faults: Mapping[str, int]
    makespan_s: float
    utilisation: float
    restart_s: Spread | None
    restart_bound_s: float
    calls: Mapping[str, int]
    calls_per_s: Load
    statements_per_s: Load
    transactions_per_s: Load
    store_busy: float
    longest_wait_s: float
    events: int
