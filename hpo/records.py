"""Records that storage, workers and launchers exchange: claims, counts, runs, part scores."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hpo.wording import count_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Set by `--trust`, so that the workers that a command starts need not be told again.
TRUST = "HPO_TRUST"

FAILURE_KEY = "failure"
PRUNED_KEY = "pruned"
WORKER_KEY = "worker"
WALL_KEY = "wall_s"
# States of units that are spent: the budget's finished ones.
SPENT = ("finished", "pruned")


class Access(enum.Enum):
    """What a storage is opened for."""

    READ = "nothing is changed, and nothing need be writable"
    WORK = "studies that are there go on"
    CREATE = "database and tables are made where they are missing"


class OnLimit(enum.StrEnum):
    """What becomes of a trial that exceeded a limit."""

    FAIL = "fail"
    PRUNE = "prune"
    RETRY = "retry"


INTERRUPTED = "interrupted"


class Answer(enum.Enum):
    """What a worker that gets no trial is told."""

    WAIT = "the budget is claimed, but not finished: one of the others may die"
    DONE = "the budget is finished"
    STOPPED = "the study was stopped"
    DISMISSED = "the worker was taken for dead, and its place may be filled"


# Reasons to leave a trial that say nothing about it: somebody ended the study.
BY_USER = (INTERRUPTED, Answer.STOPPED.value)


@dataclass(frozen=True)
class Claim:
    """One unit of budget, held by one worker.

    Attributes
    ----------
    trial_id, number
        Optuna's id and number of the trial.
    attempt
        The fencing token.
    params
        Parameters that an earlier worker drew; None if nobody did.
    parts
        Stored scores of the parts 0 to len(parts) - 1.
    point
        Parameters that the trial was enqueued with; None if it was not.
    retried
        How often its objective refused it, and it was worked on again.
    """

    trial_id: int
    number: int
    attempt: int
    worker_id: str
    params: Mapping[str, Any] | None
    parts: tuple[Mapping[str, float], ...]
    point: Mapping[str, Any] | None = None
    retried: int = 0


@dataclass(frozen=True)
class Counts:
    """The budget and where its units are; the finished ones include the pruned ones.

    `outside` are trials that are no units of it, complete or pruned: somebody's `Study.optimize`
    added them. They spend nothing, and are seen by whoever looks at the trials of the study.
    """

    budget: int
    finished: int = 0
    failed: int = 0
    held: int = 0
    free: int = 0
    pruned: int = 0
    outside: int = 0

    def __str__(self) -> str:
        beside = f" and {self.outside} from outside" if self.outside else ""
        return f"{self.finished} of {count_of(self.budget, 'trial')}{beside}"

    @property
    def done(self) -> bool:
        """Whether the budget is finished."""
        return self.finished >= self.budget

    @property
    def claimable(self) -> int:
        """How many trials workers without one could begin or take over."""
        return max(0, self.budget - self.finished - self.held)


@dataclass(frozen=True)
class Beat:
    """What a launcher learns when it renews the leases of its workers.

    Attributes
    ----------
    now
        The time by the database's clock; nan if every worker was dismissed.
    stop
        `gently` or `now` if the study was told to stop.
    dismissed
        Workers that were taken for dead and have to leave; their trials may be others' by now.
    counts
        The budget; None if every worker was dismissed.
    silent
        How many of the held units have a lease that has run out: who claims next looks into it.
    """

    now: float
    stop: str | None
    dismissed: frozenset[str]
    counts: Counts | None
    silent: int = 0


@dataclass(frozen=True)
class Attempts:
    """How often in a row a trial was worked on without a part being stored.

    Attributes
    ----------
    parts
        How many parts were stored at the end of the last attempt.
    without_progress, exceeded
        Attempts since then, and how often a limit was exceeded in all.
    reason
        Why the last one ended.
    retried
        How often its objective refused it, and it was worked on again.
    """

    parts: int = 0
    without_progress: int = 0
    exceeded: int = 0
    reason: str = ""
    retried: int = 0


@dataclass(frozen=True)
class WorkerRun:
    """One run of a worker process; a job that SLURM runs again is another one.

    Attributes
    ----------
    cluster, job, restarts
        The SLURM cluster, its job, such as 12_3, and how often SLURM had restarted that.
    log
        Where the worker's log is, as the worker's machine knows it.
    provenance
        Where its results come from; see `hpo.study.identity.provenance`.
    """

    host: str
    pid: int
    cluster: str | None = None
    job: str | None = None
    restarts: int | None = None
    log: str | None = None
    provenance: Mapping[str, Any] | None = None


# Scores of parts, by their position.
Parts = Mapping[int, Mapping[str, float]]

NO_PARTS: Parts = MappingProxyType({})


@dataclass(frozen=True)
class TrialWrites:
    """What an objective has told of a trial that it evaluates as a whole.

    Attributes
    ----------
    params, distributions
        Parameters, and the distribution of each.
    reports
        Intermediate values, by their step.
    n_reports
        How many there are, with those that are stored.
    user_attrs, system_attrs
        Attributes of the trial.
    """

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    n_reports: int = 0
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.params or self.reports or self.user_attrs or self.system_attrs)


@dataclass(frozen=True)
class Judged:
    """What a trial with parts comes to.

    Attributes
    ----------
    values
        One for each objective; empty where the score is the only one.
    violations
        By how much it breaks each constraint, by name: 0 or less where it does not.
    """

    values: Sequence[float] = ()
    violations: Mapping[str, float] = field(default_factory=dict)


BY_SCORE = Judged()

# What is not stored yet of a trial in hand.
Unsaved = Parts | TrialWrites


def part_key(part: int) -> str:
    """Return the trial attribute that holds the scores of a part."""
    return f"part {part}"


@dataclass(frozen=True)
class ResolvedTrial:
    """What becomes of a trial's stored parts when it comes to its end.

    Attributes
    ----------
    params, distributions
        Parameters that were not drawn but found when all parts were scored.
    parts
        The scores of the parts as they are to be kept.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    parts: Sequence[Mapping[str, Any]]
