"""Small search spaces, and trials finished without a worker."""

from __future__ import annotations

import importlib
import sqlite3
from pathlib import Path

from hpo.records import Claim
from hpo.spec.space import distributions
from hpo.storage.ledger import Ledger
from tests.support.requirements import unavailable
from tests.support.studies import make_spec

SPACE = distributions(make_spec().space)


def finish_trials(ledger: Ledger, values: list[float]) -> None:
    for value in values:
        claim = ledger.claim("w1")
        assert isinstance(claim, Claim)
        ledger.save_params(claim, {"alpha": value}, SPACE)
        ledger.save_parts(claim, {0: {"score": value, "r2_val": 0.5}})
        ledger.finish(claim, {"score": value, "wall_s": 1.0})


def need(name: str) -> None:
    """Skip where LightGBM lacks the system's OpenMP runtime."""
    if name.startswith("lightgbm"):
        try:
            importlib.import_module("lightgbm")
        except OSError as exc:
            unavailable("libgomp", str(exc))


def claims(name: str, condition: str) -> int:
    """Look into the file itself: cheap enough to ask ten times a second."""
    if not Path("hpo.db").exists():
        return 0
    connection = sqlite3.connect("file:hpo.db?mode=ro", uri=True, timeout=30)
    try:
        query = f"SELECT count(*) FROM hpo_claims JOIN studies USING (study_id) WHERE {condition}"
        return int(connection.execute(f"{query} AND study_name = ?", (name,)).fetchone()[0])
    except sqlite3.OperationalError:  # the tables are being made
        return 0
    finally:
        connection.close()


def finished_trials(name="x") -> int:
    return claims(name, "state = 'finished'")
