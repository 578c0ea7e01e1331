"""Small search spaces, and trials finished without a worker."""

from __future__ import annotations

import copy
import importlib
import math
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

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
        ledger.save(claim, {0: {"score": value, "r2_val": 0.5}})
        ledger.finish(claim, {"score": value, "wall_s": 1.0})


def show_failed(trials: Sequence[FrozenTrial], *, maximise: bool = False) -> list[FrozenTrial]:
    """Return trials as samplers are to see them: failed ones that have parameters as bad ones.

    The latest of them, and so many that complete ones are still a tenth of all or 25.
    """
    sign = -1.0 if maximise else 1.0
    values = [sign * t.values[0] for t in trials if t.state is TrialState.COMPLETE]
    n_scored = len(values) + sum(trial.state is TrialState.PRUNED for trial in trials)
    failed = [trial for trial in trials if trial.state is TrialState.FAIL and trial.params]
    failed.sort(key=lambda trial: (trial.number, trial._trial_id))
    n_shown = len(failed) if len(values) >= 25 else max(0, 10 * len(values) - n_scored)
    shown = {trial._trial_id for trial in failed[len(failed) - min(n_shown, len(failed)) :]}
    bad = math.nextafter(max(filter(math.isfinite, values), default=0.0), math.inf)
    seen = [copy.copy(trial) for trial in trials]
    for trial in seen:
        if trial._trial_id in shown:
            trial.state, trial.values = TrialState.COMPLETE, [sign * bad]
    return seen


def draw_by_tpe(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], seed: int
) -> dict[str, Any]:
    """Return what plain Optuna draws beside trials that it is given as samplers are to see them."""
    study = optuna.create_study(sampler=TPESampler(seed=seed, n_startup_trials=10))
    # One that waits would be taken for the next one.
    seen = [trial for trial in show_failed(trials) if trial.state is not TrialState.WAITING]
    study.add_trials(sorted(seen, key=lambda trial: (trial.number, trial._trial_id)))
    return study.ask(dict(space)).params


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
