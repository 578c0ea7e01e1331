"""The budget of a study: how large it is, where its units are, who may add workers, what happened.

See `hpo.storage.ledger` for the invariants.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.exc import NoResultFound

from hpo.records import FAILURE_KEY, SPENT, Counts
from hpo.storage.enqueued import adopt_waiting, insert_new_points, insert_points, read_unclaimed
from hpo.storage.events import EventKind
from hpo.storage.schema import ATTRIBUTES, CLAIMS, EVENTS, OPTUNA_STUDIES, STUDIES, TRIALS, WORKERS
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_writer import set_state
from hpo.system.processes import awake_s

_P = ParamSpec("_P")
_S = TypeVar("_S", bound="Budget")
_T = TypeVar("_T")

# A transaction that takes this part of a lease, or more, was kept waiting, as all others were.
_LATE = 1.0 / 6.0
_BEGAN = "hpo: a transaction began"


def patient(
    method: Callable[Concatenate[_S, _P], _T],
) -> Callable[Concatenate[_S, _P], _T]:
    """Repeat a method of a budget while the database does not answer."""

    @functools.wraps(method)
    def call(self: _S, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.storage.patiently(lambda: method(self, *args, **kwargs))

    return cast("Callable[Concatenate[_S, _P], _T]", call)


class Unit(NamedTuple):
    """A unit of budget, as `hpo_claims` has it."""

    trial_id: int
    number: int
    state: str
    attempt: int
    deaths: int
    parts: int
    worker_id: str | None
    lease_until: float


class Wanted(NamedTuple):
    """What is wanted of a study, and when one of its workers was said to have ended."""

    budget: int
    stop: str | None
    ended_at: float | None


class BudgetChange(NamedTuple):
    """A change of the budget, and the numbers of the trials that were taken from their workers."""

    before: int
    after: int
    taken: list[int]

    def __str__(self) -> str:
        line = f"budget {self.before} -> {self.after}"
        if self.taken:
            numbers = ", ".join(map(str, self.taken))
            line += f", {len(self.taken)} trials taken from their workers and kept: {numbers}"
        return line


class View(NamedTuple):
    """All that a claim is decided by, at one moment.

    Attributes
    ----------
    now, up_since
        By the database's clock.
    finished, pruned, failed, open, held
        Numbers of units.
    mine
        How many of the held ones the worker holds.
    first_lease_until
        When the first lease of the held ones ends.
    seen_at
        When the worker's own lease was renewed last; None if it is not registered.
    """

    budget: int
    stop: str | None
    ended_at: float | None
    now: float
    up_since: float
    finished: int
    pruned: int
    failed: int
    open: int
    held: int
    mine: int
    first_lease_until: float | None
    seen_at: float | None

    @property
    def counts(self) -> Counts:
        """Where the units are."""
        return Counts(
            self.budget,
            finished=self.finished + self.pruned,
            failed=self.failed,
            held=self.held,
            free=self.open - self.held,
            pruned=self.pruned,
        )


class Budget:
    """The budget of one study in one storage."""

    def __init__(self, storage: StudyStorage, study_id: int, lease_s: float) -> None:
        self.storage, self.study_id, self.lease_s = storage, study_id, lease_s

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one transaction that changes something; an outage is noted in it if it took long.

        Who waits for a locked file, or for a server that stands still, is let in by chance: others
        may have been waiting to renew a lease all the time, and wait on.
        """
        began_s = awake_s()
        with self.storage.write() as c:
            c.info[_BEGAN] = began_s
            yield c
            self._note_if_late(c, began_s)

    def _note_if_late(self, c: sa.Connection, began_s: float) -> None:
        if self._is_late(began_s):
            now, noted = self.storage.now(c), read_last_time(c, self.study_id, EventKind.OUTAGE)
            # All that had to wait for the same reason come one after another.
            if noted is None or abs(now - noted) >= _LATE * self.lease_s:
                self.storage.record_event(c, self.study_id, EventKind.OUTAGE)

    def _is_late(self, began_s: float) -> bool:
        return awake_s() - began_s >= _LATE * self.lease_s

    def _may_judge(self, c: sa.Connection, view: View) -> bool:
        """Whether a worker may say who is dead: nothing has kept those that live from telling so.

        Within a transaction of `write`. Neither who was kept waiting may, nor whose own lease was
        not renewed in time: as when the machine slept, or its launcher was not let in either.
        """
        if view.now - view.up_since < self.lease_s or self._is_late(c.info[_BEGAN]):
            return False
        if view.seen_at is not None and abs(view.now - view.seen_at) >= self.lease_s / 2.0:
            return False
        outage = read_last_time(c, self.study_id, EventKind.OUTAGE)
        return outage is None or abs(view.now - outage) >= self.lease_s

    # What is wanted ---------------------------------------------------------------------------

    @patient
    def set_budget(self, budget: int) -> BudgetChange:
        """Raise or lower the budget of a study, running or finished.

        Trials for which it has no room any more are taken from their workers. What is stored of
        them stays, for a budget that is raised.
        """
        with self.write() as c:
            self._lock(c)
            return self._change_budget(c, budget, by_hand=True)

    def ask_budget(self, c: sa.Connection, asked: int, *, by_hand: bool) -> BudgetChange:
        """Change the budget within a transaction, unless that would be less than set by hand."""
        self._lock(c)
        if asked < self._set_by_hand(c):
            asked, by_hand = self._wanted(c, "").budget, False
        return self._change_budget(c, asked, by_hand=by_hand)

    def _change_budget(self, c: sa.Connection, budget: int, *, by_hand: bool) -> BudgetChange:
        before = self._wanted(c, "").budget
        if before != budget or (by_hand and self._set_by_hand(c) != budget):
            c.execute(
                STUDIES.update().where(STUDIES.c.study_id == self.study_id).values(budget=budget)
            )
            detail = {"before": before, "after": budget, "by_hand": by_hand}
            self.storage.record_event(c, self.study_id, EventKind.BUDGET, **detail)
        # Waits for those that are being told at this moment, and counts them as finished.
        held = read_units(c, self._open(CLAIMS.c.worker_id.is_not(None)).with_for_update())
        room = max(0, budget - self._look(c, "").counts.finished)
        for unit in held[room:]:
            c.execute(
                CLAIMS.update().where(CLAIMS.c.trial_id == unit.trial_id).values(worker_id=None)
            )
            set_state(c, unit.trial_id, TrialState.WAITING)
        return BudgetChange(before, budget, [unit.number for unit in held[room:]])

    def _set_by_hand(self, c: sa.Connection) -> int:
        """Return the budget that was last set by hand; 0 if none was."""
        events = read_events(c, self.study_id, EventKind.BUDGET)
        # Older events do not tell who set it.
        by_hand = [event["after"] for event in events if event.get("by_hand", True)]
        return int(by_hand[-1]) if by_hand else 0

    @patient
    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> list[int]:
        """Have points tried before new ones are drawn, and return the numbers of their trials."""
        with self.write() as c:
            self._lock(c)
            return insert_points(c, self.study_id, points)

    def enqueue_new(self, c: sa.Connection, points: Sequence[Mapping[str, Any]]) -> list[int]:
        """Enqueue points within a transaction, but for those that were enqueued before."""
        self._lock(c)
        return insert_new_points(c, self.study_id, points)

    @patient
    def adopt_enqueued(self) -> list[int]:
        """Let trials be claimed that Optuna enqueued, and return their numbers."""
        # Every launcher asks: one statement, mostly, and no lock.
        with self.storage.one_statement() as c:
            if not read_unclaimed(c, self.study_id):
                return []
        with self.write() as c:
            self._lock(c)
            return adopt_waiting(c, self.study_id)

    @patient
    def stop(self, how: str | None, limit: str = "", unprepared: str = "") -> None:
        """Let no new trial begin (`gently`), or have all trials released too (`now`).

        None lets the study go on. `limit` is what of the study itself stopped it, `unprepared` why
        its preparation failed.
        """
        why = {"limit": limit, "unprepared": unprepared}
        with self.write() as c:
            self._set_stop(c, how, **{key: said for key, said in why.items() if said})

    @patient
    def record_unless_others(
        self, kind: EventKind, detail: Mapping[str, Any], kinds: Collection[EventKind], seen: int
    ) -> bool:
        """Write an event down if there are still as many of some kinds as were seen before.

        Whoever decides by what has happened, and something else happens meanwhile, decides anew.
        `detail` has an `id`, by which it is known again after a lost answer.
        """
        with self.write() as c:
            self._lock(c)
            query = sa.select(EVENTS.c.detail).where(
                EVENTS.c.study_id == self.study_id, EVENTS.c.kind.in_(kinds)
            )
            events = [json.loads(text) for text in c.execute(query).scalars()]
            if any(event.get("id") == detail["id"] for event in events):
                return True
            if len(events) != seen:
                return False
            self.storage.record_event(c, self.study_id, kind, **detail)
        return True

    # What there is ----------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return the budget and where its units are."""
        return self.counts_and_stop()[0]

    @patient
    def counts_and_stop(self) -> tuple[Counts, str | None]:
        """Return where the units are, and how the study was stopped; None if it may go on."""
        with self.storage.read() as c:
            return read_counts(c, self.study_id)

    def stopped(self) -> str | None:
        """Return how the study was stopped; None if it may go on."""
        return self.counts_and_stop()[1]

    @patient
    def progress(self) -> int:
        """Return how many parts of all trials have a stored score."""
        query = sa.select(sa.func.coalesce(sa.func.sum(CLAIMS.c.parts), 0))
        with self.storage.read() as c:
            return int(c.execute(query.where(CLAIMS.c.study_id == self.study_id)).scalar_one())

    def last_failure(self) -> str:
        """Return why the last failed trial failed."""
        failures = self.failures(limit=1)
        return f"trial {failures[0][0]}: {failures[0][1]}" if failures else "none"

    @patient
    def failures(self, limit: int | None = None) -> list[tuple[int, str]]:
        """Return number and reason of the failed trials, the last one first."""
        with self.storage.read() as c:
            return read_failures(c, self.study_id, limit)

    @patient
    def events(self, kind: EventKind | None = None) -> list[dict[str, Any]]:
        """Return what happened to the study, oldest first; of one kind or of all."""
        with self.storage.read() as c:
            return read_events(c, self.study_id, kind)

    @patient
    def record(self, kind: EventKind, detail: Mapping[str, Any]) -> None:
        """Write down something that must not be forgotten."""
        with self.write() as c:
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

    def _set_stop(self, c: sa.Connection, how: str | None, **why: str) -> None:
        """Stop the study, or let it go on; `why` is `limit` if a limit of the study ended it."""
        if self._wanted(c, "").stop != how:
            c.execute(STUDIES.update().where(STUDIES.c.study_id == self.study_id).values(stop=how))
            self.storage.record_event(c, self.study_id, EventKind.STOP, how=how, **why)

    def _wanted(self, c: sa.Connection, worker_id: str) -> Wanted:
        asked = {"asking": worker_id, "its_study": self.study_id}
        return Wanted._make(c.execute(_SELECT_WANTED, asked).one())

    def _look(self, c: sa.Connection, worker_id: str) -> View:
        """Return in one statement all that a claim is decided by."""
        asked = {"asking": worker_id, "its_study": self.study_id, "lease_s": self.lease_s}
        query = _select_view(self.storage.now_sql, self.storage.up_since_sql)
        return View._make(c.execute(query, asked).one())

    def _lease_end(self) -> sa.ColumnElement[float]:
        """Return when the lease of a held unit ends."""
        return _lease_end(self.storage.now_sql, sa.literal(self.lease_s))

    def _open(self, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Select the open units that a condition names, in the order of their numbers."""
        return (
            select_units(CLAIMS.c.study_id == self.study_id, CLAIMS.c.state == "open")
            .where(condition)
            .order_by(CLAIMS.c.number)
        )


# To make a statement takes up to twenty times as long as to execute it: these are made once.
_ASKING = sa.bindparam("asking", type_=WORKERS.c.worker_id.type)
_STUDY = sa.bindparam("its_study", type_=STUDIES.c.study_id.type)
_SELECT_WANTED = sa.select(
    STUDIES.c.budget,
    STUDIES.c.stop,
    sa.select(WORKERS.c.ended_at).where(WORKERS.c.worker_id == _ASKING).scalar_subquery(),
).where(STUDIES.c.study_id == _STUDY)


@functools.cache
def _select_view(now: sa.ColumnElement[float], up_since: sa.ColumnElement[float]) -> sa.Select[Any]:
    """Select a `View`."""
    ours = CLAIMS.c.study_id == _STUDY
    is_open = sa.and_(ours, CLAIMS.c.state == "open")

    def count(state: str) -> sa.ScalarSelect[int]:
        found = sa.select(sa.func.count()).where(ours, CLAIMS.c.state == state)
        return found.select_from(CLAIMS).scalar_subquery()

    def of_open(what: sa.ColumnElement[_T]) -> sa.ScalarSelect[_T]:
        return sa.select(what).where(is_open).scalar_subquery()

    lease_end = _lease_end(now, sa.bindparam("lease_s", type_=sa.Float))
    return _SELECT_WANTED.add_columns(
        now,
        up_since,
        *map(count, ("finished", "pruned", "failed", "open")),
        of_open(sa.func.count(CLAIMS.c.worker_id)),
        of_open(sa.func.count().filter(CLAIMS.c.worker_id == _ASKING)),
        of_open(sa.func.min(lease_end).filter(CLAIMS.c.worker_id.is_not(None))),
        sa.select(WORKERS.c.seen_at).where(WORKERS.c.worker_id == _ASKING).scalar_subquery(),
    )


def _lease_end(
    now: sa.ColumnElement[float], lease_s: sa.ColumnElement[float]
) -> sa.ColumnElement[float]:
    """Return when the lease of a held unit ends.

    It is renewed by its worker's launcher and by what the worker stores: one that was halted with
    its launcher may take a trial before that has renewed anything. A lease that lasts longer than
    any is of the time before the database's clock was set back.
    """
    own = sa.select(WORKERS.c.seen_at + lease_s)
    of_worker = own.where(WORKERS.c.worker_id == CLAIMS.c.worker_id).correlate(CLAIMS)
    longest = now + 2.0 * lease_s
    renewed, told = (
        sa.case((end <= longest, end), else_=0.0)
        for end in (of_worker.scalar_subquery(), CLAIMS.c.lease_until)
    )
    return sa.case((renewed > told, renewed), else_=told)


def select_units(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the columns of `Unit`."""
    return sa.select(*(CLAIMS.c[name] for name in Unit._fields)).where(*where)


def read_units(c: sa.Connection, query: sa.Select[Any]) -> list[Unit]:
    """Return the units that `select_units` selects."""
    return [Unit._make(row) for row in c.execute(query)]


def read_counts(c: sa.Connection, study_id: int) -> tuple[Counts, str | None]:
    """Return where a study's units are, and how it was told to stop; None if it may go on."""
    # In the order of an index: counted as it is read.
    by = (STUDIES.c.budget, STUDIES.c.stop, CLAIMS.c.state)
    query = (
        sa.select(*by, sa.func.count(CLAIMS.c.trial_id), sa.func.count(CLAIMS.c.worker_id))
        .outerjoin(CLAIMS, CLAIMS.c.study_id == STUDIES.c.study_id)
        .where(STUDIES.c.study_id == study_id)
        .group_by(*by)
    )
    rows = c.execute(query).all()
    if not rows:
        raise NoResultFound
    units = Counter({state: number for _, _, state, number, _ in rows})
    held = sum(number for _, _, state, _, number in rows if state == "open")
    spent = sa.select(sa.func.count()).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state.in_([TrialState.COMPLETE, TrialState.PRUNED]),
    )
    finished = sum(units[state] for state in SPENT)
    counts = Counts(
        rows[0].budget,
        finished=finished,
        failed=units["failed"],
        held=held,
        free=units["open"] - held,
        pruned=units["pruned"],
        outside=max(0, int(c.execute(spent).scalar_one()) - finished),
    )
    return counts, rows[0].stop


