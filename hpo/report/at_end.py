"""Writes the report of a study that ended where nobody waits for it, as on a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from hpo.errors import HpoError
from hpo.report.freshness import is_drawn
from hpo.report.study_page import write_report
from hpo.storage.events import EventKind
from hpo.study.record import StudyRecord
from hpo.study.report_folder import report_folder
from hpo.study.snapshot import take_snapshot

# How long one process may draw before another one takes its place.
DRAWING_S = 900.0


def write_when_finished(
    record: StudyRecord, reports_dir: Path, log: Callable[[str], None]
) -> Path | None:
    """Write the report of a study that is finished, unless it is there or is being written.

    Of many processes that see the end of a study one writes; not before the baseline is scored, of
    which the launcher of that worker sees the end. Whatever goes wrong is told to `log`,
    and is no failure of who calls: the trials are stored.

    Returns
    -------
    Path or None
        The page, if this process wrote it.
    """
    try:
        return _write(record, reports_dir)
    except HpoError as exc:
        reason = str(exc)
    except Exception as exc:  # a user's objective, or a figure, may raise anything
        reason = repr(exc)
    log(f"no report: {reason}; write it with: hpo report {record.name}")
    return None


def _write(record: StudyRecord, reports_dir: Path) -> Path | None:
    finished = record.ledger.counts()
    if not finished.done:
        return None
    snapshot = take_snapshot(record)
    if snapshot.status.scores_baseline or is_drawn(snapshot, report_folder(record, reports_dir)):
        return None
    if not _is_first(record, finished.finished):
        return None
    return write_report(record, reports_dir)


def _is_first(record: StudyRecord, n_finished: int) -> bool:
    """Write down that this process draws the page; False if another one does."""
    ledger, kind = record.ledger, EventKind.REPORTING
    before = ledger.events(kind)
    with record.storage.read() as c:
        now = record.storage.now(c)
    if any(e["finished"] == n_finished and now - e["at"] < DRAWING_S for e in before):
        return False
    detail = {"id": uuid.uuid4().hex, "finished": n_finished}
    return ledger.record_unless_others(kind, detail, [kind], len(before))
