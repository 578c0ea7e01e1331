"""What is done once for a study: its preparation, for which all workers wait, and its baseline."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import FailedStudyError, LostLeaseError, ObjectiveError, StopRequested
from hpo.objectives.protocol import Objective
from hpo.objectives.scores import is_number, shown
from hpo.objectives.told import baseline_of, has, set_prepared
from hpo.records import WALL_KEY, Answer
from hpo.redaction import redact
from hpo.storage.events import EventKind
from hpo.storage.trial_writer import finite
from hpo.study.preparation import SharedWork
from hpo.study.record import StudyRecord
from hpo.study.told import (
    BASELINE,
    BASELINE_PARAMS,
    BASELINE_PART,
    BASELINE_RESULT,
    PREPARATION,
    PREPARED,
    Baseline,
    part_name,
    read_prepared,
    read_told,
)
from hpo.worker.checked_objective import CheckedObjective
from hpo.worker.loop import sum_up

_log = logging.getLogger(__name__)
# Progress is not stored and logged more often.
PROGRESS_S = 5.0


@dataclass(frozen=True)
class Wait:
    """Another worker prepares the study; look again after this long."""

    seconds: float


@dataclass(frozen=True)
class Prepare:
    """The study is to be prepared; answered with the result as JSON."""

    folder: Path
    progress: Progress


@dataclass(frozen=True)
class ScoreBaseline:
    """A part of the baseline is to be scored; answered with its scores, and `wall_s` among them.

    Attributes
    ----------
    before_s
        How long the parts that are scored took.
    """

    params: Mapping[str, Any]
    part: int
    before_s: float


class Progress:
    """What `prepare` tells how far it is by; stores it now and then.

    Parameters
    ----------
    undisturbed
        Makes a context in which no signal interrupts.
    """

    def __init__(
        self,
        work: SharedWork,
        undisturbed: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._work, self._undisturbed = work, undisturbed
        self._last: tuple[float, float] | None = None
        self._stored: tuple[float, float] | None = None
        self._told_at = -math.inf

    def __call__(self, done: float, total: float) -> None:
        """Take in that `done` of `total` units are done."""
        for name, value in (("done", done), ("total", total)):
            if not is_number(value) or not 0.0 <= float(value) < math.inf:
                raise ObjectiveError(f"progress: {name} must be 0 or more, is {shown(value)}")
        self._last = min(float(done), float(total)), float(total)
        if time.monotonic() - self._told_at >= PROGRESS_S:
            with self._undisturbed():
                self.store()

    def store(self) -> None:
        """Store what was told last."""
        if self._last is None or self._last == self._stored:
            return
        self._told_at = time.monotonic()
        try:
            self._work.advance(*self._last)
        except LostLeaseError as exc:
            # No objective can swallow it.
            raise StopRequested(str(exc)) from exc
        self._stored = self._last
        _log.info("prepared: %g of %g", *self._last)


Steps = Generator[Wait | Prepare | ScoreBaseline, Any, Answer | None]


def get_ready(
    record: StudyRecord,
    objective: Objective,
    worker_id: str,
    folder: Path,
    undisturbed: Callable[[], contextlib.AbstractContextManager[None]],
    poll_s: float,
) -> Steps:
    """Prepare the study, or wait until somebody else has; then hand the objective the result.

    Returns why there is nothing to do any more, or None.

    Raises
    ------
    FailedStudyError
        If the preparation raised anything; the study is stopped.
    ObjectiveError
        If the objective does not take the result.
    """
    if not has(objective, "prepare"):
        return None
    work = SharedWork(record, PREPARATION, worker_id)
    pause_s = min(0.5, poll_s)
    while (prepared := read_prepared(record.storage, work.key)) is None:
        counts, stop = record.ledger.counts_and_stop()
        if stop is not None or counts.done:
            return Answer.DONE if counts.done else Answer.STOPPED
        try:
            if not work.take():
                yield Wait(pause_s)
                pause_s = min(poll_s, 1.5 * pause_s)
                continue
            yield from _prepare(work, folder / work.key.made_of, Progress(work, undisturbed))
        except LostLeaseError as exc:
            _log.warning("%s", exc)
        except ObjectiveError as exc:
            reason = redact(str(exc))
            work.forget_attempts()
            record.ledger.stop("gently", unprepared=reason)
            _log.error("the preparation failed: %s", reason, exc_info=exc.__cause__)
            raise FailedStudyError(
                f"study '{record.name}': the preparation failed: {reason}; when that is mended: "
                f"hpo resume {record.name}"
            ) from exc
    set_prepared(objective, prepared)
    return None


def _prepare(work: SharedWork, folder: Path, progress: Progress) -> Steps:
    started = time.monotonic()
    try:
        prepared = yield Prepare(folder, progress)
    except StopRequested:
        with contextlib.suppress(LostLeaseError, StopRequested):
            progress.store()
        raise
    wall_s = time.monotonic() - started
    work.finish(PREPARED, prepared, EventKind.PREPARED, wall_s=round(wall_s, 3))
    _log.info("the study is prepared, in %.1f s", wall_s)
    return None


def score_baseline(
    record: StudyRecord, objective: Objective, checked: CheckedObjective, worker_id: str
) -> Steps:
    """Score the baseline, unless it is scored, or another worker that lives scores it.

    What goes wrong is stored, and is no failure of the study.
    """
    asked = record.spec.baseline
    if asked is None and not has(objective, "baseline"):
        return None
    work = SharedWork(record, BASELINE, worker_id)
    before = _read(work)
    another = before is not None and asked is not None and asked != before.params
    if before is not None and not another and (before.scores or before.failure):
        return None
    result: dict[str, Any] = {}
    try:
        if not work.take():
            return None
        if another:
            work.forget(
                BASELINE_PARAMS, BASELINE_RESULT, *map(part_name, range(len(checked.parts)))
            )
        params = (baseline_of(objective) or {}) if asked is None else asked
        result["scores"] = finite((yield from _score(work, checked, params)))
    except LostLeaseError as exc:
        _log.warning("%s", exc)
        return None
    except ObjectiveError as exc:
        result["failure"] = redact(str(exc))
        _log.warning("the baseline has no score: %s", exc, exc_info=exc.__cause__)
    told = {"score": result["scores"]["score"]} if "scores" in result else result
    work.finish(BASELINE_RESULT, json.dumps(result), EventKind.BASELINE, **told)
    return None


def _score(
    work: SharedWork, checked: CheckedObjective, params: Mapping[str, Any]
) -> Generator[ScoreBaseline, Any, Mapping[str, Any]]:
    work.keep(BASELINE_PARAMS, json.dumps(params))
    stored = _read(work)
    assert stored is not None
    work.advance(stored.n_parts, len(checked.parts))
    parts = [{k: math.nan if v is None else v for k, v in part.items()} for part in stored.parts]
    for part in range(len(parts), len(checked.parts)):
        before_s = math.fsum(scores[WALL_KEY] for scores in parts)
        scores = yield ScoreBaseline(stored.params, part, before_s)
        parts.append(scores)
        work.keep(part_name(part), json.dumps(finite(scores)))
        work.advance(part + 1, len(checked.parts))
        _log.info("baseline: %s scored %.6g", checked.parts[part], scores["score"])
    scores, settled = sum_up(checked, parts, "")
    if settled is not None:
        # As those of a trial: without what was only kept to settle them.
        work.forget(BASELINE_PART)
        for part, kept in enumerate(settled.parts):
            work.keep(part_name(part), json.dumps(finite(kept)))
    return scores


def _read(work: SharedWork) -> Baseline | None:
    def read() -> Baseline | None:
        with work.record.storage.read() as c:
            return read_told(c, work.key, parts=True).baseline

    return work.record.storage.patiently(read)
