"""Keeps N workers of a study on SLURM clusters, without having to stay alive.

Everything it knows is in the study's storage and in SLURM's queue: the workers that were asked for
and every submission are events of the study, jobs bear the study's and their submission's id as
their comment, and leases say who lives. A refill joins the three, ends what is dead in one of them,
and submits what is missing.

A submission is written down before sbatch is called and again when that has answered. Whoever finds
one without an answer, since a client was killed or sbatch gave up, asks the queue by the comment.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpo.errors import FailedStudyError, HpoError
from hpo.launch.slurm_history import (
    KINDS,
    DesiredWorkers,
    History,
    comment_of,
    comment_of_submission,
    describe_submission,
    read_history,
    record_refusal,
    record_result,
)
from hpo.launch.slurm_jobs import UnwritableError, name_jobs, submit_command
from hpo.launch.slurm_plan import Plan, Section, SectionPlan, is_ours, make_plan
from hpo.storage.events import EventKind
from hpo.storage.urls import URL_FILE, keep_private
from hpo.study.preparation import progress_of
from hpo.study.record import StudyRecord
from slurm.cluster import ClusterSpec
from slurm.errors import SlurmError, SubmitError, UnreachableError
from slurm.scheduler import QueuedJob
from slurm.slurm import SLURM

# How often a refill decides anew because another one has submitted meanwhile.
MAX_ATTEMPTS = 5
# How often in a row a refill may submit workers without a part being scored in between.
MAX_REFILLS_WITHOUT_PROGRESS = 5


class BusyError(HpoError):
    """Other processes are submitting workers of the study at this moment."""


@dataclass
class Refill:
    """What a refill found and did for one section of the cluster file.

    Attributes
    ----------
    needed
        How many workers there should be: those that were asked for, but no more than trials that
        are left.
    active
        Workers whose jobs run or wait, or that live, before anything was submitted.
    in_doubt
        How many of those active are of submissions of which nothing is known yet.
    submitted, cancelled
        Ids of jobs.
    n_workers
        How many workers the submitted jobs have.
    reaped
        Workers that were thought alive and are not, with the reason; with the first section alone.
    elsewhere
        The cluster from which this section is refilled, if that is another one.
    """

    cluster: str
    needed: int = 0
    active: int = 0
    in_doubt: int = 0
    submitted: list[str] = field(default_factory=list)
    n_workers: int = 0
    cancelled: list[str] = field(default_factory=list)
    reaped: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: str | None = None


@dataclass(frozen=True)
class _Moment:
    """What is known at one moment, and what follows from it."""

    site: str
    history: History
    plan: Plan


def refill(
    record: StudyRecord, wanted: Sequence[DesiredWorkers], *, anew: bool = False
) -> list[Refill]:
    """Reap the workers that are dead, and submit those that are missing.

    Parameters
    ----------
    wanted
        The sections to look after; others that serve the study have their share of what is left.
        One that belongs to another cluster than the one reached from here is left alone, unless it
        is asked for `anew`.
    anew
        Somebody asked for it: what was submitted without progress before does not count.

    Raises
    ------
    BusyError
        If others were quicker again and again.
    UnwritableError
        If the folder of the logs takes no files.
    FailedStudyError
        If too many trials failed, or workers end as fast as they are submitted.
    UnreachableError
        If SLURM cannot be asked, or gives an answer that cannot be trusted; nothing is submitted on
        its ground.
    SlurmError
        If SLURM refuses.
    """
    site = SLURM.cluster_name()
    wanted = [w if w.site and not anew else replace(w, site=site) for w in wanted]
    found = {w.cluster.name: Refill(w.cluster.name) for w in wanted}
    refill_id = uuid.uuid4().hex[:12]
    for _ in range(MAX_ATTEMPTS):
        moment = _look(record, wanted, site)
        _clean(record, moment, found)
        _require_few_failures(record)
        if _submit_missing(record, wanted, moment, found, anew=anew, refill_id=refill_id):
            for each in found.values():
                each.cancelled = [*dict.fromkeys(each.cancelled)]
            return [*found.values()]
    raise BusyError(
        f"study '{record.name}': other processes are submitting workers at this moment; "
        "try again in a minute"
    )


def _look(record: StudyRecord, wanted: Sequence[DesiredWorkers], site: str) -> _Moment:
    """Read what is written down, ask the queue, and decide; changes nothing but what is certain."""
    comment = comment_of(record)
    # Read before the queue is asked: what was submitted before is in the queue.
    history = read_history(record, storage="")
    queue = list_whole_queue(record, history, site)
    asked = {**history.asked, **{w.cluster.name: w for w in wanted}}
    refilled = {w.cluster.name for w in wanted}
    sections = [
        Section(
            name,
            each.workers,
            each.cluster.workers_per_job,
            refilled=name in refilled and each.site in (None, site),
        )
        for name, each in asked.items()
    ]
    counts = record.ledger.counts()
    left = 0 if record.ledger.stopped() is not None else max(0, counts.budget - counts.finished)
    plan = make_plan(
        sections,
        history.submissions,
        queue,
        history.workers,
        comment=comment,
        site=site,
        left=left,
        lease_s=record.spec.lease_s,
    )
    return _Moment(site, history, plan)


def list_whole_queue(record: StudyRecord, history: History, site: str) -> list[QueuedJob]:
    """Return one's own jobs on the cluster reached from here; what is gone is written down.

    Raises
    ------
    UnreachableError
        If the answer lacks jobs that are known to be there.
    """
    expected = history.expected(comment_of(record), site)
    queue = SLURM.list_jobs(expected=expected)
    listed = {job.job_id for job in queue}
    recorded = {job for submission in history.submissions for job in submission.job_ids or ()}
    gone = sorted((expected.keys() & recorded) - listed)
    if gone:
        record.ledger.record(EventKind.JOBS_GONE, {"site": site, "jobs": gone})
    return queue


def _clean(record: StudyRecord, moment: _Moment, found: Mapping[str, Refill]) -> None:
    """Reap workers and cancel jobs, and write down what came of submissions in doubt."""
    first = next(iter(found.values()), None)
    for worker_id, reason in moment.plan.reap:
        if record.ledger.reap(worker_id, reason) and first is not None:
            first.reaped.append((worker_id, reason))
    useless = [*moment.plan.cancel]
    for section in moment.plan.sections:
        if section.name in found:
            found[section.name].cancelled += section.cancel
            useless += section.cancel
    if moment.plan.cancel and first is not None:
        first.cancelled += moment.plan.cancel
    if useless:
        SLURM.cancel(useless)


def _submit_missing(
    record: StudyRecord,
    wanted: Sequence[DesiredWorkers],
    moment: _Moment,
    found: Mapping[str, Refill],
    *,
    anew: bool,
    refill_id: str,
) -> bool:
    """Submit what the plan says; False if another process has submitted since it was made."""
    plans = {plan.name: plan for plan in moment.plan.sections}
    seen = moment.history.n_events + _settle(record, moment)
    for each in wanted:
        name = each.cluster.name
        plan, done = plans[name], found[name]
        done.needed, done.in_doubt = plan.needed, plan.in_doubt
        done.active = plan.there - done.n_workers
        if each.site not in (None, moment.site):
            done.elsewhere = each.site
            continue
        if plan.submit and not anew:
            _require_progress(record, name, sum(jobs * workers for jobs, workers in plan.submit))
        for n_jobs, workers_per_job in plan.submit:
            detail = describe_submission(record, each, n_jobs, workers_per_job)
            detail |= {"anew": anew, "refill": refill_id, "id": uuid.uuid4().hex[:12]}
            if not record.ledger.record_unless_others(EventKind.SUBMITTING, detail, KINDS, seen):
                return False
            job_ids = _submit(record, each, detail)
            seen += 2
            done.submitted += job_ids
            done.n_workers += len(job_ids) * workers_per_job
        seen += _keep_wish(record, each, moment.history, plan, anew=anew)
    return True


def _settle(record: StudyRecord, moment: _Moment) -> int:
    """Write down what the queue says of submissions in doubt; returns how many events that is."""
    settled = moment.plan.settled
    if not settled:
        return 0
    events = {event.get("id"): event for event in record.ledger.events(EventKind.SUBMITTING)}
    for submission_id, jobs in settled.items():
        detail = events[submission_id]
        told = {key: value for key, value in detail.items() if key not in ("at", "kind")}
        record_result(record, {**told, "anew": False}, jobs)
    return len(settled)


def _keep_wish(
    record: StudyRecord, each: DesiredWorkers, history: History, plan: SectionPlan, *, anew: bool
) -> int:
    """Write down what is wanted from now on, where no submission has said so; returns how often."""
    before = history.asked.get(each.cluster.name)
    changed = before is None or (before.workers, before.cluster) != (each.workers, each.cluster)
    if plan.submit or not (anew or changed):
        return 0
    detail = describe_submission(record, each, 0, each.cluster.workers_per_job)
    record_result(record, {**detail, "anew": anew}, ())
    return 1


def worker_arguments(
    record: StudyRecord, cluster: ClusterSpec, storage: str | None, logs: str
) -> list[str]:
    """Return the arguments of hpo with which a job of a study runs its workers."""
    return [
        *("worker", record.name, *(("--storage", storage) if storage else ()), "--logs", logs),
        *("--workers", str(cluster.workers_per_job)),
        *("--cpus-per-worker", str(cluster.cpus_per_worker)),
        *("--gpus-per-worker", f"{cluster.gpus_per_worker:g}"),
        *("--leave-before", str(cluster.leave_before_s), "--stagger", str(cluster.stagger_s)),
        *([] if cluster.requeue else ["--no-requeue"]),
    ]


def _submit(record: StudyRecord, wanted: DesiredWorkers, detail: Mapping[str, Any]) -> list[str]:
    """Submit the jobs that `detail` describes, and write down what came of it.

    Raises
    ------
    UnreachableError
        If it is not known how many of them are in the queue.
    """
    comment = comment_of_submission(comment_of(record), detail["id"])
    cluster = wanted.cluster.with_workers(detail["workers_per_job"])
    folder = Path(wanted.logs) / record.name / "slurm"
    try:
        # Neither pickles nor command lines hold a password.
        storage = keep_private(wanted.storage, folder / URL_FILE)
        job_ids, printed = submit_command(
            cluster,
            worker_arguments(record, cluster, storage, wanted.logs),
            detail["n_jobs"],
            name=f"hpo-{record.name}",
            comment=comment,
            logs=folder,
        )
    except UnwritableError:
        record_refusal(record, detail, ())
        raise
    except SubmitError as exc:
        record_refusal(record, detail, exc.job_ids)
        raise
    except UnreachableError as exc:
        return _ask_queue(record, detail, comment, exc)
    record_result(record, detail, job_ids, printed)
    return job_ids


def _ask_queue(
    record: StudyRecord, detail: Mapping[str, Any], comment: str, why: UnreachableError
) -> list[str]:
    """Return the jobs of a submission that sbatch gave no answer to, if all are in the queue."""
    try:
        job_ids = [job.job_id for job in SLURM.list_jobs(comment)]
    except SlurmError:
        job_ids = []
    if len(job_ids) < detail["n_jobs"]:
        raise UnreachableError(
            f"{why}; whether the {detail['n_jobs']} jobs were accepted is settled by the queue at "
            "the next refill"
        ) from why
    record_result(record, detail, job_ids)
    return job_ids


def stop_jobs(record: StudyRecord, *, now: bool) -> tuple[dict[str, list[str]], set[str]]:
    """Cancel the jobs of a study that wait; those that run, too, if it has to be at once.

    Returns
    -------
    cancelled : dict
        Ids of the jobs by section of the cluster file; "by hand" for those of no section.
    elsewhere : set of str
        Clusters whose jobs cannot be cancelled from here.
    """
    site, comment = SLURM.cluster_name(), comment_of(record)
    history = read_history(record, storage="")
    queue = list_whole_queue(record, history, site)
    sections = {
        comment_of_submission(comment, s.submission_id): s.section
        for s in history.submissions
        if s.site in (None, site)
    }
    cancelled: dict[str, list[str]] = {}
    for job in queue:
        if is_ours(job, comment) and job.active and (now or job.state == "PENDING"):
            section = sections.get(job.comment or "", "by hand")
            cancelled.setdefault(section, []).append(job.job_id)
    if cancelled:
        SLURM.cancel([job for jobs in cancelled.values() for job in jobs])
    return cancelled, {each.site for each in history.asked.values() if each.site} - {site}


def _require_few_failures(record: StudyRecord) -> None:
    counts, ledger = record.ledger.counts(), record.ledger
    if counts.failed > ledger.max_failures and not counts.done:
        raise FailedStudyError(
            f"{counts.failed} trials failed, max_failures is {ledger.max_failures}; "
            f"the last one: {ledger.last_failure()}"
        )


def _require_progress(record: StudyRecord, section: str, n: int) -> None:
    progress, folder = progress_of(record), None
    refills = set()
    for position, event in enumerate(reversed(record.ledger.events(EventKind.SUBMITTED))):
        if event["cluster"]["name"] != section:
            continue
        if event["progress"] != progress:
            break
        if event["jobs"] or event["anew"]:
            refills.add(event.get("refill", position))
        folder = folder or event["folder"]
        if event["anew"]:
            break
    if len(refills) > MAX_REFILLS_WITHOUT_PROGRESS:
        raise FailedStudyError(
            f"workers were submitted {len(refills)} times and no part was scored in between; {n} "
            f"more are not submitted. See what they printed in {folder}; when that is mended: "
            "hpo submit"
        )


def describe(found: Sequence[Refill]) -> str:
    """Return one line that says what a refill did, for each section."""
    if len(found) == 1:
        return _describe(found[0])
    return "; ".join(f"{each.cluster}: {_describe(each)}" for each in found)


def _describe(found: Refill) -> str:
    if found.elsewhere is not None:
        return f"left alone, as cluster {found.elsewhere} is not reached from here"
    parts = [f"{found.needed} workers needed, {found.active} there"]
    if found.in_doubt:
        parts[0] += f" ({found.in_doubt} of them being submitted)"
    if found.submitted:
        in_jobs = (
            f" in {len(found.submitted)} jobs" if len(found.submitted) != found.n_workers else ""
        )
        parts.append(f"{found.n_workers} submitted{in_jobs}: {name_jobs(found.submitted)}")
    if found.reaped:
        parts.append(f"{len(found.reaped)} dead: {'; '.join(reason for _, reason in found.reaped)}")
    if found.cancelled:
        parts.append(f"{len(found.cancelled)} cancelled")
    return ", ".join(parts)
