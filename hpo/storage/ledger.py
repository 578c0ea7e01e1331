"""The study's budget: N trials means exactly N finished or pruned trials, whatever dies.

A unit of budget is one row of `hpo_claims` and one trial of Optuna's, made together.

    (new) ──claim──► held ──finish──► finished    or pruned: spent alike, without a score
                     │ ▲ └──fail────► failed      the objective refused, or died too often;
                     │ │                          free again before, `max_retry` times
            release, │ │ claim: goes on with the
     reap, set_budget▼ │ parameters and part scores that are stored
                     free

Invariants, kept by one transaction per arrow:

1. finished + held + free <= budget when a unit is made, so finished never exceeds the budget;
   pruned units are counted among the finished ones.
   A budget that is lowered frees the held units beyond it; they wait until it is raised again.
2. A held unit has one worker and a lease, and a worker holds one unit at most. Who started
   workers, a launcher, renews the leases of all of them in one statement while they live. A unit
   whose lease has run out is reaped by whoever claims next; who knows that a worker is dead (a
   launcher, a job queue) reaps its unit at once.
3. Each hold has a number, `attempt`. Whatever a worker stores names its attempt and is refused
   if the unit has moved on: a worker thought dead cannot tell anything.
4. A free unit's trial is WAITING for Optuna, a held one RUNNING, a finished one COMPLETE, a pruned
   one PRUNED and a failed one FAIL, with the reason in its user attribute `pruned` or `failure`.
5. Every arrow can be walked twice in the same name and ends at the same place. A call whose
   answer was lost with the connection is therefore repeated.

Claims and changes of the budget exclude one another by a lock on the study's row; every other
arrow is one conditional update of the unit's row. Leases are judged by the database's clock, by
those alone who have kept their own, and never within one lease after the server's start or after
anybody could not write in time: what others may have missed as well is nobody's death.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.records import (
    BY_SCORE,
    BY_USER,
    INTERRUPTED,
    NO_PARTS,
    PRUNED_KEY,
    WALL_KEY,
    WORKER_KEY,
    Answer,
    Attempts,
    Claim,
    Judged,
    OnLimit,
    Parts,
    ResolvedTrial,
    TrialWrites,
    Unsaved,
    part_key,
)
from hpo.storage.attempts import limit_reached, read_attempts, write_attempts
from hpo.storage.budget import Unit, patient, read_units, select_units
from hpo.storage.enqueued import read_point
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS, CONSTRAINTS_KEY, TRIALS, unit_row
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import read_attributes, read_params
from hpo.storage.trial_writer import (
    begin_trial,
    end_failed,
    end_trial,
    finite,
    insert_params,
    insert_parts,
    insert_values,
    make_trial,
    set_state,
    set_system_attributes,
    settle,
    store,
)
from hpo.storage.workers import Workers

DEFAULT_ATTEMPTS = 10


class Ledger(Workers):
    """The budget of one study in one storage, and the way of its units from worker to worker."""

    def __init__(
        self,
        storage: StudyStorage,
        study_id: int,
        *,
        lease_s: float,
        max_deaths: int,
        max_failures: int,
        max_attempts: int = DEFAULT_ATTEMPTS,
        max_retry: int = 0,
        study_s: float | None = None,
        patience: int | None = None,
    ) -> None:
        super().__init__(storage, study_id, lease_s)
        self.max_deaths, self.max_failures = max_deaths, max_failures
        self.max_attempts, self.max_retry = max_attempts, max_retry
        self.study_s, self.patience = study_s, patience
        # System attributes that samplers and pruners noted of trials in hand, by their ids: stored
        # within the transaction of whatever is told of the trial next.
        self.notes: dict[int, dict[str, Any]] = {}

    @patient
    def reap(self, worker_id: str, reason: str) -> bool:
        """Free at once what a worker held that is known to be dead.

        Returns
        -------
        bool
            Whether it was thought alive until now.
        """
        with self.write() as c:
            held = self._open(CLAIMS.c.worker_id == worker_id)
            for unit in read_units(c, held.with_for_update()):
                self._reap(c, unit, reason)
            return self._end_worker(c, worker_id, reason)

    # The way of a trial -----------------------------------------------------------------------

    @patient
    def claim(self, worker_id: str) -> Claim | Answer:
        """Take a unit of budget: a free one before a new one.

        Raises
        ------
        FailedStudyError
            If more trials failed than the study allows.
        """
        with self.write() as c:
            self._lock(c)
            view = self._look(c, worker_id)
            if view.ended_at is not None:
                return Answer.DISMISSED
            if view.mine:  # The answer to an earlier call was lost.
                unit = self._first_open(c, CLAIMS.c.worker_id == worker_id)
                return self._claim_of(c, unit, worker_id)
            expired = view.first_lease_until is not None and view.first_lease_until < view.now
            if expired and self._may_judge(c, view):
                self._reap_expired(c, view.now)
                view = self._look(c, worker_id)
            counts = view.counts
            if counts.done:
                return Answer.DONE
            if view.stop is not None or self._limit_of_study(c, view.now):
                return Answer.STOPPED
            if counts.finished + counts.held >= counts.budget:
                return Answer.WAIT
            if counts.failed <= self.max_failures:
                lease_until = view.now + self.lease_s
                if counts.free:
                    free = self._first_open(c, CLAIMS.c.worker_id.is_(None))
                    return self._take(c, free, worker_id, lease_until)
                return self._new_unit(c, worker_id, lease_until)
        raise FailedStudyError(
            f"{counts.failed} trials failed, max_failures is {self.max_failures}; "
            f"the last one: {self.last_failure()}"
        )

    @patient
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
            insert_params(c, self.storage, claim.trial_id, params, distributions)

    @patient
    def save(self, claim: Claim, unsaved: Unsaved) -> None:
        """Store in the middle of a trial what is known of it: scores of parts, or writes."""
        with self._fenced(claim, **_reached(unsaved)) as c:
            if c is not None:
                store(c, self.storage, claim.trial_id, unsaved)

    @patient
    def finish(
        self,
        claim: Claim,
        scores: Mapping[str, float],
        parts: Parts = NO_PARTS,
        pruned: str = "",
        settled: ResolvedTrial | None = None,
        judged: Judged = BY_SCORE,
    ) -> None:
        """Tell the result of a trial, or why it was pruned; its unit of budget is spent.

        Parameters
        ----------
        scores
            What is kept of it, and its value, `score`, if it was not pruned.
        parts
            Scores of parts that are not stored yet.
        """
        state = "pruned" if pruned else "finished"
        with self._fenced(claim, state=state, **_reached(parts)) as c:
            if c is None:
                return
            summary = {**finite(scores), WORKER_KEY: claim.worker_id}
            if pruned:
                summary[PRUNED_KEY] = pruned
            else:
                del summary["score"]
                insert_values(c, claim.trial_id, judged.values or [scores["score"]])
                named = {f"{CONSTRAINTS_KEY}:{name}": by for name, by in judged.violations.items()}
                if named:
                    set_system_attributes(c, self.storage, claim.trial_id, named)
            if settled is not None:
                settle(c, self.storage, claim.trial_id, settled, len(settled.parts) - len(parts))
                parts = {part: settled.parts[part] for part in parts}
            insert_parts(c, claim.trial_id, parts, summary)
            ended = TrialState.PRUNED if pruned else TrialState.COMPLETE
            end_trial(c, claim.trial_id, ended)

    @patient
    def finish_whole(
        self,
        claim: Claim,
        values: Sequence[float],
        writes: TrialWrites,
        pruned: str = "",
        wall_s: float = 0.0,
    ) -> None:
        """Tell the values of a trial, one for each objective, or why it was pruned."""
        state = "pruned" if pruned else "finished"
        with self._fenced(claim, state=state, **_reached(writes)) as c:
            if c is None:
                return
            insert_values(c, claim.trial_id, values)
            summary = {WALL_KEY: wall_s, WORKER_KEY: claim.worker_id}
            told = summary | ({PRUNED_KEY: pruned} if pruned else {})
            whole = replace(writes, user_attrs=writes.user_attrs | told)
            store(c, self.storage, claim.trial_id, whole)
            end_trial(c, claim.trial_id, TrialState.PRUNED if pruned else TrialState.COMPLETE)

    @patient
    def fail(self, claim: Claim, reason: str, unsaved: Unsaved = NO_PARTS) -> None:
        """Give up a trial that its objective refused; its unit goes to another trial.

        Before that it is left to be worked on again, with all that is stored of it, up to
        `max_retry` times.
        """
        again = claim.retried < self.max_retry
        end = {"worker_id": None} if again else {"state": "failed"}
        with self._fenced(claim, **end, **_reached(unsaved)) as c:
            if c is None:
                return
            store(c, self.storage, claim.trial_id, unsaved)
            if not again:
                end_failed(c, claim.trial_id, after_retries(claim, reason))
                return
            attempts = read_attempts(c, claim.trial_id)
            write_attempts(c, claim.trial_id, replace(attempts, retried=claim.retried + 1))
            (unit,) = read_units(c, select_units(CLAIMS.c.trial_id == claim.trial_id))
            unit = unit._replace(worker_id=claim.worker_id)
            self._record_end(c, EventKind.RETRY, unit, reason)
            set_state(c, claim.trial_id, TrialState.WAITING)

    @patient
    def has_ended(self, claim: Claim) -> bool:
        """Whether the trial of a claim is at its end, and was told to be by the claim's worker."""
        its = (CLAIMS.c.trial_id == claim.trial_id, CLAIMS.c.attempt == claim.attempt)
        told = (CLAIMS.c.worker_id == claim.worker_id, CLAIMS.c.state != "open")
        with self.storage.one_statement() as c:
            return bool(read_units(c, select_units(*its, *told)))

    @patient
    def release(self, claim: Claim, unsaved: Unsaved = NO_PARTS, reason: str = INTERRUPTED) -> None:
        """Leave a trial to another worker, who goes on with the next part.

        Its attempt counts if no part was stored, unless somebody ended the study.
        """
        with self._fenced(claim, worker_id=None, **_reached(unsaved)) as c:
            if c is None:
                return
            store(c, self.storage, claim.trial_id, unsaved)
            if reason not in BY_USER and self._wanted(c, "").stop != "now":
                (unit,) = read_units(c, select_units(CLAIMS.c.trial_id == claim.trial_id))
                if self._give_up(c, unit._replace(worker_id=claim.worker_id), reason):
                    return
            set_state(c, claim.trial_id, TrialState.WAITING)

    @patient
    def exceed(
        self, worker_id: str, reason: str, trial: int, then: OnLimit, retries: int = 0
    ) -> None:
        """End a trial that exceeded a limit, and whose worker was ended for it.

        Parameters
        ----------
        trial
            Its number. The worker may have come to the end of it, and have begun another one
            before it was told to leave: that is for another worker.
        then
            What becomes of the trial. A trial that is to be tried again is failed when it has
            exceeded limits more than `retries` times.
        """
        with self.write() as c:
            held = self._open(CLAIMS.c.worker_id == worker_id)
            for unit in read_units(c, held.with_for_update()):
                if unit.number != trial:
                    self._set_unit(c, unit, worker_id=None)
                    set_state(c, unit.trial_id, TrialState.WAITING)
                    continue
                self._record_end(c, EventKind.LIMIT, unit, reason)
                if then is OnLimit.PRUNE:
                    self._set_unit(c, unit, state="pruned")
                    insert_parts(c, unit.trial_id, NO_PARTS, {PRUNED_KEY: reason})
                    end_trial(c, unit.trial_id, TrialState.PRUNED)
                elif then is OnLimit.FAIL:
                    self._fail_unit(c, unit, reason)
                elif not self._give_up(c, unit, reason, retries):
                    self._set_unit(c, unit, worker_id=None)
                    set_state(c, unit.trial_id, TrialState.WAITING)
            self._end_worker(c, worker_id, reason)

    # One transaction's pieces -----------------------------------------------------------------

    def _first_open(self, c: sa.Connection, condition: sa.ColumnElement[bool]) -> Unit:
        """Return the first of the open units that a condition names; there must be one."""
        (unit,) = read_units(c, self._open(condition).limit(1))
        return unit

    def _new_unit(self, c: sa.Connection, worker_id: str, lease_until: float) -> Claim:
        trial_id, number = make_trial(c, self.study_id)
        held = {"attempt": 1, "worker_id": worker_id, "lease_until": lease_until}
        c.execute(CLAIMS.insert(), unit_row(self.study_id, trial_id, number, **held))
        return Claim(trial_id, number, 1, worker_id, None, ())

    def _take(self, c: sa.Connection, unit: Unit, worker_id: str, lease_until: float) -> Claim:
        unit = unit._replace(attempt=unit.attempt + 1, worker_id=worker_id, lease_until=lease_until)
        c.execute(
            CLAIMS.update()
            .where(CLAIMS.c.trial_id == unit.trial_id)
            .values(attempt=unit.attempt, worker_id=worker_id, lease_until=lease_until)
        )
        begin_trial(c, unit.trial_id)
        return self._claim_of(c, unit, worker_id)

    def _claim_of(self, c: sa.Connection, unit: Unit, worker_id: str) -> Claim:
        """Return the claim that a held unit is, with what is stored of its trial."""
        its = TRIALS.c.trial_id == unit.trial_id
        # An earlier attempt of the same worker may have left some.
        self.notes.pop(unit.trial_id, None)
        drawn = read_params(c, self.study_id, its)
        stored = read_attributes(c, self.study_id, its)[unit.trial_id]
        parts: list[Mapping[str, float]] = []
        while part_key(len(parts)) in stored:
            scores = stored[part_key(len(parts))]
            parts.append({k: math.nan if v is None else v for k, v in scores.items()})
        params = drawn[unit.trial_id].params or None
        point = read_point(c, unit.trial_id) if params is None else None
        retried = read_attempts(c, unit.trial_id).retried if self.max_retry else 0
        known = (params, tuple(parts), point, retried)
        return Claim(unit.trial_id, unit.number, unit.attempt, worker_id, *known)

    @contextlib.contextmanager
    def _fenced(self, claim: Claim, **values: Any) -> Iterator[sa.Connection | None]:
        """Change a unit in the name of a claim; refused if the unit has moved on.

        Yields None if it was changed before, by a call whose answer was lost.
        """
        its = {"its_id": claim.trial_id, "its_attempt": claim.attempt}
        told = {f"new_{name}": value for name, value in values.items()}
        told |= {**its, "its_worker": claim.worker_id, "lease_s": self.lease_s}
        with self.write() as c:
            change = _change_held(self.storage.now_sql, tuple(sorted(values)))
            if c.execute(change, told).rowcount == 1:
                if noted := self.notes.get(claim.trial_id):
                    set_system_attributes(c, self.storage, claim.trial_id, noted)
                yield c
            else:
                wanted = {"worker_id": claim.worker_id, "state": "open"} | values
                found = c.execute(select_units(*_MINE), its)
                now = [Unit._make(row)._asdict() for row in found]
                if not any(wanted.items() <= unit.items() for unit in now):
                    raise LostLeaseError(f"trial {claim.number}: attempt {claim.attempt} is over")
                yield None
        # Not before it is committed: until then the call may be repeated.
        self.notes.pop(claim.trial_id, None)

    def _reap_expired(self, c: sa.Connection, now: float) -> None:
        held = self._open(sa.and_(CLAIMS.c.worker_id.is_not(None), self._lease_end() < now))
        # A row that is locked belongs to a worker that is telling something: it lives.
        for unit in read_units(c, held.with_for_update(skip_locked=True)):
            self._reap(c, unit, f"no sign of life for {self.lease_s:g} s")

    def _reap(self, c: sa.Connection, unit: Unit, reason: str) -> None:
        """Free a dead worker's unit, or fail its trial if it has cost too many workers."""
        deaths = unit.deaths + 1
        self._record_end(c, EventKind.DEATH, unit, reason)
        self._set_unit(c, unit, deaths=deaths)
        if deaths >= self.max_deaths:
            self._fail_unit(c, unit, f"{deaths} workers died on it; the last: {reason}")
        elif not self._give_up(c, unit, reason):
            self._set_unit(c, unit, worker_id=None)
            set_state(c, unit.trial_id, TrialState.WAITING)

    def _give_up(
        self, c: sa.Connection, unit: Unit, reason: str, retries: int | None = None
    ) -> bool:
        """Count an attempt that ended; fail its trial, and return True, if there were too many.

        `retries` is told of an attempt that exceeded a limit.
        """
        before = read_attempts(c, unit.trial_id)
        idle = unit.parts == before.parts
        attempts = Attempts(
            unit.parts,
            before.without_progress + 1 if idle else 0,
            before.exceeded + (retries is not None),
            reason,
            before.retried,
        )
        write_attempts(c, unit.trial_id, attempts)
        if retries is not None and attempts.exceeded > retries:
            tried = f"{attempts.exceeded} attempts exceeded a limit; the last: "
            self._fail_unit(c, unit, f"{tried if retries else ''}{reason}")
            return True
        if attempts.without_progress >= self.max_attempts:
            n = attempts.without_progress
            self._fail_unit(c, unit, f"{n} attempts in a row stored no part; the last: {reason}")
            return True
        return False

    def _fail_unit(self, c: sa.Connection, unit: Unit, reason: str) -> None:
        self._set_unit(c, unit, state="failed", worker_id=unit.worker_id)
        end_failed(c, unit.trial_id, reason)

    def _set_unit(self, c: sa.Connection, unit: Unit, **values: Any) -> None:
        c.execute(CLAIMS.update().where(CLAIMS.c.trial_id == unit.trial_id).values(**values))

    def _record_end(self, c: sa.Connection, kind: EventKind, unit: Unit, reason: str) -> None:
        where = {"trial": unit.number, "attempt": unit.attempt, "part": unit.parts}
        told = {"worker": unit.worker_id, "reason": reason}
        self.storage.record_event(c, self.study_id, kind, **where, **told)

    def _limit_of_study(self, c: sa.Connection, now: float) -> bool:
        """Stop the study where it has reached a limit of its own, and return whether it has."""
        if reason := limit_reached(c, self.study_id, now, self.study_s, self.patience):
            self._set_stop(c, "gently", limit=reason)
        return bool(reason)


