"""Deletes a study from its storage, unless somebody works on it."""

from __future__ import annotations

import sqlalchemy as sa

from hpo.errors import ConflictError
from hpo.storage.budget import read_counts, read_events
from hpo.storage.deletion import delete_study
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS
from hpo.study.record import StudyRecord
from hpo.study.status import read_open_workers, was_submitted
from hpo.wording import count_of

# After this long a submission has come to its end, or will not.
SUBMITTING_S = 60.0


def delete(record: StudyRecord) -> int:
    """Delete every row of a study, of Optuna's tables and of ours; files stay.

    Returns
    -------
    int
        How many rows there were.

    Raises
    ------
    ConflictError
        If workers live, are wanted on a cluster, or are being submitted.
    """

    def carry_out() -> int:
        with record.storage.write() as c:
            if reason := _why_busy(c, record):
                raise ConflictError(f"study '{record.name}' is not deleted: {reason}", ())
            return delete_study(c, record.study_id)

    return record.storage.patiently(carry_out)


def _why_busy(c: sa.Connection, record: StudyRecord) -> str:
    """Return who still works on a study, and what to do about it; "" if nobody does."""
    stop = f"end them first: hpo stop {record.name} (--now: at once)"
    now = record.storage.now(c)
    alive = [worker for worker in read_open_workers(c, record, now) if worker.alive]
    if alive:
        hosts = ", ".join(sorted({worker.host for worker in alive}))
        number = count_of(len(alive), "worker")
        return (
            f"{number} on {hosts} gave a sign of life within {record.spec.lease_s:g} s; {stop}, "
            "and wait until they have left"
        )
    held = c.execute(
        sa.select(sa.func.count(), sa.func.max(CLAIMS.c.lease_until)).where(
            CLAIMS.c.study_id == record.study_id,
            CLAIMS.c.state == "open",
            CLAIMS.c.worker_id.is_not(None),
            CLAIMS.c.lease_until >= now,
        )
    ).one()
    if held[0]:
        number = count_of(held[0], "trial")
        return f"workers have {number} in hand; {stop}, or wait {held[1] - now:.0f} s"
    settled = {event.get("id") for event in read_events(c, record.study_id, EventKind.SUBMITTED)}
    begun = read_events(c, record.study_id, EventKind.SUBMITTING)
    if any(event["id"] not in settled and now - event["at"] < SUBMITTING_S for event in begun):
        return "another process is submitting workers at this moment; try again in a minute"
    counts, stopped = read_counts(c, record.study_id)
    if was_submitted(c, record.study_id) and stopped is None and not counts.done:
        return f"its workers on a cluster may still wait in the queue; {stop}"
    return ""
