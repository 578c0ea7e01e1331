"""Writes the trials of a study for other programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from hpo.errors import HpoError
from hpo.records import part_key
from hpo.study.record import StudyRecord
from hpo.system.atomic_files import replacing

FORMATS = ("csv", "json", "parquet")


def export(record: StudyRecord, path: Path, form: str) -> int:
    """Write one row per trial: number, state, score, times, parameters, scores by part.

    Parameters
    ----------
    record
        The study.
    path
        The file to write; written wholly or not at all.
    form
        csv, json or parquet.

    Returns
    -------
    int
        The number of trials written.
    """
    frame = trials_frame(record)
    try:
        with replacing(path) as partial:
            if form == "csv":
                frame.to_csv(partial, index=False)
            elif form == "json":
                frame.to_json(partial, orient="records", date_format="iso", indent=1)
            else:
                frame.to_parquet(partial, index=False)
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror}") from exc
    return len(frame)


def trials_frame(record: StudyRecord) -> pd.DataFrame:
    """Return one row per trial, in the order of their numbers.

    Columns are `number`, `state`, `score`, `started` and `completed` (UTC), then `param.NAME`,
    then what the trial keeps: scores by name, `part K.NAME`, `worker`, `wall_s`, `failure`.
    """
    study = record.optuna_study()
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    first = ["number", "state", "score", "started", "completed"]
    return pd.DataFrame(rows, columns=None if rows else first)


def _utc(local: datetime | None) -> datetime | None:
    return None if local is None else local.astimezone(UTC)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name,
        "score": trial.values[0] if trial.values else None,
        # Optuna hands out local time without saying so.
        "started": _utc(trial.datetime_start),
        "completed": _utc(trial.datetime_complete),
    }
    row.update({f"param.{name}": value for name, value in trial.params.items()})
    parts = {part_key(step) for step in trial.intermediate_values}
    for key, value in trial.user_attrs.items():
        if key in parts:
            row.update({f"{key}.{name}": score for name, score in value.items()})
        else:
            row[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return row
