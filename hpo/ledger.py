"""The study's budget: N trials means exactly N finished trials, whatever dies.

A unit of budget is one row of `hpo_claims` and one trial of Optuna's, made together.

    (new) ──claim──► held ──finish──► finished
                     │ ▲ └──fail────► failed      the objective refused, or died too often
          give back, │ │ claim: goes on with the
          bury       ▼ │ parameters and part scores that are stored
                     free

Invariants, kept by one transaction per arrow:

1. finished + held + free <= budget when a unit is made, so finished never exceeds the budget.
2. A held unit has one worker and a lease; every worker renews its lease from a thread. A unit
   whose lease has run out is buried by whoever claims next; a launcher buries its dead at once.
3. Each hold has a number, `attempt`. Whatever a worker stores names its attempt and is refused
   if the unit has moved on: a worker thought dead cannot tell anything.
4. A free unit's trial is WAITING for Optuna, a held one RUNNING, a finished one COMPLETE, a failed
   one FAIL with the reason in its user attribute `failure`.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.storage import CLAIMS, EVENTS, STUDIES, WORKERS, StudyStorage

TRIALS: sa.Table = models.TrialModel.__table__
PARAMS: sa.Table = models.TrialParamModel.__table__
VALUES: sa.Table = models.TrialValueModel.__table__
PART_VALUES: sa.Table = models.TrialIntermediateValueModel.__table__
ATTRIBUTES: sa.Table = models.TrialUserAttributeModel.__table__
OPTUNA_STUDIES: sa.Table = models.StudyModel.__table__

FAILURE_KEY = "failure"
WORKER_KEY = "worker"
WALL_KEY = "wall_s"


class Answer(enum.Enum):
    """What a worker that gets no trial is told."""

    WAIT = "the budget is claimed, but not finished: one of the others may die"
    DONE = "the budget is finished"


@dataclass(frozen=True)
class Claim:
    """One unit of budget, held by one worker.

    Attributes
    ----------
    trial_id, number
        Optuna's id and number of the trial.
    attempt
        The fencing token.
    params
        Parameters that an earlier worker drew; None if nobody did.
    parts
        Stored scores of the parts 0 to len(parts) - 1.
    """

    trial_id: int
    number: int
    attempt: int
    worker_id: str
    params: Mapping[str, Any] | None
    parts: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Counts:
    """The budget and where its units are."""

    budget: int
    finished: int = 0
    failed: int = 0
    held: int = 0
    free: int = 0

    @property
    def done(self) -> bool:
        """Whether the budget is finished."""
        return self.finished >= self.budget


def part_key(part: int) -> str:
    """Return the trial attribute that holds the scores of a part."""
    return f"part {part}"


class Ledger:
    """The budget of one study in one storage."""

    def __init__(
        self,
        storage: StudyStorage,
        study_id: int,
        *,
        lease_s: float,
        max_deaths: int,
        max_failures: int,
    ) -> None:
        self.storage, self.study_id = storage, study_id
        self.lease_s, self.max_deaths, self.max_failures = lease_s, max_deaths, max_failures

    # Workers ----------------------------------------------------------------------------------

    def enter(self, worker_id: str, host: str, pid: int) -> None:
        """Write down that a worker has come."""
        with self.storage.write() as c:
            now = self.storage.now(c)
            c.execute(
                WORKERS.insert().values(
                    worker_id=worker_id,
                    study_id=self.study_id,
                    host=host,
                    pid=pid,
                    started_at=now,
                    seen_at=now,
                )
            )

    def leave(self, worker_id: str, outcome: str) -> None:
        """Write down that a worker has gone of its own will."""
        with self.storage.write() as c:
            self._end_worker(c, worker_id, outcome)

    def renew(self, worker_id: str) -> None:
        """Renew the lease of what a worker holds."""
        with self.storage.write() as c:
            now = self.storage.now(c)
            c.execute(
                CLAIMS.update()
                .where(CLAIMS.c.worker_id == worker_id, CLAIMS.c.state == "open")
                .values(lease_until=now + self.lease_s)
            )
            c.execute(WORKERS.update().where(WORKERS.c.worker_id == worker_id).values(seen_at=now))

    def bury(self, worker_id: str, reason: str) -> None:
        """Free at once what a worker held that is known to be dead."""
        with self.storage.write() as c:
            for row in self._open_units(c):
                if row.worker_id == worker_id:
                    self._bury(c, row, reason)
            self._end_worker(c, worker_id, reason)

    # The way of a trial -----------------------------------------------------------------------

    def claim(self, worker_id: str) -> Claim | Answer:
        """Take a unit of budget: a free one before a new one.

        Raises
        ------
        FailedStudyError
            If more trials failed than the study allows.
        """
        with self.storage.write() as c:
            budget = self._lock(c)
            now = self.storage.now(c)
            free, held = [], 0
            for row in self._open_units(c):
                if row.worker_id is not None and row.lease_until < now:
                    row = self._bury(c, row, f"no sign of life for {self.lease_s:g} s")
                if row is not None and row.worker_id is None:
                    free.append(row)
                elif row is not None:
                    held += 1
            finished, failed = self._count(c, "finished"), self._count(c, "failed")
            if finished + held >= budget:
                for row in free:
                    self._fail(c, row.trial_id, "withdrawn: the budget was lowered")
                return Answer.DONE if finished >= budget else Answer.WAIT
            if failed <= self.max_failures:
                if free:
                    return self._take(c, free[0], worker_id, now)
                return self._new_unit(c, worker_id, now)
        raise FailedStudyError(
            f"{failed} trials failed, max_failures is {self.max_failures}; "
            f"the last one: {self.last_failure()}"
        )

    def save_params(
        self,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Store the parameters of a trial, all at once."""
        with self._fenced(claim) as c:
            if params:
                c.execute(
                    PARAMS.insert(),
                    [
                        {
                            "trial_id": claim.trial_id,
                            "param_name": name,
                            "param_value": distributions[name].to_internal_repr(value),
                            "distribution_json": distribution_to_json(distributions[name]),
                        }
                        for name, value in params.items()
                    ],
                )

    def save_part(self, claim: Claim, part: int, scores: Mapping[str, float]) -> None:
        """Store the scores of one part as soon as they are made."""
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(
            scores["score"]
        )
        with self._fenced(claim) as c:
            c.execute(
                PART_VALUES.insert().values(
                    trial_id=claim.trial_id,
                    step=part,
                    intermediate_value=stored,
                    intermediate_value_type=kind,
                )
            )
            self._set_attributes(c, claim.trial_id, {part_key(part): _finite(scores)})

    def finish(self, claim: Claim, scores: Mapping[str, float]) -> None:
        """Tell the result of a trial; its unit of budget is spent."""
        with self._fenced(claim, state="finished") as c:
            stored, kind = models.TrialValueModel.value_to_stored_repr(scores["score"])
            c.execute(
                VALUES.insert().values(
                    trial_id=claim.trial_id, objective=0, value=stored, value_type=kind
                )
            )
            summary = {**_finite(scores), WORKER_KEY: claim.worker_id}
            del summary["score"]
            self._set_attributes(c, claim.trial_id, summary)
            self._end_trial(c, claim.trial_id, TrialState.COMPLETE)

    def fail(self, claim: Claim, reason: str) -> None:
        """Give up a trial that its objective refused; its unit goes to another trial."""
        with self._fenced(claim) as c:
            self._fail(c, claim.trial_id, reason)

    def give_back(self, claim: Claim) -> None:
        """Leave a trial to another worker, who goes on with the next part."""
        with self._fenced(claim) as c:
            self._free(c, claim.trial_id)

    # The budget -------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return the budget and where its units are."""
        held = sa.case((CLAIMS.c.worker_id.is_(None), "free"), else_="held")
        where = sa.case((CLAIMS.c.state == "open", held), else_=CLAIMS.c.state)
        with self.storage.read() as c:
            budget = c.execute(
                sa.select(STUDIES.c.budget).where(STUDIES.c.study_id == self.study_id)
            ).scalar_one()
            rows = c.execute(
                sa.select(where.label("place"), sa.func.count().label("units"))
                .where(CLAIMS.c.study_id == self.study_id)
                .group_by("place")
            ).all()
        return Counts(budget, **{row.place: row.units for row in rows})

    def last_failure(self) -> str:
        """Return why the last failed trial failed."""
        with self.storage.read() as c:
            row = c.execute(
                sa.select(CLAIMS.c.number, ATTRIBUTES.c.value_json)
                .join(ATTRIBUTES, ATTRIBUTES.c.trial_id == CLAIMS.c.trial_id)
                .where(CLAIMS.c.study_id == self.study_id, ATTRIBUTES.c.key == FAILURE_KEY)
                .order_by(CLAIMS.c.number.desc())
                .limit(1)
            ).one_or_none()
        return "none" if row is None else f"trial {row.number}: {json.loads(row.value_json)}"

    def events(self) -> list[dict[str, Any]]:
        """Return what happened to the study, oldest first."""
        with self.storage.read() as c:
            rows = c.execute(
                sa.select(EVENTS.c.at, EVENTS.c.kind, EVENTS.c.detail)
                .where(EVENTS.c.study_id == self.study_id)
                .order_by(EVENTS.c.event_id)
            ).all()
        return [{"at": row.at, "kind": row.kind, **json.loads(row.detail)} for row in rows]

    # One transaction's pieces -----------------------------------------------------------------

    def _lock(self, c: sa.Connection) -> int:
        """Let no other transaction of this study in, and return its budget."""
        c.execute(
            sa.select(OPTUNA_STUDIES.c.study_id)
            .where(OPTUNA_STUDIES.c.study_id == self.study_id)
            .with_for_update()
        ).one()
        budget = sa.select(STUDIES.c.budget).where(STUDIES.c.study_id == self.study_id)
        return int(c.execute(budget).scalar_one())

    def _open_units(self, c: sa.Connection) -> Sequence[Any]:
        return c.execute(
            sa.select(CLAIMS)
            .where(CLAIMS.c.study_id == self.study_id, CLAIMS.c.state == "open")
            .order_by(CLAIMS.c.number)
        ).all()

    def _count(self, c: sa.Connection, state: str) -> int:
        query = sa.select(sa.func.count()).where(
            CLAIMS.c.study_id == self.study_id, CLAIMS.c.state == state
        )
        return int(c.execute(query).scalar_one())

    def _new_unit(self, c: sa.Connection, worker_id: str, now: float) -> Claim:
        number = c.execute(
            sa.select(sa.func.coalesce(sa.func.max(TRIALS.c.number), -1)).where(
                TRIALS.c.study_id == self.study_id
            )
        ).scalar_one()
        number = int(number) + 1
        inserted = c.execute(
            TRIALS.insert().values(
                number=number,
                study_id=self.study_id,
                state=TrialState.RUNNING,
                datetime_start=_utc_now(),
            )
        )
        assert inserted.inserted_primary_key is not None
        trial_id = int(inserted.inserted_primary_key[0])
        c.execute(
            CLAIMS.insert().values(
                trial_id=trial_id,
                study_id=self.study_id,
                number=number,
                state="open",
                attempt=1,
                deaths=0,
                worker_id=worker_id,
                lease_until=now + self.lease_s,
            )
        )
        return Claim(trial_id, number, 1, worker_id, None, ())

    def _take(self, c: sa.Connection, row: Any, worker_id: str, now: float) -> Claim:
        attempt = row.attempt + 1
        c.execute(
            CLAIMS.update()
            .where(CLAIMS.c.trial_id == row.trial_id)
            .values(attempt=attempt, worker_id=worker_id, lease_until=now + self.lease_s)
        )
        self._set_state(c, row.trial_id, TrialState.RUNNING)
        drawn = c.execute(
            sa.select(PARAMS.c.param_name, PARAMS.c.param_value, PARAMS.c.distribution_json)
            .where(PARAMS.c.trial_id == row.trial_id)
            .order_by(PARAMS.c.param_id)
        ).all()
        params = {
            p.param_name: json_to_distribution(p.distribution_json).to_external_repr(p.param_value)
            for p in drawn
        }
        attributes = c.execute(
            sa.select(ATTRIBUTES.c.key, ATTRIBUTES.c.value_json).where(
                ATTRIBUTES.c.trial_id == row.trial_id
            )
        ).all()
        stored = {a.key: json.loads(a.value_json) for a in attributes}
        parts: list[Mapping[str, float]] = []
        while part_key(len(parts)) in stored:
            scores = stored[part_key(len(parts))]
            parts.append({k: math.nan if v is None else v for k, v in scores.items()})
        return Claim(row.trial_id, row.number, attempt, worker_id, params or None, tuple(parts))

    @contextlib.contextmanager
    def _fenced(self, claim: Claim, state: str = "open") -> Iterator[sa.Connection]:
        """Open a transaction in the name of a claim; refused if the unit has moved on."""
        with self.storage.write() as c:
            held = c.execute(
                CLAIMS.update()
                .where(
                    CLAIMS.c.trial_id == claim.trial_id,
                    CLAIMS.c.attempt == claim.attempt,
                    CLAIMS.c.worker_id == claim.worker_id,
                    CLAIMS.c.state == "open",
                )
                .values(state=state, lease_until=self.storage.now(c) + self.lease_s)
            )
            if held.rowcount != 1:
                raise LostLeaseError(f"trial {claim.number}: attempt {claim.attempt} is over")
            yield c

    def _bury(self, c: sa.Connection, row: Any, reason: str) -> Any | None:
        """Free a dead worker's unit, or fail its trial if it has cost too many workers."""
        deaths = row.deaths + 1
        self.storage.record_event(
            c, self.study_id, "death", trial=row.number, worker=row.worker_id, reason=reason
        )
        c.execute(CLAIMS.update().where(CLAIMS.c.trial_id == row.trial_id).values(deaths=deaths))
        if deaths >= self.max_deaths:
            self._fail(c, row.trial_id, f"{deaths} workers died on it; the last: {reason}")
            return None
        self._free(c, row.trial_id)
        return c.execute(sa.select(CLAIMS).where(CLAIMS.c.trial_id == row.trial_id)).one()

    def _free(self, c: sa.Connection, trial_id: int) -> None:
        c.execute(CLAIMS.update().where(CLAIMS.c.trial_id == trial_id).values(worker_id=None))
        self._set_state(c, trial_id, TrialState.WAITING)

    def _fail(self, c: sa.Connection, trial_id: int, reason: str) -> None:
        c.execute(CLAIMS.update().where(CLAIMS.c.trial_id == trial_id).values(state="failed"))
        self._set_attributes(c, trial_id, {FAILURE_KEY: reason})
        self._end_trial(c, trial_id, TrialState.FAIL)

    def _end_trial(self, c: sa.Connection, trial_id: int, state: TrialState) -> None:
        c.execute(
            TRIALS.update()
            .where(TRIALS.c.trial_id == trial_id)
            .values(state=state, datetime_complete=_utc_now())
        )

    def _set_state(self, c: sa.Connection, trial_id: int, state: TrialState) -> None:
        c.execute(TRIALS.update().where(TRIALS.c.trial_id == trial_id).values(state=state))

    def _set_attributes(
        self, c: sa.Connection, trial_id: int, attributes: Mapping[str, Any]
    ) -> None:
        c.execute(
            ATTRIBUTES.insert(),
            [
                {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                for key, value in attributes.items()
            ],
        )

    def _end_worker(self, c: sa.Connection, worker_id: str, outcome: str) -> None:
        c.execute(
            WORKERS.update()
            .where(WORKERS.c.worker_id == worker_id, WORKERS.c.ended_at.is_(None))
            .values(ended_at=self.storage.now(c), outcome=outcome)
        )


def _finite(scores: Mapping[str, float]) -> dict[str, Any]:
    """Return scores as JSON can hold them: an undefined one as null."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _utc_now() -> datetime:
    # Optuna stores naive UTC.
    return datetime.now(UTC).replace(tzinfo=None)
