"""Decides how many jobs a refill submits, which it cancels, and which workers it reaps.

A function of what is known at one moment: what is wanted, what was submitted, the whole answer of
the queue, and the workers' signs of life.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slurm.scheduler import QueuedJob

# A submission that is not confirmed is in doubt so long: sbatch may still be at work on it.
IN_DOUBT_S = 60.0
# A worker that was not heard of for so many leases has lost its process.
SILENT_LEASES = 2.0


@dataclass(frozen=True)
class Section:
    """A section of the cluster file that serves a study.

    Attributes
    ----------
    workers
        How many there should be.
    refilled
        Whether jobs may be submitted for it now: it was asked for, and is reached from here.
    """

    name: str
    workers: int
    workers_per_job: int = 1
    refilled: bool = True


@dataclass(frozen=True)
class Submission:
    """Jobs that were submitted together, or were meant to be.

    Attributes
    ----------
    submission_id
        The end of their comment; empty for those of earlier versions, whose jobs share a comment.
    site
        SLURM's name of the cluster; None if it was not written down.
    job_ids
        What was accepted; None while nobody said so.
    """

    submission_id: str
    section: str
    site: str | None
    n_jobs: int
    workers_per_job: int
    age_s: float
    job_ids: tuple[str, ...] | None


@dataclass(frozen=True)
class WorkerSign:
    """When a worker was heard of last.

    Attributes
    ----------
    site, job, restarts
        Its job, if it has one.
    silent_s
        How long it has not been heard of although the database could have heard it.
    ended
        Whether it has left, or was reaped.
    """

    worker_id: str
    site: str | None
    job: str | None
    restarts: int
    silent_s: float
    ended: bool


@dataclass(frozen=True)
class SectionPlan:
    """What is to be done for a section.

    Attributes
    ----------
    needed, there
        Workers: how many there should be, and how many there are or will be.
    in_doubt
        How many of those there are submissions that nobody has confirmed.
    submit
        Numbers of jobs, and of workers in each of them.
    cancel
        Ids of jobs.
    """

    name: str
    needed: int
    there: int
    in_doubt: int
    submit: tuple[tuple[int, int], ...]
    cancel: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    settled
        Ids of jobs that submissions in doubt have turned out to be.
    reap
        Ids of workers, and why.
    cancel
        Ids of jobs that have begun and whose workers are silent.
    """

    settled: Mapping[str, tuple[str, ...]]
    reap: tuple[tuple[str, str], ...]
    cancel: tuple[str, ...]
    sections: tuple[SectionPlan, ...]


@dataclass(frozen=True)
class _OwnJob:
    """A job of the study in the queue; without a submission if somebody submitted it by hand."""

    job: QueuedJob
    submission: Submission | None

    @property
    def section(self) -> str | None:
        return self.submission.section if self.submission else None

    @property
    def workers(self) -> int:
        return self.submission.workers_per_job if self.submission else 1


def make_plan(
    sections: Sequence[Section],
    submissions: Sequence[Submission],
    queue: Sequence[QueuedJob],
    workers: Sequence[WorkerSign],
    *,
    comment: str,
    site: str,
    left: int,
    lease_s: float,
) -> Plan:
    """Decide what to do.

    No job is submitted where a section would have more workers than it wants, or all of them more
    than trials are left. A worker that was heard of within a lease counts, whatever the queue says.

    Parameters
    ----------
    queue
        All of one's own jobs on this cluster: the whole answer.
    workers
        All that have not left, and those that have left jobs that are still in the queue.
    comment
        What comments of the study's jobs begin with.
    site
        SLURM's name of the cluster that is reached from here.
    left
        How many trials are left; 0 if the study was stopped.
    """
    own = _find_own(submissions, queue, comment, site)
    settled = _settle(submissions, own, site)
    reap = _find_dead(queue, workers, site, lease_s)
    silent = _find_silent(queue, workers, site, lease_s)
    active = [o for o in own if o.job.active and o.job.job_id not in silent]
    living = [w for w in workers if _lives(w, lease_s) and w.worker_id not in dict(reap)]
    in_doubt = _count_doubt(submissions, settled, active)
    there = Counter(_count_workers(active, living, _places(submissions, own, site), site))
    there.update(in_doubt)
    needed = share(sections, there, max(0, left - there[None]))
    plans = []
    for section in sections:
        need, have = needed[section.name], there[section.name]
        submit = _divide(need - have, section.workers_per_job)
        cancel = _find_surplus(section, need, have, active)
        doubt = in_doubt.get(section.name, 0)
        plans.append(SectionPlan(section.name, need, have, doubt, submit, cancel))
    useless = tuple(sorted(o.job.job_id for o in own if o.job.job_id in silent))
    return Plan(settled, tuple(reap), useless, tuple(plans))


def is_ours(job: QueuedJob, comment: str) -> bool:
    """Whether a job is of the study whose jobs' comments begin so."""
    return job.comment is not None and f"{job.comment}:".startswith(f"{comment}:")


