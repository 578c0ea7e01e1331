"""Work that is done once for a study: which of its workers does it, and what has come of it.

Who works on it stands in an attribute of the study, which is taken, advanced and left by comparing
it with what was read. Whether that worker lives is told by the table of workers: its launcher
renews its lease, and ends its row when it dies.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace

import sqlalchemy as sa

from hpo.errors import LostLeaseError, ObjectiveError
from hpo.storage.events import EventKind
from hpo.storage.schema import SYSTEM_ATTRIBUTES
from hpo.storage.trial_writer import replace_study_attribute
from hpo.study.record import StudyRecord
from hpo.study.told import (
    BASELINE,
    BASELINE_RESULT,
    PREPARATION,
    Work,
    key_of,
    read_text,
    store_once,
)

_log = logging.getLogger(__name__)


class SharedWork:
    """Work for all of a study, as one of its workers sees it.

    Parameters
    ----------
    what
        `hpo.study.told.PREPARATION` or `BASELINE`.
    """

    def __init__(self, record: StudyRecord, what: str, worker_id: str) -> None:
        self.record, self.worker_id = record, worker_id
        self.key = key_of(record.study_id, record.fingerprint)
        self._what = what
        self._mine: Work | None = None

    def take(self) -> bool:
        """Take the work, and return True; False if a worker that lives has it.

        Raises
        ------
        ObjectiveError
            If too many attempts in a row made no progress.
        """
        dead = ""

        def try_to() -> bool:
            nonlocal dead
            with self.record.ledger.write() as c:
                text = read_text(c, self.key, self._what)
                before = Work() if text is None else Work(**json.loads(text))
                if before.worker == self.worker_id:  # The answer to an earlier call was lost.
                    self._mine = before
                    return True
                if before.worker is not None:
                    if self.record.ledger.lives(c, before.worker, self.worker_id):
                        return False
                    dead = before.worker
                went_on = before.done > before.began
                attempts = 1 if went_on else before.attempts + 1
                mine = replace(before, worker=self.worker_id, began=before.done, attempts=attempts)
                return self._replace(c, text, mine)

        taken = self.record.storage.patiently(try_to)
        if dead and taken:
            # One that was taken for dead has to leave, should it come back.
            self.record.ledger.reap(dead, "another worker does its work")
        if taken and self._mine is not None:
            most = self.record.spec.limits.max_attempts
            if self._mine.attempts > most:
                raise ObjectiveError(f"{most} attempts in a row made no progress")
            _log.info("%s: attempt %d begins", self._what, self._mine.attempts)
        return taken

    def advance(self, done: float, total: float) -> None:
        """Store how far the work is.

        Raises
        ------
        LostLeaseError
            If another worker has taken it.
        """
        mine = self._mine
        if mine is None:
            raise LostLeaseError(f"{self._what}: taken over")
        now = replace(mine, done=done, total=total)

        def store() -> bool:
            with self.record.storage.write() as c:
                # The answer to an earlier call may have been lost.
                return self._replace(c, _text(mine), now) or self._is(c, now)

        if not self.record.storage.patiently(store):
            self._mine = None
            raise LostLeaseError(f"{self._what}: taken over")

    def keep(self, what: str, text: str) -> None:
        """Store something of the work, unless it is there."""

        def store() -> None:
            with self.record.storage.write() as c:
                store_once(c, self.record.storage, self.key, what, text)

        self.record.storage.patiently(store)

    def forget(self, *what: str) -> None:
        """Remove all that is stored of the work under names that begin so."""
        table = SYSTEM_ATTRIBUTES
        its = table.c.study_id == self.key.study_id
        named = [table.c.key.startswith(self.key.name(one), autoescape=True) for one in what]

        def remove() -> None:
            with self.record.storage.write() as c:
                c.execute(table.delete().where(its, sa.or_(*named)))

        self.record.storage.patiently(remove)

    def finish(self, what: str, text: str, kind: EventKind, **detail: object) -> None:
        """Store what has come of the work, unless somebody else's result is there."""

        def store() -> None:
            with self.record.storage.write() as c:
                if store_once(c, self.record.storage, self.key, what, text):
                    told = {"worker": self.worker_id, **detail}
                    self.record.storage.record_event(c, self.key.study_id, kind, **told)

        self.record.storage.patiently(store)

    def forget_attempts(self) -> None:
        """Let whoever takes it next begin to count anew."""
        mine = self._mine
        if mine is not None:

            def store() -> None:
                with self.record.storage.write() as c:
                    self._replace(c, _text(mine), replace(mine, attempts=0))

            self.record.storage.patiently(store)

    def _replace(self, c: sa.Connection, before: str | None, now: Work) -> bool:
        storage, (study_id, _) = self.record.storage, self.key
        name = self.key.name(self._what)
        replaced = replace_study_attribute(c, storage, study_id, name, before, _text(now))
        if replaced:
            self._mine = now
        return replaced

    def _is(self, c: sa.Connection, now: Work) -> bool:
        if read_text(c, self.key, self._what) != _text(now):
            return False
        self._mine = now
        return True


def fail_baseline(record: StudyRecord, worker_id: str, reason: str) -> None:
    """Store why the baseline has no score: its worker was ended for it."""
    told = {"failure": reason}
    work = SharedWork(record, BASELINE, worker_id)
    work.finish(BASELINE_RESULT, json.dumps(told), EventKind.BASELINE, **told)


def progress_of(record: StudyRecord) -> float:
    """Return a number that grows with all that workers store: parts of trials, work for all."""
    key = key_of(record.study_id, record.fingerprint)

    def read() -> float:
        with record.storage.read() as c:
            found = (read_text(c, key, what) for what in (PREPARATION, BASELINE))
            return sum(Work(**json.loads(text)).done for text in found if text is not None)

    return record.ledger.progress() + record.storage.patiently(read)


def _text(work: Work) -> str:
    return json.dumps(asdict(work))
