"""Rows of Weights & Biases: one per trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.records import FAILURE_KEY, PRUNED_KEY, WALL_KEY, WORKER_KEY, part_key
from hpo.redaction import redact
from hpo.study.status import Status
from hpo.tracking.run_file import TRIAL_KEY

ORDER_KEY = "order"

_STATE_NAMES = {TrialState.FAIL: "failed"}


def make_row(
    trial: FrozenTrial,
    order: int,
    best: tuple[float, int] | None,
    value_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what is logged of one trial.

    Parameters
    ----------
    trial
        A trial that is finished: complete, pruned or failed.
    order
        The place of its row among all rows, from 0.
    best
        Score and number of the best trial up to here.
    value_names
        What the values are, where there are several.
    """
    attributes = dict(trial.user_attrs)
    reason = attributes.pop(FAILURE_KEY, None) or attributes.pop(PRUNED_KEY, None)
    row: dict[str, Any] = {
        ORDER_KEY: order,
        TRIAL_KEY: trial.number,
        "state": _STATE_NAMES.get(trial.state, trial.state.name.lower()),
        "worker": nameless_worker(attributes.pop(WORKER_KEY, None)),
        "reason": reason and redact(reason),
        "duration_s": attributes.pop(WALL_KEY, None) or _duration_s(trial),
    }
    row.update({f"hparams/{name}": value for name, value in trial.params.items()})
    if trial.values:
        row["score"] = trial.values[0]
        named = zip(value_names, trial.values, strict=False)
        row.update({f"values/{name}": value for name, value in named})
    row.update({f"constraints/{name}": by for name, by in trial.constraints.items()})
    for step in sorted(trial.intermediate_values):
        if part_key(step) not in attributes:
            row[f"reports/{step}"] = trial.intermediate_values[step]
        for name, value in attributes.pop(part_key(step), {}).items():
            row[f"parts/{step}/{name}"] = math.nan if value is None else value
    for name, value in attributes.items():
        row[f"scores/{name}"] = math.nan if value is None else value
    if best is not None:
        row["best/score"], row["best/trial"] = best
    return {key: value for key, value in row.items() if value is not None}


def told_rows(status: Status) -> dict[str, Any]:
    """Return what the summary says of totals of the best trial, by their labels, and the baseline.

    One that is undefined, or unknown yet, is left out.
    """
    told = status.told
    rows = {
        f"best/{total.heading}": status.best_totals.get(name) for name, total in told.totals.items()
    }
    if told.baseline is not None:
        rows.update({f"baseline/hparams/{k}": v for k, v in told.baseline.params.items()})
        rows["baseline/score"] = told.baseline.score
        for name, total in told.totals.items():
            rows[f"baseline/{total.heading}"] = told.baseline.scores.get(name)
    return {name: value for name, value in rows.items() if value is not None}


def nameless_worker(worker: Any) -> str | None:
    """Return the id of a worker without the name of its host."""
    return worker.rpartition("-")[2] if isinstance(worker, str) else None


def _duration_s(trial: FrozenTrial) -> float | None:
    return trial.duration.total_seconds() if trial.duration is not None else None


def flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values as one mapping, with names such as `prefix/key`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(f"{prefix}/{key}", value))
        elif value is not None:
            plain = isinstance(value, str | int | float)
            flat[f"{prefix}/{key}"] = value if plain else json.dumps(value, default=str)
    return flat
