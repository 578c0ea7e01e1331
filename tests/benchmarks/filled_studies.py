"""Studies that are filled with finished trials by bulk insertion, for benchmarks of long ones.

Row by row they are what workers store: parameters, part scores, attributes, a unit of budget each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState

from hpo.records import WALL_KEY, WORKER_KEY, Access, WorkerRun, part_key
from hpo.spec.loading import validate
from hpo.spec.space import distributions
from hpo.storage.backends import open_storage
from hpo.storage.schema import ATTRIBUTES, CLAIMS, PARAMS, PART_VALUES, TRIALS, VALUES, store_value
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord

N_PARTS = 5
SPACE: dict[str, Any] = {f"x{k}": {"type": "float", "low": 0.0, "high": 1.0} for k in range(5)} | {
    "depth": {"type": "int", "low": 3, "high": 30},
    "kind": {"type": "categorical", "choices": ["a", "b"]},
}
WORKER, HOLDER = "w", "holder"
_BATCH = 2000
# Long enough for a trial that is to stay with its holder.
_LEASE_S = 1e9
Rows = list[dict[str, Any]]


def begin_study(url: str, name: str = "filled", **fields: Any) -> StudyRecord:
    """Begin a study of seven parameters, without a table, in a storage that is made if absent.

    `fields` are set in its study file; its objective is never called.
    """
    study = {
        "name": name,
        "trials": 10**6,
        "objective": {"name": "tests.support.objectives:Parabola"},
        "space": SPACE,
    }
    spec = validate(study | fields, "benchmark")
    record = begin(open_storage(url, Access.CREATE), spec, Source("x.toml", (), None), None)
    for worker in (WORKER, HOLDER):
        record.ledger.register(worker, WorkerRun("here", 1))
    return record


def draw_params(source: random.Random) -> dict[str, Any]:
    """Draw a point of the space."""
    params: dict[str, Any] = {f"x{k}": source.random() for k in range(5)}
    return params | {"depth": source.randint(3, 30), "kind": source.choice("ab")}


def score_of(params: dict[str, Any]) -> float:
    """Return the score of a point."""
    return float(sum((params[f"x{k}"] - 0.3) ** 2 for k in range(5)))


def fill(record: StudyRecord, n_trials: int, *, running: Collection[int] = ()) -> None:
    """Let a study have so many trials altogether, drawn at random and finished.

    Parameters
    ----------
    record
        A study that `begin_study` began.
    running
        Numbers of new trials that are not finished: `HOLDER` holds them, with parameters and
        without scores, and for as long as anybody looks.
    """
    with record.storage.write() as c:
        mine = TRIALS.c.study_id == record.study_id
        there = c.execute(sa.select(sa.func.count()).select_from(TRIALS).where(mine)).scalar_one()
        source = random.Random(there)
        for first in range(there, n_trials, _BATCH):
            numbers = range(first, min(first + _BATCH, n_trials))
            _insert(c, record, numbers, running, source)


def _insert(
    c: sa.Connection,
    record: StudyRecord,
    numbers: Sequence[int],
    running: Collection[int],
    source: random.Random,
) -> None:
    began = datetime.now(UTC).replace(tzinfo=None)
    trials = [
        {
            "study_id": record.study_id,
            "number": number,
            "state": TrialState.RUNNING if number in running else TrialState.COMPLETE,
            "datetime_start": began,
            "datetime_complete": None if number in running else began + timedelta(seconds=1),
        }
        for number in numbers
    ]
    c.execute(TRIALS.insert(), trials)
    found = sa.select(TRIALS.c.number, TRIALS.c.trial_id).where(
        TRIALS.c.study_id == record.study_id, TRIALS.c.number >= numbers[0]
    )
    ids = {row.number: row.trial_id for row in c.execute(found)}
    space = distributions(record.spec.space)
    stored = {name: distribution_to_json(dimension) for name, dimension in space.items()}
    lease_until = record.storage.now(c) + record.spec.lease_s
    rows: dict[sa.Table, Rows] = {
        table: [] for table in (PARAMS, VALUES, PART_VALUES, ATTRIBUTES, CLAIMS)
    }
    for number in numbers:
        trial_id, params = ids[number], draw_params(source)
        rows[PARAMS] += [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": space[name].to_internal_repr(value),
                "distribution_json": stored[name],
            }
            for name, value in params.items()
        ]
        ended = number not in running
        if ended:
            _add_result(rows, trial_id, score_of(params))
        rows[CLAIMS].append(
            {
                "trial_id": trial_id,
                "study_id": record.study_id,
                "number": number,
                "state": "finished" if ended else "open",
                "attempt": 1,
                "deaths": 0,
                "parts": N_PARTS if ended else 0,
                "worker_id": WORKER if ended else HOLDER,
                "lease_until": lease_until if ended else lease_until + _LEASE_S,
            }
        )
    for table, new in rows.items():
        if new:
            c.execute(table.insert(), new)


def _add_result(rows: dict[sa.Table, Rows], trial_id: int, score: float) -> None:
    """Add what a worker tells of a trial at its end."""
    value, kind = store_value(score)
    rows[VALUES].append({"trial_id": trial_id, "objective": 0, "value": value, "value_type": kind})
    part = {"score": score, WALL_KEY: 0.01}
    rows[PART_VALUES] += [
        {
            "trial_id": trial_id,
            "step": step,
            "intermediate_value": score,
            "intermediate_value_type": "FINITE",
        }
        for step in range(N_PARTS)
    ]
    told: dict[str, Any] = {part_key(step): part for step in range(N_PARTS)}
    told |= {WALL_KEY: 0.05, WORKER_KEY: WORKER}
    rows[ATTRIBUTES] += [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in told.items()
    ]
