"""What limits of a study go by: attempts of a trial without progress, trials since the best one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.records import Attempts
from hpo.storage.best import read_best_trials
from hpo.storage.schema import (
    CLAIMS,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIALS,
    WORKERS,
)
from hpo.storage.trial_reader import trials_among

ATTEMPTS_KEY = "hpo:attempts"


def read_attempts(c: sa.Connection, trial_id: int) -> Attempts:
    """Return what is known of the attempts of a trial that have ended."""
    table = TRIAL_SYSTEM_ATTRIBUTES
    query = sa.select(table.c.value_json).where(
        table.c.trial_id == trial_id, table.c.key == ATTEMPTS_KEY
    )
    stored = c.execute(query).scalar_one_or_none()
    return Attempts() if stored is None else Attempts(**json.loads(stored))


def write_attempts(c: sa.Connection, trial_id: int, attempts: Attempts) -> None:
    """Keep what is known of the attempts of a trial."""
    table, text = TRIAL_SYSTEM_ATTRIBUTES, json.dumps(asdict(attempts))
    its = (table.c.trial_id == trial_id, table.c.key == ATTEMPTS_KEY)
    if not c.execute(table.update().where(*its).values(value_json=text)).rowcount:
        c.execute(table.insert().values(trial_id=trial_id, key=ATTEMPTS_KEY, value_json=text))


def read_open_attempts(c: sa.Connection, study_id: int) -> Mapping[int, Attempts]:
    """Return the attempts of the open trials whose last one stored no part, by trial number."""
    table = TRIAL_SYSTEM_ATTRIBUTES
    query = (
        sa.select(CLAIMS.c.number, CLAIMS.c.parts, table.c.value_json)
        .join(table, table.c.trial_id == CLAIMS.c.trial_id)
        .where(CLAIMS.c.study_id == study_id, CLAIMS.c.state == "open", table.c.key == ATTEMPTS_KEY)
        .order_by(CLAIMS.c.number)
    )
    found = [(number, n, Attempts(**json.loads(text))) for number, n, text in c.execute(query)]
    return {
        number: attempts
        for number, n_parts, attempts in found
        # The attempt that goes on may have stored some.
        if attempts.without_progress and attempts.parts == n_parts
    }


def _count_since_best(c: sa.Connection, study_id: int) -> int:
    """Return how many trials were completed after the best one, or the last one of the front."""
    best = read_best_trials(c, study_id)
    if not best:
        return 0
    completed = sa.select(sa.func.max(TRIALS.c.datetime_complete)).where(trials_among(best))
    later = sa.select(sa.func.count()).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == TrialState.COMPLETE,
        sa.not_(trials_among(best)),
        TRIALS.c.datetime_complete >= completed.scalar_subquery(),
    )
    return int(c.execute(later).scalar_one())


def _read_worked_s(c: sa.Connection, study_id: int, now: float) -> float:
    """Return for how many seconds a study had workers: not the time while it was interrupted."""
    until = sa.func.coalesce(WORKERS.c.ended_at, WORKERS.c.seen_at)
    query = sa.select(WORKERS.c.started_at, until).where(WORKERS.c.study_id == study_id)
    total_s, covered_until = 0.0, 0.0
    for began, ended in c.execute(query.order_by(WORKERS.c.started_at)):
        total_s += max(0.0, min(ended, now) - max(began, covered_until))
        covered_until = max(covered_until, ended)
    return total_s


def limit_reached(
    c: sa.Connection, study_id: int, now: float, study_s: float | None, patience: int | None
) -> str:
    """Return which limit of its own a study has reached; "" if none."""
    n_since = _count_since_best(c, study_id) if patience is not None else 0
    if patience is not None and n_since >= patience:
        return f"{n_since} trials without a better one (limits.patience)"
    if study_s is not None:
        worked_s = _read_worked_s(c, study_id, now)
        if worked_s >= study_s:
            return f"worked on for {worked_s:.0f} s (limits.study_s = {study_s:g})"
    return ""
