"""What a study's events say of its jobs on clusters: what was asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hpo.errors import HpoError
from hpo.launch.slurm_plan import Submission, WorkerSign
from hpo.storage.budget import read_events
from hpo.storage.events import EventKind
from hpo.study.events import WorkerRow, read_workers
from hpo.study.preparation import progress_of
from hpo.study.record import StudyRecord
from slurm.cluster import ClusterSpec, restore_cluster

# What a decision about jobs rests on: whoever adds one has others decide anew.
KINDS = (EventKind.SUBMITTING, EventKind.SUBMITTED)


@dataclass(frozen=True)
class DesiredWorkers:
    """The workers that were asked for last, of one section of the cluster file.

    Attributes
    ----------
    workers
        How many.
    storage
        What workers open, as `--storage` is given to them.
    logs
        The folder of the workers' logs, absolute.
    site
        SLURM's name of the cluster; None if it was not written down.
    """

    workers: int
    cluster: ClusterSpec
    storage: str
    logs: str
    site: str | None = None


@dataclass(frozen=True)
class History:
    """All that is written down of a study's jobs, and when its workers were heard of.

    Attributes
    ----------
    asked
        The sections that serve the study, in the order in which they came; by name.
    gone
        Jobs that a cluster does not know any more, by its name and theirs.
    n_events
        How many events of `KINDS` this rests on.
    """

    asked: Mapping[str, DesiredWorkers]
    submissions: Sequence[Submission]
    workers: Sequence[WorkerSign]
    gone: frozenset[tuple[str, str]]
    n_events: int

    def expected(self, comment: str, site: str) -> dict[str, str | None]:
        """Return the comments of the jobs that may be in the queue of a cluster, by their ids."""
        found: dict[str, str | None] = {
            worker.job: None
            for worker in self.workers
            if worker.job and not worker.ended and worker.site in (None, site)
        }
        for submission in self.submissions:
            if submission.site in (None, site):
                full = comment_of_submission(comment, submission.submission_id)
                found |= dict.fromkeys(submission.job_ids or (), full)
        return {job: full for job, full in found.items() if (site, job) not in self.gone}


def comment_of(record: StudyRecord) -> str:
    """Return what the comments of a study's jobs begin with."""
    return f"hpo:{record.uid}"


def comment_of_submission(comment: str, submission_id: str) -> str:
    """Return the comment of the jobs of one submission."""
    return f"{comment}:{submission_id}" if submission_id else comment


def read_history(record: StudyRecord, storage: str) -> History:
    """Read what is written down of a study's jobs.

    Parameters
    ----------
    storage
        What workers are to open; it may hold a password and is not kept in the study.
    """

    def read() -> History:
        with record.storage.read() as c:
            clock = sa.select(record.storage.now_sql, record.storage.up_since_sql)
            now, up_since = c.execute(clock).one()
            events = read_events(c, record.study_id)
            rows = read_workers(c, record.study_id)
        ours = [event for event in events if event["kind"] in KINDS]
        return History(
            asked=_read_asked(ours, storage),
            submissions=_read_submissions(ours, now),
            workers=[_sign_of(row, now, up_since) for row in rows],
            gone=frozenset(
                (event["site"], job)
                for event in events
                if event["kind"] == EventKind.JOBS_GONE
                for job in event["jobs"]
            ),
            n_events=len(ours),
        )

    return record.storage.patiently(read)


def find_wanted(record: StudyRecord, storage: str) -> list[DesiredWorkers]:
    """Return the workers that were asked for last, for each section that serves a study.

    Raises
    ------
    HpoError
        If none ever were.
    """
    asked = [*read_history(record, storage).asked.values()]
    if not asked:
        raise HpoError(
            f"study '{record.name}' was never submitted to a cluster; "
            "begin with: hpo submit STUDY --workers N --cluster NAME"
        )
    return asked


def record_result(
    record: StudyRecord, detail: Mapping[str, Any], jobs: Sequence[str], folder: Path | None = None
) -> None:
    """Write down what came of a submission that was written down with `detail` before."""
    told = {**detail, "jobs": list(jobs), "folder": str(folder) if folder else None}
    record.ledger.record(EventKind.SUBMITTED, told)


def record_refusal(record: StudyRecord, detail: Mapping[str, Any], jobs: Sequence[str]) -> None:
    """Write down that a submission was refused after these jobs; without any it is no wish."""
    record_result(record, {**detail, "refused": not jobs}, jobs)


def describe_submission(
    record: StudyRecord, wanted: DesiredWorkers, n_jobs: int, workers_per_job: int
) -> dict[str, Any]:
    """Return what is written down of a submission, or of what is wanted from now on."""
    return {
        "wanted": wanted.workers,
        "cluster": wanted.cluster.model_dump(mode="json"),
        "site": wanted.site,
        "logs": wanted.logs,
        "n_jobs": n_jobs,
        "workers_per_job": workers_per_job,
        "progress": progress_of(record),
    }


def _read_asked(events: Sequence[Mapping[str, Any]], storage: str) -> dict[str, DesiredWorkers]:
    asked = {}
    refused = {event["id"] for event in events if event.get("refused")}
    for event in events:
        if event.get("id") in refused:
            continue
        cluster = restore_cluster(event["cluster"])
        asked[cluster.name] = DesiredWorkers(
            event["wanted"], cluster, storage, event["logs"], event.get("site")
        )
    return asked


def _read_submissions(events: Sequence[Mapping[str, Any]], now: float) -> list[Submission]:
    """Return the submissions; two that were written down for one say what they say together."""
    found: dict[str, Submission] = {}
    for position, event in enumerate(events):
        key = event.get("id") or f"earlier {position}"
        jobs = tuple(event["jobs"]) if event["kind"] == EventKind.SUBMITTED else None
        known = found.get(key)
        if known is not None:
            both = dict.fromkeys([*(known.job_ids or ()), *(jobs or ())])
            found[key] = replace(known, job_ids=tuple(both))
        else:
            found[key] = Submission(
                submission_id=event.get("id", ""),
                section=event["cluster"]["name"],
                site=event.get("site"),
                n_jobs=event.get("n_jobs", len(jobs or ())),
                workers_per_job=event.get("workers_per_job", 1),
                age_s=max(0.0, now - event["at"]),
                job_ids=jobs,
            )
    return [*found.values()]


def _sign_of(row: WorkerRow, now: float, up_since: float) -> WorkerSign:
    # Its end is no sign of life: others may have written that down.
    heard_at = max(row.seen_at, up_since)
    return WorkerSign(
        worker_id=row.worker_id,
        site=row.cluster,
        job=row.job,
        restarts=row.restarts or 0,
        silent_s=max(0.0, now - heard_at),
        ended=row.ended_at is not None,
    )