def share(
    sections: Sequence[Section], there: Mapping[str | None, int], left: int
) -> dict[str, int]:
    """Return how many workers each section should have; who has some keeps them first."""
    needed = {}
    for section in sections:
        needed[section.name] = min(section.workers, there.get(section.name, 0), left)
        left -= needed[section.name]
    while hungry := [s for s in sections if s.refilled and needed[s.name] < s.workers]:
        if left == 0:
            break
        each = max(1, left // len(hungry))
        for section in hungry:
            more = min(each, left, section.workers - needed[section.name])
            needed[section.name] += more
            left -= more
    return needed


def _find_own(
    submissions: Sequence[Submission], queue: Sequence[QueuedJob], comment: str, site: str
) -> list[_OwnJob]:
    """Return the study's jobs in the queue, each with its submission."""
    by_id = {s.submission_id: s for s in submissions if s.submission_id}
    by_job = {job: s for s in submissions if s.site in (None, site) for job in s.job_ids or ()}
    found = []
    for job in queue:
        if job.comment is not None and is_ours(job, comment):
            submission = by_id.get(job.comment[len(comment) + 1 :]) or by_job.get(job.job_id)
            found.append(_OwnJob(job, submission))
    return found


def _settle(
    submissions: Sequence[Submission], own: Sequence[_OwnJob], site: str
) -> dict[str, tuple[str, ...]]:
    """Return what the queue says of submissions in doubt: all are there, or no more will come."""
    settled = {}
    for submission in submissions:
        if submission.job_ids is None and submission.site in (None, site):
            ids = tuple(o.job.job_id for o in own if o.submission == submission)
            if len(ids) >= submission.n_jobs or submission.age_s > IN_DOUBT_S:
                settled[submission.submission_id] = ids
    return settled


def _count_doubt(
    submissions: Sequence[Submission], settled: Collection[str], active: Sequence[_OwnJob]
) -> Counter[str | None]:
    """Return the workers, by section, of submissions in doubt that are not in the queue yet."""
    counts: Counter[str | None] = Counter()
    for submission in submissions:
        young = submission.age_s <= IN_DOUBT_S
        if submission.job_ids is None and young and submission.submission_id not in settled:
            n_found = sum(o.submission == submission for o in active)
            missing = max(0, submission.n_jobs - n_found)
            counts[submission.section] += missing * submission.workers_per_job
    return counts


def _find_dead(
    queue: Sequence[QueuedJob], workers: Sequence[WorkerSign], site: str, lease_s: float
) -> list[tuple[str, str]]:
    """Return the workers that can be known to be dead, and why."""
    jobs = {job.job_id: job for job in queue}
    dead = []
    for worker in workers:
        if not worker.ended and worker.job is not None and worker.site in (None, site):
            reason = _why_dead(worker, jobs.get(worker.job), lease_s)
            if reason is not None:
                dead.append((worker.worker_id, reason))
    return dead


def _why_dead(worker: WorkerSign, job: QueuedJob | None, lease_s: float) -> str | None:
    if job is None:
        # A controller that lost its state has not ended anybody.
        gone = worker.silent_s > lease_s / 2.0
        return f"SLURM does not know its job {worker.job} any more" if gone else None
    if not job.active:
        return f"its job {worker.job} is over: {job.state}"
    if job.restarts != worker.restarts:
        return f"its job {worker.job} was started again"
    if worker.silent_s > SILENT_LEASES * lease_s:
        return f"silent for {worker.silent_s:.0f} s although its job {worker.job} is {job.state}"
    return None


def _find_silent(
    queue: Sequence[QueuedJob], workers: Sequence[WorkerSign], site: str, lease_s: float
) -> set[str]:
    """Return the jobs that have begun and of whose workers nobody has heard for long.

    A job that ends, or is put back into the queue, is COMPLETING for a moment, and its workers have
    left just before: only a long silence says that it will not come to its end.
    """
    signs: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for worker in workers:
        if worker.job is not None and worker.site in (None, site):
            signs[worker.job, worker.restarts].append(worker.silent_s)
    return {
        job.job_id
        for job in queue
        if job.active
        and (heard := signs.get((job.job_id, job.restarts)))
        and min(heard) > SILENT_LEASES * lease_s
    }


def _lives(worker: WorkerSign, lease_s: float) -> bool:
    return not worker.ended and worker.silent_s <= lease_s


def _places(
    submissions: Sequence[Submission], own: Sequence[_OwnJob], site: str
) -> dict[tuple[str, str], str]:
    """Return the section of each job that is known to have one, by cluster and id."""
    recorded = {(s.site or site, job): s.section for s in submissions for job in s.job_ids or ()}
    return recorded | {(site, o.job.job_id): o.section for o in own if o.section is not None}


def _count_workers(
    active: Sequence[_OwnJob],
    living: Sequence[WorkerSign],
    places: Mapping[tuple[str, str], str],
    site: str,
) -> Iterator[str | None]:
    """Name the section of every worker: those of a job, and living ones whose job is not there."""
    jobs = {(site, o.job.job_id): o for o in active}
    with_workers = set()
    for worker in living:
        key = (worker.site or site, worker.job or "")
        own = jobs.get(key)
        if own is None or own.section is None:
            with_workers.add(key)
            yield places.get(key)
    for key, own in jobs.items():
        if key not in with_workers:
            yield from [own.section] * own.workers


def _divide(missing: int, workers_per_job: int) -> tuple[tuple[int, int], ...]:
    """Return numbers of jobs and of workers in each: full ones, and one with the rest."""
    full, rest = divmod(max(0, missing), workers_per_job)
    return tuple(part for part in ((full, workers_per_job), (min(rest, 1), rest)) if part[0])


def _find_surplus(
    section: Section, needed: int, there: int, active: Sequence[_OwnJob]
) -> tuple[str, ...]:
    """Return the waiting jobs of a section that nobody needs, the last ones first."""
    wanted = 0 if needed == 0 else section.workers
    waiting = [o for o in active if o.section == section.name and o.job.state == "PENDING"]
    cancel = []
    for own in reversed(waiting):
        if there - own.workers >= wanted or needed == 0:
            cancel.append(own.job.job_id)
            there -= own.workers
    return tuple(cancel)
