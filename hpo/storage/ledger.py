"""The study's budget: N trials means exactly N finished or pruned trials, whatever dies.

A unit of budget is one row of `hpo_claims` and one trial of Optuna's, made together.

    (new) ──claim──► held ──finish──► finished    or pruned: spent alike, without a score
                     │ ▲ └──fail────► failed      the objective refused, or died too often
            release, │ │ claim: goes on with the
     reap, set_budget▼ │ parameters and part scores that are stored
                     free

Invariants, kept by one transaction per arrow:

1. finished + held + free <= budget when a unit is made, so finished never exceeds the budget;
   pruned units are counted among the finished ones.
   A budget that is lowered frees the held units beyond it; they wait until it is raised again.
2. A held unit has one worker and a lease, and a worker holds one unit at most; every worker
   renews its lease from a thread. A unit whose lease has run out is reaped by whoever claims
   next; who knows that a worker is dead (a launcher, a job queue) reaps its unit at once.
3. Each hold has a number, `attempt`. Whatever a worker stores names its attempt and is refused
   if the unit has moved on: a worker thought dead cannot tell anything.
4. A free unit's trial is WAITING for Optuna, a held one RUNNING, a finished one COMPLETE, a pruned
   one PRUNED and a failed one FAIL, with the reason in its user attribute `pruned` or `failure`.
5. Every arrow can be walked twice in the same name and ends at the same place. A call whose
   answer was lost with the connection is therefore repeated.

Claims and changes of the budget exclude one another by a lock on the study's row; every other
arrow is one conditional update of the unit's row. Leases are judged by the database's clock, and
never within one lease after the server's start: workers that could not reach it are not dead.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.records import (
    FAILURE_KEY,
    NO_PARTS,
    PRUNED_KEY,
    SPENT,
    WORKER_KEY,
    Answer,
    Claim,
    Counts,
    Parts,
    ResolvedTrial,
    WorkerRun,
    part_key,
)
from hpo.storage.events import EventKind
from hpo.storage.schema import (
    ATTRIBUTES,
    CLAIMS,
    EVENTS,
    OPTUNA_STUDIES,
    PARAMS,
    PART_VALUES,
    STUDIES,
    TRIALS,
    VALUES,
    WORKERS,
    store_part_value,
    store_value,
)
from hpo.storage.storage import StudyStorage

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _patient(
    method: Callable[Concatenate[Ledger, _P], _T],
) -> Callable[Concatenate[Ledger, _P], _T]:
    """Repeat a method of the ledger while the database does not answer."""

    @functools.wraps(method)
    def call(self: Ledger, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.storage.patiently(lambda: method(self, *args, **kwargs))

    return cast("Callable[Concatenate[Ledger, _P], _T]", call)


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

    @_patient
    def register(self, worker_id: str, run: WorkerRun) -> None:
        """Write down that a worker has come."""
        row = vars(run) | {"provenance": json.dumps(run.provenance)}
        with self.storage.write() as c:
            known = sa.select(WORKERS.c.worker_id).where(WORKERS.c.worker_id == worker_id)
            if c.execute(known).one_or_none() is not None:
                return
            now = self.storage.now(c)
            c.execute(
                WORKERS.insert().values(
                    worker_id=worker_id,
                    study_id=self.study_id,
                    started_at=now,
                    seen_at=now,
                    **row,
                )
            )

    @_patient
    def deregister(self, worker_id: str, outcome: str) -> None:
        """Write down that a worker has gone of its own will."""
        with self.storage.write() as c:
            self._end_worker(c, worker_id, outcome)

    @_patient
    def renew(self, worker_id: str) -> Answer | None:
        """Renew the lease of what a worker holds; an answer if it has to leave at once."""
        with self.storage.write() as c:
            now = self.storage.now(c)
            c.execute(
                CLAIMS.update()
                .where(CLAIMS.c.worker_id == worker_id, CLAIMS.c.state == "open")
                .values(lease_until=now + self.lease_s)
            )
            c.execute(WORKERS.update().where(WORKERS.c.worker_id == worker_id).values(seen_at=now))
            wanted = self._wanted(c, worker_id)
        if wanted.ended_at is not None:
            return Answer.DISMISSED
        return Answer.STOPPED if wanted.stop == "now" else None

    @_patient
    def reap(self, worker_id: str, reason: str) -> bool:
        """Free at once what a worker held that is known to be dead.

        Returns
        -------
        bool
            Whether it was thought alive until now.
        """
        with self.storage.write() as c:
            held = self._open(CLAIMS.c.worker_id == worker_id)
            for row in c.execute(held.with_for_update()).all():
                self._reap(c, row, reason)
            return self._end_worker(c, worker_id, reason)

    # The way of a trial -----------------------------------------------------------------------

    @_patient
    def claim(self, worker_id: str) -> Claim | Answer:
        """Take a unit of budget: a free one before a new one.

        Raises
        ------
        FailedStudyError
            If more trials failed than the study allows.
        """
        with self.storage.write() as c:
            self._lock(c)
            row = self._look(c, worker_id)
            if row.ended_at is not None:
                return Answer.DISMISSED
            if row.mine:  # The answer to an earlier call was lost.
                return self._claim_of(c, self._first_open(c, CLAIMS.c.worker_id == worker_id))
            if self._lease_is_over(row):
                self._reap_expired(c, row.now)
                row = self._look(c, worker_id)
            counts = _counts_of(row)
            if counts.done:
                return Answer.DONE
            if row.stop is not None:
                return Answer.STOPPED
            if counts.finished + counts.held >= counts.budget:
                return Answer.WAIT
            if counts.failed <= self.max_failures:
                lease_until = row.now + self.lease_s
                if counts.free:
                    free = self._first_open(c, CLAIMS.c.worker_id.is_(None))
                    return self._take(c, free, worker_id, lease_until)
                return self._new_unit(c, worker_id, lease_until)
        raise FailedStudyError(
            f"{counts.failed} trials failed, max_failures is {self.max_failures}; "
            f"the last one: {self.last_failure()}"
        )

    @_patient
    def save_params(
        self,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Store the parameters of a trial, all at once."""
        with self._fenced(claim) as c:
            if c is None or not params:
                return
            self._insert_params(c, claim.trial_id, params, distributions)

    @_patient
    def save_parts(self, claim: Claim, parts: Parts) -> None:
        """Store the scores of parts, by their position, in the middle of a trial."""
        with self._fenced(claim, **_reached(parts)) as c:
            if c is not None:
                self._store(c, claim.trial_id, parts)

    @_patient
    def finish(
        self,
        claim: Claim,
        scores: Mapping[str, float],
        parts: Parts = NO_PARTS,
        pruned: str = "",
        settled: ResolvedTrial | None = None,
    ) -> None:
        """Tell the result of a trial, or why it was pruned; its unit of budget is spent.

        Scores of parts that are not stored yet come with it.
        """
        state = "pruned" if pruned else "finished"
        with self._fenced(claim, state=state, **_reached(parts)) as c:
            if c is None:
                return
            summary = {**_finite(scores), WORKER_KEY: claim.worker_id}
            if pruned:
                summary[PRUNED_KEY] = pruned
            else:
                del summary["score"]
                stored, kind = store_value(scores["score"])
                c.execute(
                    VALUES.insert().values(
                        trial_id=claim.trial_id, objective=0, value=stored, value_type=kind
                    )
                )
            if settled is not None:
                self._settle(c, claim.trial_id, settled, len(settled.parts) - len(parts))
                parts = {part: settled.parts[part] for part in parts}
            self._store(c, claim.trial_id, parts, summary)
            ended = TrialState.PRUNED if pruned else TrialState.COMPLETE
            self._end_trial(c, claim.trial_id, ended)

    @_patient
    def fail(self, claim: Claim, reason: str, parts: Parts = NO_PARTS) -> None:
        """Give up a trial that its objective refused; its unit goes to another trial."""
        with self._fenced(claim, state="failed", **_reached(parts)) as c:
            if c is not None:
                self._store(c, claim.trial_id, parts)
                self._end_failed(c, claim.trial_id, reason)

    @_patient
    def release(self, claim: Claim, parts: Parts = NO_PARTS) -> None:
        """Leave a trial to another worker, who goes on with the next part."""
        with self._fenced(claim, worker_id=None, **_reached(parts)) as c:
            if c is not None:
                self._store(c, claim.trial_id, parts)
                self._set_state(c, claim.trial_id, TrialState.WAITING)

    # The budget -------------------------------------------------------------------------------

    @_patient
    def set_budget(self, budget: int) -> list[int]:
        """Raise or lower the budget of a study, running or finished.

        Returns
        -------
        list of int
            Numbers of the trials that were taken from their workers because the budget has no
            room for them any more. What is stored of them stays, for a budget that is raised.
        """
        with self.storage.write() as c:
            self._lock(c)
            before = self._wanted(c, "").budget
            if before != budget:
                c.execute(
                    STUDIES.update()
                    .where(STUDIES.c.study_id == self.study_id)
                    .values(budget=budget)
                )
                self.storage.record_event(
                    c, self.study_id, EventKind.BUDGET, before=before, after=budget
                )
            # Waits for those that are being told at this moment, and counts them as finished.
            held = c.execute(self._open(CLAIMS.c.worker_id.is_not(None)).with_for_update()).all()
            room = max(0, budget - _counts_of(self._look(c, "")).finished)
            for row in held[room:]:
                c.execute(
                    CLAIMS.update().where(CLAIMS.c.trial_id == row.trial_id).values(worker_id=None)
                )
                self._set_state(c, row.trial_id, TrialState.WAITING)
        return [row.number for row in held[room:]]

    @_patient
    def stop(self, how: str | None) -> None:
        """Let no new trial begin (`gently`), or have all trials released too (`now`).

        None lets the study go on.
        """
        with self.storage.write() as c:
            before = self._wanted(c, "").stop
            if before != how:
                c.execute(
                    STUDIES.update().where(STUDIES.c.study_id == self.study_id).values(stop=how)
                )
                self.storage.record_event(c, self.study_id, EventKind.STOP, how=how)

    @_patient
    def lock_launcher(self, holder: str, for_s: float) -> bool:
        """Be the only one that submits workers for this study, for so long; False if another is."""
        with self.storage.write() as c:
            now = self.storage.now(c)
            taken = c.execute(
                STUDIES.update()
                .where(
                    STUDIES.c.study_id == self.study_id,
                    sa.or_(
                        STUDIES.c.launcher.is_(None),
                        STUDIES.c.launcher == holder,
                        STUDIES.c.launcher_until < now,
                    ),
                )
                .values(launcher=holder, launcher_until=now + for_s)
            )
            return taken.rowcount == 1

    @_patient
    def unlock_launcher(self, holder: str) -> None:
        """Let others submit workers."""
        with self.storage.write() as c:
            c.execute(
                STUDIES.update()
                .where(STUDIES.c.study_id == self.study_id, STUDIES.c.launcher == holder)
                .values(launcher=None, launcher_until=None)
            )

    @_patient
    def counts(self) -> Counts:
        """Return the budget and where its units are."""
        with self.storage.read() as c:
            return _counts_of(self._look(c, ""))

    @_patient
    def stopped(self) -> str | None:
        """Return how the study was stopped; None if it may go on."""
        with self.storage.read() as c:
            how: str | None = self._wanted(c, "").stop
            return how

    @_patient
    def progress(self) -> int:
        """Return how many parts of all trials have a stored score."""
        query = sa.select(sa.func.coalesce(sa.func.sum(CLAIMS.c.parts), 0))
        with self.storage.read() as c:
            return int(c.execute(query.where(CLAIMS.c.study_id == self.study_id)).scalar_one())

    def last_failure(self) -> str:
        """Return why the last failed trial failed."""
        failures = self.failures(limit=1)
        return f"trial {failures[0][0]}: {failures[0][1]}" if failures else "none"

    @_patient
    def failures(self, limit: int | None = None) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials, the last one first."""
        with self.storage.read() as c:
            rows = c.execute(
                sa.select(CLAIMS.c.number, ATTRIBUTES.c.value_json)
                .join(ATTRIBUTES, ATTRIBUTES.c.trial_id == CLAIMS.c.trial_id)
                .where(CLAIMS.c.study_id == self.study_id, ATTRIBUTES.c.key == FAILURE_KEY)
                .order_by(CLAIMS.c.number.desc())
                .limit(limit)
            ).all()
        return [(row.number, json.loads(row.value_json)) for row in rows]

    @_patient
    def events(self, kind: EventKind | None = None) -> list[dict[str, Any]]:
        """Return what happened to the study, oldest first; of one kind or of all."""
        query = (
            sa.select(EVENTS.c.at, EVENTS.c.kind, EVENTS.c.detail)
            .where(EVENTS.c.study_id == self.study_id)
            .order_by(EVENTS.c.event_id)
        )
        with self.storage.read() as c:
            rows = c.execute(
                query if kind is None else query.where(EVENTS.c.kind == kind.value)
            ).all()
        return [{"at": row.at, "kind": row.kind, **json.loads(row.detail)} for row in rows]

    @_patient
    def record(self, kind: EventKind, detail: Mapping[str, Any]) -> None:
        """Write down something that must not be forgotten."""
        with self.storage.write() as c:
            self.storage.record_event(c, self.study_id, kind, **detail)

    # One transaction's pieces -----------------------------------------------------------------

    def _lock(self, c: sa.Connection) -> None:
        """Let no other claim or change of this study's budget in."""
        # On SQLite a transaction that writes is alone from its beginning.
        if c.dialect.name != "sqlite":
            c.execute(
                sa.select(OPTUNA_STUDIES.c.study_id)
                .where(OPTUNA_STUDIES.c.study_id == self.study_id)
                .with_for_update(key_share=True)
            ).one()

    def _wanted(self, c: sa.Connection, worker_id: str, *more: sa.ColumnElement[Any]) -> Any:
        """Return the study's budget and stop, and when the worker was said to have ended."""
        ended = sa.select(WORKERS.c.ended_at).where(WORKERS.c.worker_id == worker_id)
        return c.execute(
            sa.select(
                STUDIES.c.budget, STUDIES.c.stop, ended.scalar_subquery().label("ended_at"), *more
            ).where(STUDIES.c.study_id == self.study_id)
        ).one()

    def _look(self, c: sa.Connection, worker_id: str) -> Any:
        """Return in one statement all that a claim is decided by.

        Returns
        -------
        row
            What `_wanted` returns; `now` and `up_since` by the database's clock; the numbers of
            units that are `finished`, `pruned`, `failed`, `open` and `held`; whether one of them is
            `mine`, and when the `first_lease_until` of the held ones ends.
        """
        ours = CLAIMS.c.study_id == self.study_id
        is_open = sa.and_(ours, CLAIMS.c.state == "open")

        def count(state: str) -> sa.Label[Any]:
            found = sa.select(sa.func.count()).where(ours, CLAIMS.c.state == state)
            return found.select_from(CLAIMS).scalar_subquery().label(state)

        def of_open(what: sa.ColumnElement[Any], name: str) -> sa.Label[Any]:
            return sa.select(what).where(is_open).scalar_subquery().label(name)

        held = CLAIMS.c.worker_id.is_not(None)
        return self._wanted(
            c,
            worker_id,
            self.storage.now_sql.label("now"),
            self.storage.up_since_sql.label("up_since"),
            *map(count, (*SPENT, "failed", "open")),
            of_open(sa.func.count(CLAIMS.c.worker_id), "held"),
            of_open(sa.func.count().filter(CLAIMS.c.worker_id == worker_id), "mine"),
            of_open(sa.func.min(CLAIMS.c.lease_until).filter(held), "first_lease_until"),
        )

    def _open(self, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
        return (
            sa.select(CLAIMS)
            .where(CLAIMS.c.study_id == self.study_id, CLAIMS.c.state == "open", condition)
            .order_by(CLAIMS.c.number)
        )

    def _first_open(self, c: sa.Connection, condition: sa.ColumnElement[bool]) -> Any | None:
        return c.execute(self._open(condition).limit(1)).one_or_none()

    def _new_unit(self, c: sa.Connection, worker_id: str, lease_until: float) -> Claim:
        last = (
            sa.select(TRIALS.c.number)
            .where(TRIALS.c.study_id == self.study_id)
            .order_by(TRIALS.c.trial_id.desc())
            .limit(1)
            .scalar_subquery()
        )
        row = sa.select(
            sa.func.coalesce(last, -1) + 1,
            sa.literal(self.study_id),
            sa.literal(TrialState.RUNNING, TRIALS.c.state.type),
            sa.literal(_utc_now(), TRIALS.c.datetime_start.type),
        )
        made = TRIALS.insert().from_select(["number", "study_id", "state", "datetime_start"], row)
        trial_id, number = c.execute(made.returning(TRIALS.c.trial_id, TRIALS.c.number)).one()
        c.execute(
            CLAIMS.insert().values(
                trial_id=trial_id,
                study_id=self.study_id,
                number=number,
                state="open",
                attempt=1,
                deaths=0,
                parts=0,
                worker_id=worker_id,
                lease_until=lease_until,
            )
        )
        return Claim(trial_id, number, 1, worker_id, None, ())

    def _take(self, c: sa.Connection, row: Any, worker_id: str, lease_until: float) -> Claim:
        c.execute(
            CLAIMS.update()
            .where(CLAIMS.c.trial_id == row.trial_id)
            .values(attempt=row.attempt + 1, worker_id=worker_id, lease_until=lease_until)
        )
        self._set_state(c, row.trial_id, TrialState.RUNNING)
        return self._claim_of(c, self._first_open(c, CLAIMS.c.trial_id == row.trial_id))

    def _claim_of(self, c: sa.Connection, row: Any) -> Claim:
        """Return the claim that a held unit is, with what is stored of its trial."""
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
        return Claim(
            row.trial_id, row.number, row.attempt, row.worker_id, params or None, tuple(parts)
        )

    @contextlib.contextmanager
    def _fenced(self, claim: Claim, **values: Any) -> Iterator[sa.Connection | None]:
        """Change a unit in the name of a claim; refused if the unit has moved on.

        Yields None if it was changed before, by a call whose answer was lost.
        """
        mine = (CLAIMS.c.trial_id == claim.trial_id, CLAIMS.c.attempt == claim.attempt)
        before = [CLAIMS.c.worker_id == claim.worker_id, CLAIMS.c.state == "open"]
        if "parts" in values:
            before.append(CLAIMS.c.parts < values["parts"])
        with self.storage.write() as c:
            lease_until = self.storage.now_sql + self.lease_s
            changed = c.execute(
                CLAIMS.update().where(*mine, *before).values(lease_until=lease_until, **values)
            )
            if changed.rowcount == 1:
                yield c
                return
            wanted = {"worker_id": claim.worker_id, "state": "open"} | values
            row = c.execute(sa.select(CLAIMS).where(*mine)).one_or_none()
            if row is None or any(getattr(row, key) != value for key, value in wanted.items()):
                raise LostLeaseError(f"trial {claim.number}: attempt {claim.attempt} is over")
            yield None

    def _lease_is_over(self, row: Any) -> bool:
        """Whether a worker has given no sign of life, though the database could hear it."""
        first = row.first_lease_until
        awake_s = row.now - row.up_since
        return first is not None and first < row.now and awake_s >= self.lease_s

    def _reap_expired(self, c: sa.Connection, now: float) -> None:
        over = sa.and_(CLAIMS.c.worker_id.is_not(None), CLAIMS.c.lease_until < now)
        # A row that is locked belongs to a worker that is telling something: it lives.
        for row in c.execute(self._open(over).with_for_update(skip_locked=True)).all():
            self._reap(c, row, f"no sign of life for {self.lease_s:g} s")

    def _reap(self, c: sa.Connection, row: Any, reason: str) -> None:
        """Free a dead worker's unit, or fail its trial if it has cost too many workers."""
        deaths = row.deaths + 1
        exhausted = deaths >= self.max_deaths
        changes: dict[str, Any] = {"state": "failed"} if exhausted else {"worker_id": None}
        c.execute(
            CLAIMS.update()
            .where(CLAIMS.c.trial_id == row.trial_id)
            .values(deaths=deaths, **changes)
        )
        self.storage.record_event(
            c,
            self.study_id,
            EventKind.DEATH,
            trial=row.number,
            attempt=row.attempt,
            part=row.parts,
            worker=row.worker_id,
            reason=reason,
        )
        if exhausted:
            reason = f"{deaths} workers died on it; the last: {reason}"
            self._end_failed(c, row.trial_id, reason)
        else:
            self._set_state(c, row.trial_id, TrialState.WAITING)

    def _end_failed(self, c: sa.Connection, trial_id: int, reason: str) -> None:
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

    def _store(
        self,
        c: sa.Connection,
        trial_id: int,
        parts: Parts,
        summary: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Store scores of parts, and with them a summary of the trial."""
        if parts:
            c.execute(PART_VALUES.insert(), [_part_row(trial_id, *part) for part in parts.items()])
        attributes = {part_key(part): _finite(scores) for part, scores in parts.items()}
        if attributes or summary:
            self._set_attributes(c, trial_id, {**attributes, **summary})

    def _insert_params(
        self,
        c: sa.Connection,
        trial_id: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        rows = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(distributions[name]),
            }
            for name, value in params.items()
        ]
        # What an earlier call stored, whose answer was lost, stays.
        c.execute(self.storage.insert_new(PARAMS), rows)

    def _settle(
        self, c: sa.Connection, trial_id: int, settled: ResolvedTrial, n_stored: int
    ) -> None:
        """Store what was found when all parts were scored, in the parts that are stored, too."""
        if settled.params:
            self._insert_params(c, trial_id, settled.params, settled.distributions)
        for part, scores in enumerate(settled.parts[:n_stored]):
            c.execute(
                PART_VALUES.update()
                .where(PART_VALUES.c.trial_id == trial_id, PART_VALUES.c.step == part)
                .values(intermediate_value=scores["score"])
            )
            c.execute(
                ATTRIBUTES.update()
                .where(ATTRIBUTES.c.trial_id == trial_id, ATTRIBUTES.c.key == part_key(part))
                .values(value_json=json.dumps(_finite(scores)))
            )

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

    def _end_worker(self, c: sa.Connection, worker_id: str, outcome: str) -> bool:
        ended = c.execute(
            WORKERS.update()
            .where(WORKERS.c.worker_id == worker_id, WORKERS.c.ended_at.is_(None))
            .values(ended_at=self.storage.now(c), outcome=outcome)
        )
        return ended.rowcount == 1


def _counts_of(row: Any) -> Counts:
    return Counts(
        row.budget,
        finished=row.finished + row.pruned,
        failed=row.failed,
        held=row.held,
        free=row.open - row.held,
        pruned=row.pruned,
    )


def _reached(parts: Parts) -> dict[str, int]:
    """Return what a claim's row says once these parts are stored."""
    return {"parts": max(parts) + 1} if parts else {}


def _part_row(trial_id: int, part: int, scores: Mapping[str, float]) -> dict[str, Any]:
    value, kind = store_part_value(scores["score"])
    return {
        "trial_id": trial_id,
        "step": part,
        "intermediate_value": value,
        "intermediate_value_type": kind,
    }


def _finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores as JSON can hold them: an undefined one as null, a text as it is."""
    return {
        name: value if isinstance(value, str) or math.isfinite(value) else None
        for name, value in scores.items()
    }


def _utc_now() -> datetime:
    # Optuna stores naive UTC.
    return datetime.now(UTC).replace(tzinfo=None)
