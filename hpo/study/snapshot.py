"""What is known of a study at one moment, read in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import HpoError
from hpo.records import Counts
from hpo.storage.best import read_directions, read_value_names
from hpo.storage.budget import read_counts, read_events
from hpo.storage.events import EventKind
from hpo.storage.schema import (
    EVENTS,
    STUDIES,
    TRIALS,
)
from hpo.storage.trial_reader import read_trials
from hpo.study.record import StudyRecord, StudyRow
from hpo.study.status import BestRow, Status, read_best, read_status

Event = Mapping[str, Any]


@dataclass(frozen=True)
class StudySnapshot:
    """A study at one moment.

    Attributes
    ----------
    record
        The study.
    status
        Counts, stop, workers, failures, deaths, rate and best score.
    events
        What happened to it, oldest first.
    directions, value_names
        How each value of a trial is judged and what it is called; most studies have one.
    best
        The best trial, or of a Pareto front the one whose first value is best; None before there
        is one.
    trials
        Every trial in the order of their numbers; None where they were not asked for.
    marks
        What cannot stay the same when anything of the study changes that a report shows: its row,
        its trials by state, its last event.
    """

    record: StudyRecord
    status: Status
    events: tuple[Event, ...]
    directions: tuple[StudyDirection, ...]
    value_names: tuple[str, ...]
    best: FrozenTrial | None
    trials: tuple[FrozenTrial, ...] | None
    marks: Mapping[str, str]

    @property
    def counts(self) -> Counts:
        """The budget and where its units are."""
        return self.status.counts

    def events_of(self, kind: EventKind) -> list[Event]:
        """Return the events of one kind, oldest first."""
        return [event for event in self.events if event["kind"] == kind]


def take_snapshot(record: StudyRecord, *, trials: bool = False) -> StudySnapshot:
    """Read a study; with all of its `trials`, if they are wanted."""

    def read() -> StudySnapshot:
        with record.storage.read() as c:
            return _read(c, record, with_trials=trials)

    return record.storage.patiently(read)


class EventsNow(NamedTuple):
    """What happened to a study, and the marks of that."""

    told: tuple[Event, ...]
    marks: dict[str, str]


def take_events(record: StudyRecord) -> EventsNow:
    """Read the events of a study once more, for who has just added one."""

    def read() -> EventsNow:
        with record.storage.read() as c:
            events = tuple(read_events(c, record.study_id))
            return EventsNow(events, _mark_events(c, record.study_id))

    return record.storage.patiently(read)


def best_trial(record: StudyRecord, number: int | None = None) -> FrozenTrial:
    """Read the best trial of a study, or the one of that number.

    Raises
    ------
    HpoError
        If no trial has finished, or that one has not.
    """
    with record.storage.read() as c:
        if number is not None:
            its = (TRIALS.c.number == number, TRIALS.c.state == TrialState.COMPLETE)
            found = next(read_trials(c, record.study_id, *its), None)
            if found is None:
                raise HpoError(
                    f"study '{record.name}': it has no complete trial {number}; see: "
                    f"hpo export {record.name}"
                )
            return found
        best = read_best(c, record.study_id)
        if best is None:
            counts, _ = read_counts(c, record.study_id)
            raise HpoError(f"study '{record.name}': {none_is_best(counts)}")
        return _read_trial(c, record.study_id, best)


def trials_of(record: StudyRecord, *states: TrialState) -> list[FrozenTrial]:
    """Read the trials of a study in the order of their numbers: all, or those in some states."""
    chosen = [TRIALS.c.state.in_(states)] if states else []

    def read() -> list[FrozenTrial]:
        with record.storage.read() as c:
            found = read_trials(c, record.study_id, *chosen)
            return sorted(found, key=lambda trial: trial.number)

    return record.storage.patiently(read)


def count_trials(record: StudyRecord, *states: TrialState) -> int:
    """Return how many trials of a study are in some states, units of its budget or not."""
    its = (TRIALS.c.study_id == record.study_id, TRIALS.c.state.in_(states))
    query = sa.select(sa.func.count()).where(*its)

    def read() -> int:
        with record.storage.read() as c:
            return int(c.execute(query).scalar_one())

    return record.storage.patiently(read)


def none_is_best(counts: Counts) -> str:
    """Return why no trial of a study is the best one."""
    if counts.finished > counts.pruned:
        return "no trial that has finished meets the constraints"
    return "no trial has finished"


def _read(c: sa.Connection, record: StudyRecord, *, with_trials: bool) -> StudySnapshot:
    study_id = record.study_id
    status = read_status(c, record)
    directions = read_directions(c, study_id)
    best = read_best(c, study_id, status.front)
    every = sorted(read_trials(c, study_id), key=_by_number) if with_trials else None
    return StudySnapshot(
        record=record,
        status=status,
        events=tuple(read_events(c, study_id)),
        directions=tuple(directions),
        value_names=read_value_names(c, study_id, len(directions)),
        best=None if best is None else _read_trial(c, study_id, best),
        trials=None if every is None else tuple(every),
        marks=_read_marks(c, study_id),
    )


def _read_trial(c: sa.Connection, study_id: int, best: BestRow) -> FrozenTrial:
    return next(read_trials(c, study_id, TRIALS.c.trial_id == best.trial_id))


def _read_marks(c: sa.Connection, study_id: int) -> dict[str, str]:
    states = c.execute(
        sa.select(
            TRIALS.c.state,
            sa.func.count(),
            sa.func.max(TRIALS.c.trial_id),
            sa.func.max(TRIALS.c.datetime_complete),
        )
        .where(TRIALS.c.study_id == study_id)
        .group_by(TRIALS.c.state)
    )
    trials = sorted(
        f"{number} {state.name}, the last one {last_id} at {ended}"
        for state, number, last_id, ended in states
    )
    columns = [STUDIES.c[name] for name in StudyRow._fields]
    row = c.execute(sa.select(*columns, STUDIES.c.stop).where(STUDIES.c.study_id == study_id)).one()
    return {
        "study": hashlib.sha256(repr(tuple(row)).encode()).hexdigest(),
        "trials": "; ".join(trials),
        **_mark_events(c, study_id),
    }


def _mark_events(c: sa.Connection, study_id: int) -> dict[str, str]:
    number, last = c.execute(
        sa.select(sa.func.count(), sa.func.max(EVENTS.c.event_id)).where(
            EVENTS.c.study_id == study_id
        )
    ).one()
    return {"events": f"{number}, the last one {last}"}


def _by_number(trial: FrozenTrial) -> int:
    return trial.number
