"""What is asked of a scheduler, written down once; `slurm.slurm.SLURM` answers it.

Whoever keeps workers alive knows a scheduler by this protocol alone: another scheduler is another
class with these methods, and nothing else. Jobs are known by the comment that their submission gave
them, not by their ids, which some schedulers use again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from slurm.cluster import ClusterSpec

# A job in any other state is in the queue, runs, or is on its way out or back.
OVER = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
NOTHING_EXPECTED: Mapping[str, str | None] = MappingProxyType({})


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one job of an array, as the queue shows it.

    Attributes
    ----------
    job_id
        As `12`, or `12_3` in an array.
    raw_id
        SLURM_JOB_ID; the jobs of an array that have never run still share one.
    state
        As SLURM names it. A requeued job is PENDING again, with `restarts` grown by one.
    reason
        Why it waits, or why it ended; None if the scheduler gives none.
    node
        Where it runs; None before.
    restarts
        How often it has been requeued.
    comment
        The id that the submission gave it; None without one.
    left_s
        Seconds until the time limit; None if there is no limit or it has not begun.
    """

    job_id: str
    raw_id: str
    state: str
    reason: str | None
    node: str | None
    restarts: int
    name: str
    partition: str
    left_s: int | None
    comment: str | None

    @property
    def active(self) -> bool:
        """Whether it runs, or may still come to run."""
        return self.state not in OVER


@dataclass(frozen=True)
class Job:
    """The job in which this process runs.

    Attributes
    ----------
    job_id
        As `12`, or `12_3` in an array; equal to `QueuedJob.job_id`.
    raw_id
        SLURM_JOB_ID.
    restarts
        How often the job has been requeued before.
    node
        The scheduler's name of the node; None outside a compute node.
    end_unix_s
        When the time limit ends the job, in seconds since 1970; None if it has no limit or nobody
        knows.
    """

    job_id: str
    raw_id: str
    restarts: int
    node: str | None
    partition: str | None
    end_unix_s: float | None


class Scheduler(Protocol):
    """What keeps jobs; every method asks it anew and remembers nothing.

    All raise `UnreachableError` if it cannot be asked, or gives an answer that cannot be trusted:
    then nothing is known of any job, which is not the same as no jobs.
    """

    def cluster_name(self) -> str:
        """Return the cluster that is reached from here; a job's environment has the same name."""
        ...

    def submit(
        self,
        cluster: ClusterSpec,
        run: Callable[[], Any],
        n: int,
        *,
        name: str,
        comment: str,
        folder: Path,
    ) -> list[str]:
        """Put `n` jobs that each call `run` once into the queue, and return their ids.

        Each gets the shape that `cluster` describes, bears `comment`, and gets USR2 a little before
        its time limit and TERM when it is cancelled, requeued or preempted. `folder` is new or
        empty, and gets what the jobs print. Raises `SubmitError` with the ids of what was accepted
        if the rest was refused for sure. After `UnreachableError` any number of the jobs may be in
        the queue, or come into it a little later: `list_jobs` tells, by the comment.
        """
        ...

    def list_jobs(
        self, comment: str | None = None, expected: Mapping[str, str | None] = NOTHING_EXPECTED
    ) -> list[QueuedJob]:
        """Return all of one's own jobs that the queue knows, or those of one comment.

        Jobs that are over may be among them. The answer is whole: a part of one, and an answer that
        says nothing of jobs in `expected` (comments by id; None where only the id is known) which
        the scheduler does have by another way of asking, is an `UnreachableError`. What is expected
        and not in the answer is therefore gone for ever.
        """
        ...

    def cancel(
        self, job_ids: Sequence[str], pending_only: bool = False, signal: str | None = None
    ) -> None:
        """End jobs so that none of them comes back; those that are gone already are no error.

        With `pending_only` those that run are left alone; with `signal` they get that alone.
        """
        ...

    def current_job(self) -> Job | None:
        """Return the job in which this process runs, or None outside a job."""
        ...

    def requeue_self(self) -> None:
        """Put the job in which this process runs back into the queue, with one restart more.

        It gets TERM at once. Raises `SlurmError` outside a job or if that is not allowed.
        """
        ...
