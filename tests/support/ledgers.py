"""Every kind of ledger on a bench: what a contract test needs to see and to turn beside its calls.

A kind is a factory in `KINDS`; the contract tests of
tests/hpo/storage/test_ledger.py run over all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hpo.records import WORKER_KEY, Access, part_key
from hpo.simulation.memory_ledger import MemoryLedger, Unit
from hpo.storage.backends import open_storage
from hpo.storage.ledger import DEFAULT_ATTEMPTS, Ledger
from hpo.storage.schema import CLAIMS, WORKERS
from hpo.storage.storage import StudyStorage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from tests.support.studies import make_spec

# What Optuna calls units that are at their end.
ENDED = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Seen:
    """A trial as its ledger left it."""

    trial_id: int
    number: int
    state: TrialState
    params: dict[str, Any]
    values: list[float] | None
    intermediate_values: dict[int, float]
    user_attrs: dict[str, Any]


class Bench(Protocol):
    """A ledger, its trials, and its clock."""

    ledger: Any

    def let_leases_run_out(self) -> None:
        """Let every lease be over."""

    def restart(self, ago_s: float) -> None:
        """Pretend that the store was started this long ago."""

    def trials(self) -> list[Seen]:
        """Return all trials."""

    def places(self) -> dict[int, tuple[str, bool]]:
        """Return the state of each unit by its trial's id, and whether a worker holds it."""

    def close(self) -> None:
        """Take everything down."""


def begin_without_table(url: str, **changes: Any) -> StudyRecord:
    """Begin a study whose objective is never called."""
    without = {"table": None, "cv": None, "estimator": None}
    spec = make_spec(
        **({"objective": {"name": "tests.support.objectives:Parabola"}} | without | changes)
    )
    storage = open_storage(url, Access.CREATE)
    return begin(storage, spec, Source("x.toml", (), None), None)


class SqlBench:
    """A ledger in a database."""

    def __init__(self, url: str, **changes: Any) -> None:
        if "max_attempts" in changes:
            changes["limits"] = {"max_attempts": changes.pop("max_attempts")}
        self.record = begin_without_table(url, **changes)
        self.ledger: Ledger = self.record.ledger
        self.storage: StudyStorage = self.record.storage
        self.mine = CLAIMS.c.study_id == self.record.study_id

    def let_leases_run_out(self) -> None:
        with self.storage.write() as c:
            c.execute(CLAIMS.update().where(self.mine).values(lease_until=0.0))
            its = WORKERS.c.study_id == self.record.study_id
            c.execute(WORKERS.update().where(its).values(seen_at=0.0))

    def restart(self, ago_s: float) -> None:
        self.storage.up_since_sql = self.storage.now_sql - ago_s

    def trials(self) -> list[Seen]:
        found = self.storage.get_all_trials(self.record.study_id, deepcopy=False)
        return [
            Seen(
                t._trial_id,
                t.number,
                t.state,
                t.params,
                t.values,
                t.intermediate_values,
                t.user_attrs,
            )
            for t in found
        ]

    def places(self) -> dict[int, tuple[str, bool]]:
        with self.storage.read() as c:
            rows = c.execute(sa.select(CLAIMS).where(self.mine)).all()
        return {row.trial_id: (row.state, row.worker_id is not None) for row in rows}

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()


class MemoryBench:
    """A ledger in memory, with a clock of its own."""

    def __init__(
        self,
        *,
        trials: int,
        max_deaths: int = 3,
        max_failures: int = 10,
        max_attempts: int = DEFAULT_ATTEMPTS,
        max_retry: int = 0,
    ) -> None:
        self.now = 0.0
        self.ledger = MemoryLedger(
            trials,
            lease_s=60.0,
            max_deaths=max_deaths,
            max_failures=max_failures,
            max_attempts=max_attempts,
            max_retry=max_retry,
            clock=lambda: self.now,
        )

    def let_leases_run_out(self) -> None:
        self.now += self.ledger.lease_s + 1.0

    def restart(self, ago_s: float) -> None:
        self.ledger.up_since = self.now - ago_s

    def trials(self) -> list[Seen]:
        return [_see(unit) for unit in self.ledger.units]

    def places(self) -> dict[int, tuple[str, bool]]:
        return {u.number: (u.state, u.worker_id is not None) for u in self.ledger.units}

    def close(self) -> None:
        pass


def _see(unit: Unit) -> Seen:
    told = dict(unit.scores or {})
    values = [told.pop("score", 0.0)] if told else None
    attributes: dict[str, Any] = {
        part_key(part): {k: None if math.isnan(v) else v for k, v in scores.items()}
        for part, scores in unit.parts.items()
    }
    if values is not None:
        attributes |= told | {WORKER_KEY: unit.worker_id}
    if unit.failure is not None:
        attributes["failure"] = unit.failure
    if unit.pruned is not None:
        values, attributes["pruned"] = None, unit.pruned
    opened = TrialState.RUNNING if unit.worker_id is not None else TrialState.WAITING
    state = {"open": opened, **ENDED}[unit.state]
    scored = {part: scores["score"] for part, scores in unit.parts.items()}
    return Seen(
        unit.number, unit.number, state, dict(unit.params or {}), values, scored, attributes
    )


def make_sqlite_bench(folder: Path, **changes: Any) -> Bench:
    """Return a bench with a ledger in a new SQLite file."""
    return SqlBench(f"sqlite:///{folder / 'hpo.db'}", **changes)


def make_memory_bench(folder: Path, **changes: Any) -> Bench:
    """Return a bench with a ledger in memory."""
    return MemoryBench(**changes)


def make_postgresql_bench(url: str, folder: Path, **changes: Any) -> Bench:
    """Return a bench with a ledger on PostgreSQL; empties what an earlier bench left there."""
    storage = open_storage(url, Access.CREATE)
    with storage.write() as c:
        names = set(sa.inspect(c).get_table_names()) - {"alembic_version", "version_info"}
        c.execute(sa.text(f"TRUNCATE {', '.join(sorted(names))} CASCADE"))
    storage.engine.dispose()
    made = SqlBench(url, **changes)
    # No lease would be over yet: the tests' server is younger than one.
    made.restart(ago_s=1e6)
    return made


# Called with an empty folder, and `trials`, `max_deaths` and `max_failures` of the study.
KINDS: dict[str, Callable[..., Bench]] = {
    "sqlite": make_sqlite_bench,
    "memory": make_memory_bench,
}
ALL_KINDS = [*KINDS, "postgresql"]


def find_kind(kind: str, request: pytest.FixtureRequest) -> Callable[..., Bench]:
    """Return the factory of a kind; a test that asks for PostgreSQL is given a database."""
    if kind == "postgresql":
        url: str = request.getfixturevalue("shared_postgres_url")
        return functools.partial(make_postgresql_bench, url)
    return KINDS[kind]


N_PARTS = 3

SPACE = {"alpha": FloatDistribution(0.0, 1.0)}
