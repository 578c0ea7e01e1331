"""Keeps N workers of a study on a SLURM cluster, without having to stay alive.

Everything it knows is in the study's storage and in SLURM's queue: the workers that were asked for
are an event of the study, jobs bear the study's id as their comment, and leases say who lives. A
refill joins the two, ends what is dead in one of them, and submits what is missing.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import FailedStudyError, HpoError
from hpo.launch.slurm_jobs import name_jobs, submit_command
from hpo.storage.events import EventKind
from hpo.storage.urls import URL_FILE, keep_private
from hpo.study.record import StudyRecord
from hpo.study.status import WorkerStatus, list_workers
from slurm.cluster import ClusterSpec
from slurm.queue import QueuedJob, list_jobs, versions_and_limits
from slurm.submit import cancel

# A refill waits for sbatch and squeue; longer than both may take.
LOCK_S = 300.0
# How often in a row a refill may submit workers without a part being scored in between.
MAX_REFILLS_WITHOUT_PROGRESS = 5


class BusyError(HpoError):
    """Another process is submitting workers of the study at this moment."""


@dataclass(frozen=True)
class DesiredWorkers:
    """The workers that were asked for last.

    Attributes
    ----------
    workers
        How many.
    storage
        What workers open, as `--storage` is given to them.
    logs
        The folder of the workers' logs, absolute.
    """

    workers: int
    cluster: ClusterSpec
    storage: str
    logs: str


@dataclass(frozen=True)
class Refill:
    """What a refill found and did.

    Attributes
    ----------
    needed
        How many workers there should be: those that were asked for, but no more than trials that
        are left.
    active
        Jobs of the study that run or wait, before anything was submitted.
    submitted, cancelled
        Ids of jobs.
    reaped
        Workers that were thought alive and whose job is over, with the reason.
    """

    needed: int
    active: int
    submitted: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    reaped: tuple[tuple[str, str], ...] = ()


def comment_of(record: StudyRecord) -> str:
    """Return what SLURM's jobs of a study bear as their comment."""
    return f"hpo:{record.uid}"


def find_wanted(record: StudyRecord, storage: str) -> DesiredWorkers:
    """Return the workers that were asked for last.

    Parameters
    ----------
    storage
        What the workers are to open; it may hold a password and is not kept in the study.

    Raises
    ------
    HpoError
        If none ever were.
    """
    events = record.ledger.events(EventKind.SUBMITTED)
    if not events:
        raise HpoError(
            f"study '{record.name}' was never submitted to a cluster; "
            "begin with: hpo submit STUDY --workers N --cluster NAME"
        )
    last = events[-1]
    return DesiredWorkers(
        workers=last["wanted"],
        cluster=ClusterSpec.model_validate(last["cluster"]),
        storage=storage,
        logs=last["logs"],
    )


def refill(record: StudyRecord, wanted: DesiredWorkers, *, anew: bool = False) -> Refill:
    """Reap the workers whose jobs are over, and submit those that are missing.

    Parameters
    ----------
    anew
        Somebody asked for it: what was submitted without progress before does not count.

    Raises
    ------
    BusyError
        If another process is submitting workers of this study at this moment.
    UnwritableError
        If the folder of the logs takes no files.
    FailedStudyError
        If too many trials failed, or workers end as fast as they are submitted.
    SlurmError
        If SLURM cannot be asked or refuses.
    """
    with _only_launcher(record):
        everything = list_jobs()
        jobs = [job for job in everything if job.comment == comment_of(record)]
        reaped, silent = reconcile(record, everything)
        _require_few_failures(record)
        counts = record.ledger.counts()
        left = max(0, counts.budget - counts.finished)
        needed = 0 if record.ledger.stopped() is not None else min(wanted.workers, left)
        active = [job for job in jobs if job.active and job.job_id not in silent]
        cancelled = sorted(job.job_id for job in jobs if job.active and job.job_id in silent)
        if needed == 0:
            cancelled += [job.job_id for job in active if job.state == "PENDING"]
        if cancelled:
            cancel(cancelled)
        submitted: tuple[str, ...] = ()
        missing = needed - len(active)
        if missing > 0:
            submitted = _submit(record, wanted, missing, anew=anew)
        elif anew:
            _write_down(record, wanted, (), None, anew=True)
        return Refill(needed, len(active), submitted, tuple(cancelled), tuple(reaped))


def reconcile(
    record: StudyRecord, jobs: Sequence[QueuedJob]
) -> tuple[list[tuple[str, str]], set[str]]:
    """Join the workers that are thought alive with the jobs that SLURM knows.

    A worker whose job is over, or was started again, is dead or soon will be: it is reaped, which
    fences it off. A worker whose job SLURM does not know any more is reaped when it is silent as
    well: a controller that lost its state has not ended anybody. A worker that is silent for two
    leases although its job runs has lost its process.

    Returns
    -------
    reaped : list of (str, str)
        Ids of workers, and why.
    silent : set of str
        Ids of jobs that run without a worker.
    """
    cluster = versions_and_limits().cluster
    by_id = {job.job_id: job for job in jobs}
    reaped, silent = [], set()
    lease_s = record.spec.lease_s
    for worker in list_workers(record):
        if worker.job is None or worker.cluster not in (None, cluster):
            continue
        reason = _why_dead(worker, by_id.get(worker.job), lease_s)
        if reason is not None:
            record.ledger.reap(worker.worker_id, reason)
            reaped.append((worker.worker_id, reason))
            job = by_id.get(worker.job)
            if job is not None and job.active and job.restarts == worker.restarts:
                silent.add(worker.job)
    return reaped, silent


