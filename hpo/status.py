"""What is going on in a study, read from its storage alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo.ledger import TRIALS, VALUES, Counts
from hpo.storage import CLAIMS, WORKERS
from hpo.study import DIRECTIONS, StudyRecord


@dataclass(frozen=True)
class WorkerStatus:
    """A worker that has not left: where it is, what it holds, when it was last heard of."""

    worker_id: str
    host: str
    pid: int
    trial: int | None
    seen_s_ago: float
    alive: bool


@dataclass(frozen=True)
class Status:
    """A study at one moment."""

    name: str
    counts: Counts
    best_score: float | None
    best_trial: int | None
    workers: tuple[WorkerStatus, ...]

    @property
    def state(self) -> str:
        """Return finished, running or stopped."""
        if self.counts.done:
            return "finished"
        return "running" if any(worker.alive for worker in self.workers) else "stopped"

    def as_dict(self) -> dict[str, Any]:
        """Return what `hpo status --json` prints."""
        return {"state": self.state, **asdict(self)}


def take_status(record: StudyRecord) -> Status:
    """Read the state of a study."""
    counts = record.ledger.counts()
    with record.storage.read() as c:
        now = record.storage.now(c)
        direction = c.execute(
            sa.select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == record.study_id)
        ).scalar_one()
        order = VALUES.c.value.asc()
        if direction == StudyDirection.MAXIMIZE:
            order = VALUES.c.value.desc()
        best = c.execute(
            sa.select(TRIALS.c.number, VALUES.c.value)
            .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
            .where(TRIALS.c.study_id == record.study_id, TRIALS.c.state == TrialState.COMPLETE)
            .order_by(order, TRIALS.c.number)
            .limit(1)
        ).one_or_none()
        workers = c.execute(
            sa.select(WORKERS, CLAIMS.c.number)
            .outerjoin(
                CLAIMS,
                sa.and_(CLAIMS.c.worker_id == WORKERS.c.worker_id, CLAIMS.c.state == "open"),
            )
            .where(WORKERS.c.study_id == record.study_id, WORKERS.c.ended_at.is_(None))
            .order_by(WORKERS.c.started_at)
        ).all()
    return Status(
        name=record.name,
        counts=counts,
        best_score=None if best is None else best.value,
        best_trial=None if best is None else best.number,
        workers=tuple(
            WorkerStatus(
                worker_id=row.worker_id,
                host=row.host,
                pid=row.pid,
                trial=row.number,
                seen_s_ago=now - row.seen_at,
                alive=now - row.seen_at < record.spec.lease_s,
            )
            for row in workers
        ),
    )
