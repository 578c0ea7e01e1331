"""One worker as a process, whoever started it: a launcher here, a SLURM job, or a person."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpo.objectives.cross_validation import CrossValidation
from hpo.plugins import take_as_tried
from hpo.records import Access, WorkerRun
from hpo.storage.backends import open_storage
from hpo.study import provenance
from hpo.study.record import StudyRecord, find
from hpo.study.status import list_workers
from hpo.system.filesystem import check_sqlite_shared
from hpo.system.resources import loading
from hpo.system.threads import hold_one_thread
from hpo.worker.log import open_log
from hpo.worker.signals import TIME_LIMIT, LeaveConditions, leave_time
from hpo.worker.worker import Worker, new_worker_id
from slurm.errors import SlurmError
from slurm.submit import Job, current_job, requeue_self

LEAVING_SHARE = 0.08
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker is run.

    Attributes
    ----------
    worker_id
        None for a new one.
    parent
        The process without which it leaves, if there is one.
    leave_before_s, stagger_s
        How long before the end of its SLURM job it leaves, and over which further time workers
        that end together are spread.
    requeue
        Whether its job goes back into the queue where it is still wanted.
    """

    logs: Path
    worker_id: str | None = None
    parent: int | None = None
    leave_before_s: float = 120.0
    stagger_s: float = 120.0
    requeue: bool = True


def run_worker(storage_url: str, name: str, settings: WorkerSettings) -> None:
    """Be one worker of a study until its budget is finished, or until it has to leave."""
    with loading():
        worker_id = settings.worker_id or new_worker_id()
        # Before its folder of logs is made: a name is one of a study, or makes nothing.
        record = find(open_storage(storage_url, Access.WORK), name)
        log = open_log(settings.logs / name, worker_id)
        _require_shareable(record)
        take_as_tried(record.spec.named_modules)
        _, objective = record.open_objective()
        if isinstance(objective, CrossValidation):
            objective.bound.load()
        threads = hold_one_thread()
    job = current_job()
    worker = Worker(record, objective, worker_id)
    outcome = worker.run(_worker_run(log, job, threads), _orders(settings, job))
    _log.info("left: %s", outcome)
    # A worker that got SIGTERM was cancelled and is not wanted, or SLURM requeues it by itself.
    wanted_back = worker.stop.reason in (TIME_LIMIT, "SIGUSR2")
    if job is not None and wanted_back and settings.requeue:
        _requeue(job)


def _require_shareable(record: StudyRecord) -> None:
    """Refuse to join workers of other machines on a SQLite file."""
    url = record.storage.engine.url
    if url.get_backend_name() == "sqlite" and url.database:
        alive = {worker.host for worker in list_workers(record) if worker.alive}
        check_sqlite_shared(Path(url.database), alive | {socket.gethostname()})


def _worker_run(log: Path | None, job: Job | None, threads: Mapping[str, int]) -> WorkerRun:
    return WorkerRun(
        host=socket.gethostname(),
        pid=os.getpid(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME") if job else None,
        job=job.job_id if job else None,
        restarts=job.restarts if job else None,
        log=str(log) if log else None,
        provenance={**provenance.collect_of_worker(), "threads": dict(threads)},
    )


def _orders(settings: WorkerSettings, job: Job | None) -> LeaveConditions:
    if job is None or job.end_unix_s is None:
        return LeaveConditions(settings.parent)
    # A short job is not spent on leaving it.
    share_s = LEAVING_SHARE * (job.end_unix_s - time.time())
    before_s, stagger_s = min(settings.leave_before_s, share_s), min(settings.stagger_s, share_s)
    return LeaveConditions(settings.parent, leave_time(job.end_unix_s, before_s, stagger_s))


def _requeue(job: Job) -> None:
    _log.info("job %s goes back into the queue", job.job_id)
    try:
        requeue_self()
    except SlurmError as exc:
        _log.warning("not requeued, hpo refill submits another: %s", exc)