def _why_dead(worker: WorkerStatus, job: QueuedJob | None, lease_s: float) -> str | None:
    if job is None:
        gone = worker.seen_s_ago > lease_s / 2.0
        return f"SLURM does not know its job {worker.job} any more" if gone else None
    if not job.active:
        return f"its job {worker.job} is over: {job.state}"
    if job.restarts != worker.restarts:
        return f"its job {worker.job} was started again"
    if worker.seen_s_ago > 2.0 * lease_s and job.state == "RUNNING":
        return f"silent for {worker.seen_s_ago:.0f} s although its job {worker.job} runs"
    return None


def stop_jobs(record: StudyRecord, *, now: bool) -> list[str]:
    """Cancel the jobs of a study that wait; those that run, too, if it has to be at once.

    Returns
    -------
    list of str
        Ids of the jobs.
    """
    jobs = [job for job in list_jobs(comment_of(record)) if job.active]
    ids = [job.job_id for job in jobs if now or job.state == "PENDING"]
    if ids:
        cancel(ids)
    return ids


def _submit(record: StudyRecord, wanted: DesiredWorkers, n: int, *, anew: bool) -> tuple[str, ...]:
    cluster = wanted.cluster
    if not anew:
        _require_progress(record, n)
    folder = Path(wanted.logs) / record.name / "slurm"
    # Neither pickles nor command lines hold a password.
    storage = keep_private(wanted.storage, folder / URL_FILE)
    arguments = [
        *("worker", record.name, "--storage", storage, "--logs", wanted.logs),
        *("--leave-before", str(cluster.leave_before_s), "--stagger", str(cluster.stagger_s)),
        *([] if cluster.requeue else ["--no-requeue"]),
    ]
    job_ids, printed = submit_command(
        cluster,
        arguments,
        n,
        name=f"hpo-{record.name}",
        comment=comment_of(record),
        logs=folder,
    )
    _write_down(record, wanted, job_ids, printed, anew=anew)
    return tuple(job_ids)


def _write_down(
    record: StudyRecord,
    wanted: DesiredWorkers,
    job_ids: Sequence[str],
    folder: Path | None,
    *,
    anew: bool,
) -> None:
    record.ledger.record(
        EventKind.SUBMITTED,
        {
            "wanted": wanted.workers,
            "cluster": wanted.cluster.model_dump(mode="json"),
            "logs": wanted.logs,
            "jobs": list(job_ids),
            "folder": str(folder) if folder else None,
            "anew": anew,
            "progress": record.ledger.progress(),
        },
    )


def _require_few_failures(record: StudyRecord) -> None:
    counts, ledger = record.ledger.counts(), record.ledger
    if counts.failed > ledger.max_failures and not counts.done:
        raise FailedStudyError(
            f"{counts.failed} trials failed, max_failures is {ledger.max_failures}; "
            f"the last one: {ledger.last_failure()}"
        )


def _require_progress(record: StudyRecord, n: int) -> None:
    progress, n_submitted, folder = record.ledger.progress(), 0, None
    for event in reversed(record.ledger.events(EventKind.SUBMITTED)):
        if event["progress"] != progress:
            break
        n_submitted += 1
        folder = folder or event["folder"]
        if event["anew"]:
            break
    if n_submitted > MAX_REFILLS_WITHOUT_PROGRESS:
        raise FailedStudyError(
            f"workers were submitted {n_submitted} times and no part was scored in between; {n} "
            f"more are not submitted. See what they printed in {folder}; when that is mended: "
            "hpo submit"
        )


@contextlib.contextmanager
def _only_launcher(record: StudyRecord) -> Iterator[None]:
    holder = uuid.uuid4().hex
    if not record.ledger.lock_launcher(holder, LOCK_S):
        raise BusyError(
            f"study '{record.name}': another process is submitting workers at this moment; "
            "nothing was done, try again in a minute"
        )
    try:
        yield
    finally:
        record.ledger.unlock_launcher(holder)


def describe(found: Refill) -> str:
    """Return one line that says what a refill did."""
    parts: list[Any] = [f"{found.needed} workers needed, {found.active} there"]
    if found.submitted:
        parts.append(f"{len(found.submitted)} submitted: {name_jobs(found.submitted)}")
    if found.reaped:
        parts.append(f"{len(found.reaped)} dead: {'; '.join(reason for _, reason in found.reaped)}")
    if found.cancelled:
        parts.append(f"{len(found.cancelled)} cancelled")
    return ", ".join(parts)