def read_failures(
    c: sa.Connection, study_id: int, limit: int | None = None
) -> list[tuple[int, str]]:
    """Return number and reason of the failed trials, the last one first."""
    failed = (
        sa.select(CLAIMS.c.trial_id, CLAIMS.c.number)
        .where(CLAIMS.c.study_id == study_id, CLAIMS.c.state == "failed")
        .order_by(CLAIMS.c.number.desc())
        .limit(limit)
        .subquery()
    )
    query = (
        sa.select(failed.c.number, ATTRIBUTES.c.value_json)
        .join(ATTRIBUTES, ATTRIBUTES.c.trial_id == failed.c.trial_id)
        .where(ATTRIBUTES.c.key == FAILURE_KEY)
        .order_by(failed.c.number.desc())
    )
    return [(number, json.loads(reason)) for number, reason in c.execute(query)]


def read_last_stop(c: sa.Connection, study_id: int) -> dict[str, Any]:
    """Return the last event by which a study was stopped or went on; empty if there is none."""
    stops = read_events(c, study_id, EventKind.STOP)
    return stops[-1] if stops else {}


def read_last_time(c: sa.Connection, study_id: int, kind: EventKind) -> float | None:
    """Return when something happened last, also if the clock was set back since; None if never."""
    query = sa.select(EVENTS.c.at).where(EVENTS.c.study_id == study_id, EVENTS.c.kind == kind.value)
    found = c.execute(query.order_by(EVENTS.c.event_id.desc()).limit(1)).scalar_one_or_none()
    return None if found is None else float(found)


def read_events(
    c: sa.Connection, study_id: int, kind: EventKind | None = None
) -> list[dict[str, Any]]:
    """Return what happened to a study, oldest first; of one kind or of all.

    An event is `at`, `kind`, and what was written down of it, which depends on its kind.
    """
    query = sa.select(EVENTS.c.at, EVENTS.c.kind, EVENTS.c.detail).order_by(EVENTS.c.event_id)
    query = query.where(EVENTS.c.study_id == study_id)
    if kind is not None:
        query = query.where(EVENTS.c.kind == kind.value)
    return [{"at": at, "kind": name, **json.loads(detail)} for at, name, detail in c.execute(query)]