# The unit of a claim.
_MINE = (
    CLAIMS.c.trial_id == sa.bindparam("its_id"),
    CLAIMS.c.attempt == sa.bindparam("its_attempt"),
)


# To make a statement takes several times as long as to execute it.
@functools.cache
def _change_held(now: sa.ColumnElement[float], columns: Sequence[str]) -> sa.Update:
    """Return the change of some columns of a unit that its claim still holds."""
    new = {name: sa.bindparam(f"new_{name}", type_=CLAIMS.c[name].type) for name in columns}
    held = [CLAIMS.c.worker_id == sa.bindparam("its_worker"), CLAIMS.c.state == "open"]
    if "parts" in new:
        held.append(CLAIMS.c.parts < new["parts"])
    lease_until = now + sa.bindparam("lease_s", type_=sa.Float)
    return CLAIMS.update().where(*_MINE, *held).values(lease_until=lease_until, **new)


def after_retries(claim: Claim, reason: str) -> str:
    """Return why a trial failed that may have been worked on again."""
    return f"{claim.retried + 1} attempts failed; the last: {reason}" if claim.retried else reason


def _reached(unsaved: Unsaved) -> dict[str, int]:
    """Return what a claim's row says once these parts, or reports, are stored."""
    if isinstance(unsaved, TrialWrites):
        return {"parts": unsaved.n_reports} if unsaved.reports else {}
    return {"parts": max(unsaved) + 1} if unsaved else {}
