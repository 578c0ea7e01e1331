"""Who works on a study: registered, renewed by one statement of their launcher, gone."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from hpo.records import SPENT, Beat, Counts, WorkerRun
from hpo.storage.budget import Budget, patient
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS, STUDIES, WORKERS
from hpo.system.processes import awake_s


class Workers(Budget):
    """The workers of one study, beside its budget."""

    @patient
    def register(self, worker_id: str, run: WorkerRun) -> None:
        """Write down that a worker has come."""
        row = vars(run) | {"provenance": json.dumps(run.provenance)}
        with self.write() as c:
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

    @patient
    def deregister(self, worker_id: str, outcome: str) -> None:
        """Write down that a worker has gone of its own will."""
        with self.write() as c:
            self._end_worker(c, worker_id, outcome)

    @patient
    def beat(self, worker_ids: Collection[str]) -> Beat:
        """Renew the leases of workers, in one statement."""
        its = CLAIMS.c.study_id == self.study_id
        held = (CLAIMS.c.state == "open", CLAIMS.c.worker_id.is_not(None))
        others = CLAIMS.c.worker_id.not_in(sorted(worker_ids))

        def count(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
            return sa.select(sa.func.count()).where(its, *where).scalar_subquery()

        def of_study(column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
            return sa.select(column).where(STUDIES.c.study_id == self.study_id).scalar_subquery()

        renewed = (
            WORKERS.update()
            .where(WORKERS.c.worker_id.in_(sorted(worker_ids)), WORKERS.c.ended_at.is_(None))
            .values(seen_at=self.storage.now_sql)
            .returning(
                WORKERS.c.worker_id,
                WORKERS.c.seen_at,
                of_study(STUDIES.c.budget),
                of_study(STUDIES.c.stop),
                count(CLAIMS.c.state.in_(SPENT)),
                count(CLAIMS.c.state == "failed"),
                count(*held),
                count(CLAIMS.c.state == "open", CLAIMS.c.worker_id.is_(None)),
                count(CLAIMS.c.state == "pruned"),
                # Databases differ in whether this sees what the statement has just renewed.
                count(*held, others, self._lease_end() < self.storage.now_sql),
            )
        )
        began_s = awake_s()
        with self.storage.one_statement() as c:
            rows = c.execute(renewed).all()
            self._note_if_late(c, began_s)
        dismissed = frozenset(worker_ids) - {row[0] for row in rows}
        if not rows:
            return Beat(math.nan, None, dismissed, None)
        now, budget, stop, *counts, silent = rows[0][1:]
        return Beat(now, stop, dismissed, Counts(budget, *counts), silent)

    def note_outage(self) -> None:
        """Let nobody's lease be judged for the length of one: it could not be renewed in time."""
        self.record(EventKind.OUTAGE, {})

    def lives(self, c: sa.Connection, worker_id: str, judge: str) -> bool:
        """Whether a worker may live, as far as another one can tell within a `write`."""
        its = (WORKERS.c.worker_id == worker_id, WORKERS.c.ended_at.is_(None))
        seen_at = c.execute(sa.select(WORKERS.c.seen_at).where(*its)).scalar_one_or_none()
        if seen_at is None:
            return False
        view = self._look(c, judge)
        return abs(view.now - seen_at) < self.lease_s or not self._may_judge(c, view)

    def _end_worker(self, c: sa.Connection, worker_id: str, outcome: str) -> bool:
        ended = c.execute(
            WORKERS.update()
            .where(WORKERS.c.worker_id == worker_id, WORKERS.c.ended_at.is_(None))
            .values(ended_at=self.storage.now(c), outcome=outcome)
        )
        return ended.rowcount == 1
