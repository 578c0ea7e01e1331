"""The launcher of workers that somebody else keeps alive: a SLURM job, or a person."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.launch.placement import make_places, share_of
from hpo.launch.processes import worker_source
from hpo.launch.supervisor import TIME_LIMIT, Supervisor
from hpo.records import Access
from hpo.storage.backends import open_patiently
from hpo.study.record import StudyRecord, find
from hpo.system.processes import awake_s
from hpo.worker.channel import WorkerOrder
from hpo.worker.worker import PATIENCE_S
from slurm.errors import SlurmError
from slurm.scheduler import Job
from slurm.slurm import SLURM

LEAVING_SHARE = 0.08
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LauncherSettings:
    """How the workers are run.

    Attributes
    ----------
    workers, cpus_per_worker, gpus_per_worker
        How many, and what each gets; None is what the study asks for.
    leave_before_s, stagger_s
        How long before the end of its SLURM job everybody leaves, and over which further time
        launchers that end together are spread.
    requeue
        Whether its job goes back into the queue where it is still wanted.
    """

    logs: Path
    workers: int = 1
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    leave_before_s: float = 120.0
    stagger_s: float = 120.0
    requeue: bool = True


def run_launcher(
    storage_url: str, name: str, settings: LauncherSettings, say: Callable[[str], None]
) -> StudyRecord | None:
    """Keep workers of a study alive until its budget is finished, or until they have to leave.

    Why they have left is told to `say`.

    Returns
    -------
    StudyRecord or None
        The study, if its budget is finished and this was a job, whose end nobody waits for.
    """
    job = SLURM.current_job()
    storage = open_patiently(storage_url, Access.WORK, PATIENCE_S)
    record = find(storage, name)
    # What forks has nothing open.
    storage.engine.dispose()
    share = share_of(record.spec.resources, settings.cpus_per_worker, settings.gpus_per_worker)
    # Nobody else uses the cores of a job.
    tied = job is not None and settings.workers > 1
    places = make_places(settings.workers, share, tied=tied)
    order = WorkerOrder(
        storage=storage.engine.url.render_as_string(hide_password=False),
        study=record.name,
        logs=str((settings.logs / record.name).resolve()),
        launcher=os.getpid(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME") if job else None,
        job=job.job_id if job else None,
        restarts=job.restarts if job else None,
    )
    with worker_source(record.spec, share.cpus, quiet=False) as processes:
        launcher = Supervisor(record, order, places, processes)
        if job is not None and job.end_unix_s is not None:
            launcher.leave_at = awake_s() + _leave_in_s(settings, job.end_unix_s - time.time())
        finished = launcher.run()
    ended = "the budget is finished" if finished else "the study was stopped"
    say(f"left study '{record.name}': {launcher.reason or ended}; see: hpo status {record.name}")
    # SIGTERM means that the job was cancelled and is not wanted, or that SLURM requeues it itself.
    if job is not None and launcher.reason in (TIME_LIMIT, "SIGUSR2") and settings.requeue:
        _requeue(job)
    return record if finished and job is not None else None


def _leave_in_s(settings: LauncherSettings, left_s: float) -> float:
    """Return when everybody leaves a job that ends in so many seconds.

    Launchers that began together leave spread over some time, so that they do not all come to the
    database and to the queue at once. A short job is not spent on leaving it.
    """
    share_s = LEAVING_SHARE * left_s
    before_s, stagger_s = min(settings.leave_before_s, share_s), min(settings.stagger_s, share_s)
    return left_s - before_s - random.uniform(0.0, stagger_s)


def _requeue(job: Job) -> None:
    _log.info("job %s goes back into the queue", job.job_id)
    try:
        SLURM.requeue_self()
    except SlurmError as exc:
        _log.warning("not requeued, hpo refill submits another: %s", exc)
