"""Commands of hpo as jobs on a SLURM cluster: submitted, named, waited for."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hpo.errors import HpoError
from slurm.cluster import ClusterSpec
from slurm.entry_point import EntryPoint
from slurm.errors import UnreachableError
from slurm.scheduler import QueuedJob
from slurm.slurm import SLURM


class UnwritableError(HpoError):
    """The folder of the logs takes no files, such as on a full disk."""


def submit_command(
    cluster: ClusterSpec, arguments: Sequence[str], n: int, *, name: str, comment: str, logs: Path
) -> tuple[list[str], Path]:
    """Submit `n` jobs that each run `hpo ARGUMENTS`.

    Parameters
    ----------
    logs
        Where a folder for this submission is made.

    Returns
    -------
    job_ids : list of str
        In the order of the submission.
    folder : Path
        Where the jobs print to.

    Raises
    ------
    UnwritableError
        If there can be no folder.
    SlurmError
        If SLURM cannot be asked or refuses.
    """
    folder = logs / f"{int(time.time())}-{uuid.uuid4().hex[:8]}"
    run = EntryPoint("hpo.cli:main", tuple(arguments))
    try:
        return SLURM.submit(cluster, run, n, name=name, comment=comment, folder=folder), folder
    except OSError as exc:
        raise UnwritableError(f"{folder}: cannot be written, nothing is submitted: {exc}") from exc


def name_jobs(job_ids: Sequence[str]) -> str:
    """Return `job 12`, or `jobs 12, 13` for several arrays."""
    arrays = dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids)
    return f"{'job' if len(arrays) == 1 else 'jobs'} {', '.join(arrays)}"


def active_jobs(comment: str) -> list[QueuedJob]:
    """Return the jobs of this comment that run or wait.

    Raises
    ------
    UnreachableError
        If SLURM cannot be asked.
    """
    return [job for job in SLURM.list_jobs(comment) if job.active]


def wait_for_jobs(comment: str, poll_s: float, tell: Callable[[str], None]) -> None:
    """Return when no job of this comment runs or waits; tells how many there are when it changes.

    A controller that gives no answer has not ended any job: it is asked again.
    """
    told = ""
    while True:
        try:
            states = Counter(job.state for job in active_jobs(comment))
            line = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
        except UnreachableError as exc:
            states, line = Counter(), f"trying again: {exc}"
        else:
            if not states:
                return
        if line != told:
            tell(line)
            told = line
        time.sleep(poll_s)
