"""Costs of the ledger's calls: statements, counted on a real database.

Each call is made once on a temporary SQLite file. What a sampler reads to draw parameters is not
among them.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection

from hpo.records import Access, Claim, WorkerRun
from hpo.storage.backends import open_storage
from hpo.storage.ledger import Ledger
from hpo.storage.schema import STUDIES
from hpo.storage.storage import StudyStorage


@dataclass(frozen=True)
class Price:
    """What one call costs: SQL statements within transactions, and the transactions."""

    statements: int
    transactions: int


@functools.cache
def price_calls() -> Mapping[str, Price]:
    """Return the price of each kind of call.

    A claim has three: `claim` takes a new unit, `claim again` one that another worker left, and
    `claim without a trial` is told to wait or to leave.
    """
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{Path(folder) / 'priced.db'}", Access.CREATE)
        try:
            return _price_calls(storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _price_calls(storage: StudyStorage) -> dict[str, Price]:
    ledger = _open_ledger(storage, budget=2)
    scores = {"score": 0.0, "wall_s": 0.0}
    prices: dict[str, Price] = {}
    with _counting(storage.engine) as counted:

        def price(kind: str, call: Callable[[], Any]) -> Any:
            counted.clear()
            answer = call()
            transactions = sum(statement.startswith("BEGIN") for statement in counted)
            prices[kind] = Price(len(counted) - transactions, transactions)
            return answer

        price("register", lambda: ledger.register("a", WorkerRun("host", 1)))
        claim: Claim = price("claim", lambda: ledger.claim("a"))
        price("save_params", lambda: ledger.save_params(claim, {"x": 0.5}, _SPACE))
        price("save", lambda: ledger.save(claim, {0: scores}))
        price("beat", lambda: ledger.beat(["a"]))
        price("release", lambda: ledger.release(claim))
        again: Claim = price("claim again", lambda: ledger.claim("a"))
        ledger.register("b", WorkerRun("host", 2))
        other = ledger.claim("b")
        price("claim without a trial", lambda: ledger.claim("c"))
        price("finish", lambda: ledger.finish(again, scores, {1: scores}))
        assert isinstance(other, Claim)
        price("fail", lambda: ledger.fail(other, "refused"))
        price("deregister", lambda: ledger.deregister("a", "done"))
    return prices


_SPACE = {"x": FloatDistribution(0.0, 1.0)}


def _open_ledger(storage: StudyStorage, budget: int) -> Ledger:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "priced")
    with storage.write() as c:
        c.execute(
            STUDIES.insert().values(
                study_id=study_id,
                budget=budget,
                spec="{}",
                fingerprint="{}",
                provenance="{}",
                created_at=0.0,
            )
        )
    return Ledger(storage, study_id, lease_s=60.0, max_deaths=1, max_failures=1)


@contextlib.contextmanager
def _counting(engine: sa.Engine) -> Iterator[list[str]]:
    """Collect every statement that is sent, the beginnings of transactions among them."""
    statements: list[str] = []

    def collect(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", collect)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", collect)
