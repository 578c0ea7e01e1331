"""The outcome of a study: `hpo_results.json`, and the best settings for shells and programs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from hpo.study.record import StudyRecord
from hpo.study.snapshot import best_trial, trials_of
from studies.saddle.gad import Settings

FORMS = ("exports", "arguments", "json")
# Kept with each trial beside its score.
_SCORES = (
    "convergence_rate",
    "mean_steps",
    "watched_rate",
    "watched_mean_steps",
    "regressions",
    "wall_s",
)


def collect_results(record: StudyRecord) -> dict[str, Any]:
    """Return what `hpo_results.json` holds.

    The best trial's number, score, parameters, convergence rate and mean steps, as the report
    has them; then the default settings, and every trial's state, score and parameters.
    """
    best = best_trial(record)
    trials = trials_of(record)
    return {
        "best_trial": best.number,
        "best_score": best.values[0],
        "best_params": dict(best.params),
        "best_convergence_rate": best.user_attrs["convergence_rate"],
        "best_mean_steps": best.user_attrs["mean_steps"],
        "study": record.name,
        "objective": record.spec.model_dump(mode="json")["objective"],
        "default_params": asdict(Settings()),
        "trials": [_describe(trial) for trial in trials],
    }


def write_params(params: Mapping[str, Any], form: str) -> str:
    """Return settings as shell exports, as arguments of a program, or as JSON.

    `export ESCAPE_DELTA=0.15`, one per line; `--escape-delta 0.15 …`, in one line. Settings that
    were not tuned are written with their default values.
    """
    settings = asdict(Settings.of(params))
    if form == "json":
        return json.dumps(settings, indent=1)
    if form == "exports":
        lines = (f"export {name.upper()}={_number(value)}" for name, value in settings.items())
        return "\n".join(lines)
    words = []
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}", _number(value)]
    return shlex.join(words)


def _describe(trial: FrozenTrial) -> dict[str, Any]:
    scores = {name: trial.user_attrs[name] for name in _SCORES if name in trial.user_attrs}
    return {
        "number": trial.number,
        "state": trial.state.name,
        "score": trial.values[0] if trial.values else None,
        "params": dict(trial.params),
        **scores,
    }


def _number(value: float) -> str:
    # Every digit: what is exported finds the same searches again.
    return repr(value)
