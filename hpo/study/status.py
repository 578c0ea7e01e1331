"""The state of a study at one moment, read from its storage alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo.records import SPENT, Counts
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS, DIRECTIONS, TRIALS, VALUES, WORKERS
from hpo.study.record import StudyRecord

# The rate is that of the trials finished within this time.
RATE_WINDOW_S = 600.0
MAX_REASONS = 5


@dataclass(frozen=True)
class WorkerStatus:
    """A worker that has not left: where it is, what it holds, when it was last heard of.

    Attributes
    ----------
    cluster, job, restarts
        Its SLURM job, such as 12_3, if it has one, and how often that had been restarted.
    trial, part
        What it holds, and which part it is at.
    alive
        Whether it was heard of within the length of a lease.
    """

    worker_id: str
    host: str
    pid: int
    cluster: str | None
    job: str | None
    restarts: int | None
    trial: int | None
    part: int | None
    seen_s_ago: float
    alive: bool


@dataclass(frozen=True)
class Status:
    """A study at one moment.

    Attributes
    ----------
    stop
        `gently` or `now` if the study was told to stop.
    submitted
        Whether workers were ever submitted to a cluster.
    per_hour
        Trials finished per hour, over the last ten minutes; None if there were none.
    failures
        Number and reason of the last failed trials.
    deaths
        How many workers died in the middle of a trial, by reason.
    """

    name: str
    counts: Counts
    stop: str | None
    submitted: bool
    best_score: float | None
    best_trial: int | None
    per_hour: float | None
    workers: tuple[WorkerStatus, ...]
    failures: tuple[tuple[int, str], ...]
    deaths: Mapping[str, int]

    @property
    def state(self) -> str:
        """Return finished, running, stopping, stopped, or waiting for workers of a cluster."""
        if self.counts.done:
            return "finished"
        if any(worker.alive for worker in self.workers):
            return "running" if self.stop is None else "stopping"
        return "waiting" if self.submitted and self.stop is None else "stopped"

    @property
    def left_s(self) -> float | None:
        """Return the seconds that are left at the present rate."""
        if self.per_hour is None or self.counts.done:
            return None
        return 3600.0 * (self.counts.budget - self.counts.finished) / self.per_hour

    def as_dict(self) -> dict[str, Any]:
        """Return what `hpo status --json` prints."""
        return {"state": self.state, **asdict(self), "left_s": self.left_s}


def take_status(record: StudyRecord) -> Status:
    """Read the state of a study."""
    ledger = record.ledger
    best = record.storage.patiently(lambda: _best(record))
    return Status(
        name=record.name,
        counts=ledger.counts(),
        stop=ledger.stopped(),
        submitted=bool(ledger.events(EventKind.SUBMITTED)),
        best_score=None if best is None else best.value,
        best_trial=None if best is None else best.number,
        per_hour=record.storage.patiently(lambda: _rate(record)),
        workers=list_workers(record),
        failures=tuple(ledger.failures(MAX_REASONS)),
        deaths=_deaths(record),
    )


def _best(record: StudyRecord) -> Any:
    with record.storage.read() as c:
        direction = c.execute(
            sa.select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == record.study_id)
        ).scalar_one()
        order = VALUES.c.value.asc()
        if direction == StudyDirection.MAXIMIZE:
            order = VALUES.c.value.desc()
        return c.execute(
            sa.select(TRIALS.c.number, VALUES.c.value)
            .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
            .where(TRIALS.c.study_id == record.study_id, TRIALS.c.state == TrialState.COMPLETE)
            .order_by(order, TRIALS.c.number)
            .limit(1)
        ).one_or_none()


def _rate(record: StudyRecord) -> float | None:
    # A finished unit's lease was renewed when it was told: the database's clock.
    told_at = CLAIMS.c.lease_until - record.spec.lease_s
    with record.storage.read() as c:
        now = record.storage.now(c)
        since = max(now - RATE_WINDOW_S, record.created_at)
        finished = c.execute(
            sa.select(sa.func.count(), sa.func.min(told_at)).where(
                CLAIMS.c.study_id == record.study_id,
                CLAIMS.c.state.in_(SPENT),
                told_at >= since,
            )
        ).one()
        entered = c.execute(
            sa.select(sa.func.min(WORKERS.c.started_at)).where(
                WORKERS.c.study_id == record.study_id,
                sa.or_(WORKERS.c.ended_at.is_(None), WORKERS.c.ended_at >= since),
            )
        ).scalar_one()
    n_finished = int(finished[0])
    if not n_finished:
        return None
    began = max(since, min(entered if entered is not None else since, finished[1]))
    return 3600.0 * n_finished / max(1.0, float(now - began))


def list_workers(record: StudyRecord) -> tuple[WorkerStatus, ...]:
    """Return the workers of a study that have not left, oldest first."""
    return record.storage.patiently(lambda: _workers(record))


def _workers(record: StudyRecord) -> tuple[WorkerStatus, ...]:
    with record.storage.read() as c:
        now = record.storage.now(c)
        rows = c.execute(
            sa.select(WORKERS, CLAIMS.c.number, CLAIMS.c.parts)
            .outerjoin(
                CLAIMS,
                sa.and_(CLAIMS.c.worker_id == WORKERS.c.worker_id, CLAIMS.c.state == "open"),
            )
            .where(WORKERS.c.study_id == record.study_id, WORKERS.c.ended_at.is_(None))
            .order_by(WORKERS.c.started_at, WORKERS.c.worker_id)
        ).all()
    return tuple(
        WorkerStatus(
            worker_id=row.worker_id,
            host=row.host,
            pid=row.pid,
            cluster=row.cluster,
            job=row.job,
            restarts=row.restarts,
            trial=row.number,
            part=row.parts,
            seen_s_ago=max(0.0, now - row.seen_at),
            alive=now - row.seen_at < record.spec.lease_s,
        )
        for row in rows
    )


def _deaths(record: StudyRecord) -> dict[str, int]:
    deaths: dict[str, int] = {}
    for event in record.ledger.events(EventKind.DEATH):
        deaths[event["reason"]] = deaths.get(event["reason"], 0) + 1
    return dict(sorted(deaths.items(), key=lambda item: -item[1]))
