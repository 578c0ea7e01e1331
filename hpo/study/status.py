"""The state of a study at one moment, read from its storage alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from hpo.records import SPENT, Attempts, Counts
from hpo.storage.attempts import read_open_attempts
from hpo.storage.best import Front, read_best_trials, read_directions, read_front
from hpo.storage.budget import read_counts, read_events, read_failures, read_last_stop
from hpo.storage.events import EventKind
from hpo.storage.schema import (
    CLAIMS,
    EVENTS,
    TRIALS,
    WORKERS,
)
from hpo.storage.trial_reader import read_attributes, read_rows, trials_among
from hpo.study.record import StudyRecord
from hpo.study.told import Told, key_of, read_told
from hpo.wording import count_of, plain_number

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
    exceeded
        How many trials exceeded a limit, by limit.
    retries
        How many attempts failed and were tried again, by reason.
    attempts
        Open trials whose last attempts stored no part, by number.
    limit
        What of the study itself stopped it, such as a limit or a callback; None if nothing did.
    told
        What its objective has told: totals, preparation, baseline.
    best_totals
        Those totals of the best trial that have a name.
    unprepared
        Why its preparation failed, which stopped it; None if it did not.
    best_score, best_trial
        Of the best trial that breaks no constraint; None where there are several objectives.
    front
        The Pareto front, where there are several.
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
    exceeded: Mapping[str, int]
    retries: Mapping[str, int]
    attempts: Mapping[int, Attempts]
    limit: str | None
    told: Told = field(default_factory=Told)
    best_totals: Mapping[str, float | None] = field(default_factory=dict)
    unprepared: str | None = None
    front: Front | None = None

    @property
    def state(self) -> str:
        """Return finished, running, stopping, stopped, or waiting for workers of a cluster."""
        if self.counts.done:
            return "finished"
        if any(worker.alive for worker in self.workers):
            return "running" if self.stop is None else "stopping"
        return "waiting" if self.submitted and self.stop is None else "stopped"

    @property
    def scores_baseline(self) -> bool:
        """Return whether a worker that lives scores the baseline."""
        alive = {worker.worker_id for worker in self.workers if worker.alive}
        return self.told.baseline_worker in alive

    @property
    def left_s(self) -> float | None:
        """Return the seconds that are left at the present rate."""
        if self.per_hour is None or self.counts.done:
            return None
        return 3600.0 * (self.counts.budget - self.counts.finished) / self.per_hour

    def as_dict(self) -> dict[str, Any]:
        """Return what `hpo status --json` prints."""
        told = asdict(self.told)
        # Whatever it is, it may be large.
        told["prepared"] = self.told.prepared is not None
        told["baseline"] = self.told.baseline and self.told.baseline.as_dict()
        return {"state": self.state, **asdict(self), "told": told, "left_s": self.left_s}


class BestRow(NamedTuple):
    """The best trial: the first of those with the best score.

    With several objectives it is the one of the Pareto front whose first value is best.
    """

    trial_id: int
    number: int
    score: float


class _OpenWorkerRow(NamedTuple):
    """A worker that has not left, and the unit that it holds."""

    worker_id: str
    host: str
    pid: int
    cluster: str | None
    job: str | None
    restarts: int | None
    seen_at: float
    number: int | None
    parts: int | None


def take_status(record: StudyRecord) -> Status:
    """Read the state of a study."""

    def read() -> Status:
        with record.storage.read() as c:
            return read_status(c, record)

    return record.storage.patiently(read)


def read_status(c: sa.Connection, record: StudyRecord) -> Status:
    """Read the state of a study within a transaction."""
    study_id = record.study_id
    counts, stop = read_counts(c, study_id)
    several = len(read_directions(c, study_id)) > 1
    best = None if several else read_best(c, study_id)
    now = record.storage.now(c)
    last_stop = read_last_stop(c, study_id) if stop is not None else {}
    told = read_told(c, key_of(study_id, record.fingerprint))
    deaths, retries = (
        Counter(event["reason"] for event in read_events(c, study_id, kind))
        for kind in (EventKind.DEATH, EventKind.RETRY)
    )
    return Status(
        name=record.name,
        counts=counts,
        stop=stop,
        submitted=was_submitted(c, study_id),
        best_score=None if best is None else best.score,
        best_trial=None if best is None else best.number,
        per_hour=_read_rate(c, record, now),
        workers=read_open_workers(c, record, now),
        failures=tuple(read_failures(c, study_id, MAX_REASONS)) if counts.failed else (),
        deaths=dict(deaths.most_common()),
        exceeded=dict(_count_exceeded(c, study_id).most_common()),
        retries=dict(retries.most_common()),
        attempts=read_open_attempts(c, study_id),
        limit=last_stop.get("limit"),
        told=told,
        best_totals=_read_totals(c, study_id, best, told) if best is not None else {},
        unprepared=last_stop.get("unprepared"),
        front=read_front(c, study_id) if several else None,
    )


def read_best(c: sa.Connection, study_id: int, front: Front | None = None) -> BestRow | None:
    """Return the best trial of a study that breaks no constraint; None before there is one.

    `front` is its Pareto front, where that is known already.
    """
    best = read_best_trials(c, study_id) if front is None else front.trial_ids
    if not best:
        return None
    (found,) = read_rows(c, study_id, trials_among(best[:1]))
    return BestRow(found.trial_id, found.number, found.values[0])


def _read_totals(
    c: sa.Connection, study_id: int, best: BestRow, told: Told
) -> dict[str, float | None]:
    if not told.totals:
        return {}
    stored = read_attributes(c, study_id, TRIALS.c.trial_id == best.trial_id)[best.trial_id]
    known = {**stored, "score": best.score}
    return {name: known[name] for name in told.totals if name in known}


class HasBest(Protocol):
    """What tells of the best trial of a study, or of its Pareto front."""

    @property
    def best_score(self) -> float | None:
        """Of the best trial; None if there is none, or several objectives."""

    @property
    def best_trial(self) -> int | None:
        """Its number."""

    @property
    def front(self) -> Front | None:
        """With several objectives."""


def describe_best(status: HasBest, form: str = ".6g") -> str:
    """Return the best score and its trial, or how large the Pareto front is; "" if there is none.

    Parameters
    ----------
    form
        How the score is written.
    """
    if status.front is not None:
        return f"{count_of(len(status.front.numbers), 'trial')} on the Pareto front"
    if status.best_score is None:
        return ""
    return f"best {plain_number(status.best_score, form)} (trial {status.best_trial})"


def list_workers(record: StudyRecord) -> tuple[WorkerStatus, ...]:
    """Return the workers of a study that have not left, oldest first."""

    def read() -> tuple[WorkerStatus, ...]:
        with record.storage.read() as c:
            return read_open_workers(c, record, record.storage.now(c))

    return record.storage.patiently(read)


def _count_exceeded(c: sa.Connection, study_id: int) -> Counter[str]:
    events = read_events(c, study_id, EventKind.LIMIT)
    return Counter(event["reason"].partition(" exceeded")[0] for event in events)


def was_submitted(c: sa.Connection, study_id: int) -> bool:
    """Return whether workers were ever submitted to a cluster."""
    query = sa.select(EVENTS.c.event_id).where(
        EVENTS.c.study_id == study_id,
        EVENTS.c.kind.in_([EventKind.SUBMITTING, EventKind.SUBMITTED]),
    )
    return c.execute(query.limit(1)).first() is not None


def _read_rate(c: sa.Connection, record: StudyRecord, now: float) -> float | None:
    # A finished unit's lease was renewed when it was told: the database's clock.
    told_at = CLAIMS.c.lease_until - record.spec.lease_s
    since = max(now - RATE_WINDOW_S, record.created_at)
    n_finished, first = c.execute(
        sa.select(sa.func.count(), sa.func.min(told_at)).where(
            CLAIMS.c.study_id == record.study_id,
            CLAIMS.c.state.in_(SPENT),
            told_at >= since,
        )
    ).one()
    if not n_finished:
        return None
    entered = c.execute(
        sa.select(sa.func.min(WORKERS.c.started_at)).where(
            WORKERS.c.study_id == record.study_id,
            sa.or_(WORKERS.c.ended_at.is_(None), WORKERS.c.ended_at >= since),
        )
    ).scalar_one()
    began = max(since, min(entered if entered is not None else since, first))
    return 3600.0 * int(n_finished) / max(1.0, float(now - began))


def read_open_workers(
    c: sa.Connection, record: StudyRecord, now: float
) -> tuple[WorkerStatus, ...]:
    """Return the workers of a study that have not left, oldest first, within a transaction."""
    columns = [
        (WORKERS.c if name in WORKERS.c else CLAIMS.c)[name] for name in _OpenWorkerRow._fields
    ]
    query = (
        sa.select(*columns)
        .outerjoin(
            CLAIMS,
            sa.and_(CLAIMS.c.worker_id == WORKERS.c.worker_id, CLAIMS.c.state == "open"),
        )
        .where(WORKERS.c.study_id == record.study_id, WORKERS.c.ended_at.is_(None))
        .order_by(WORKERS.c.started_at, WORKERS.c.worker_id)
    )
    rows = [_OpenWorkerRow(*row) for row in c.execute(query)]
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
