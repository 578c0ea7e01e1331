"""Writes the trials of a study for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from hpo.errors import HpoError, StudyNotFoundError
from hpo.records import part_key
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import (
    TrialRow,
    read_rows,
    stream_attributes,
    stream_params,
    stream_part_values,
)
from hpo.study.record import StudyRecord, find_id
from hpo.system.atomic_files import replacing

FORMATS = ("csv", "json", "parquet")
_PART = part_key(0).removesuffix("0")
_FIRST = ("number", "state", "score", "started", "completed")


class _Columns:
    """Columns of as many values as there are trials, made as they turn up."""

    def __init__(self, n_rows: int) -> None:
        self.values: dict[str, list[Any]] = {}
        # Where each column turned up first: row, kind, and what it is sorted by within the kind.
        self.places: dict[str, tuple[int, int, str]] = {}
        self._n_rows = n_rows

    def put(self, name: str, row: int, value: Any, kind: int, key: str = "") -> None:
        column = self.values.get(name)
        if column is None:
            column = self.values[name] = [math.nan] * self._n_rows
            self.places[name] = (row, kind, key)
        column[row] = value

    def frame(self) -> pd.DataFrame:
        # Sorting keeps the order in which columns of one place turned up.
        ordered = sorted(self.values, key=self.places.__getitem__)
        return pd.DataFrame({name: self.values.pop(name) for name in ordered})


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
    return _write(trials_frame(record), path, form)


def export_plain(storage: StudyStorage, name: str, path: Path, form: str) -> int:
    """Write the trials of a study that Optuna alone made; see `export`.

    Scores of several objectives are `score.0`, `score.1` and so on, reported values `step K`.
    """
    with storage.read() as c:
        study_id = find_id(c, name)
        if study_id is None:
            raise StudyNotFoundError(f"no study '{name}'")
        frame = _read_frame(c, study_id, with_steps=True)
    return _write(frame, path, form)


def trials_frame(record: StudyRecord) -> pd.DataFrame:
    """Return one row per trial, in the order of their numbers.

    Columns are `number`, `state`, `score`, `started` and `completed` (UTC), then `param.NAME`,
    then what the trial keeps: scores by name, `part K.NAME`, `worker`, `wall_s`, `failure`.
    """
    with record.storage.read() as c:
        # What trials report of their parts is in the attributes of these.
        return _read_frame(c, record.study_id, with_steps=False)


def _read_frame(c: sa.Connection, study_id: int, *, with_steps: bool) -> pd.DataFrame:
    rows = sorted(read_rows(c, study_id), key=lambda row: row.number)
    if not rows:
        return pd.DataFrame(columns=[*_FIRST])
    row_of = {row.trial_id: at for at, row in enumerate(rows)}
    columns = _Columns(len(rows))
    _put_rows(columns, rows)
    del rows
    for trial_id, name, value in stream_params(c, study_id):
        columns.put(f"param.{name}", row_of[trial_id], value, 1)
    if with_steps:
        for trial_id, step, reported in stream_part_values(c, study_id):
            columns.put(f"step {step}", row_of[trial_id], reported, 2)
    for trial_id, key, value in stream_attributes(c, study_id):
        at = row_of[trial_id]
        if isinstance(value, dict) and key.startswith(_PART):
            for name, score in value.items():
                columns.put(f"{key}.{name}", at, score, 3, key)
        else:
            plain = isinstance(value, str | int | float)
            columns.put(key, at, value if plain else json.dumps(value), 3, key)
    return columns.frame()


def _put_rows(columns: _Columns, rows: Sequence[TrialRow]) -> None:
    """Put what a trial has without its parameters and attributes."""
    several = max(len(row.values) for row in rows) > 1
    for at, row in enumerate(rows):
        scores: dict[str, Any] = {f"score.{k}": value for k, value in enumerate(row.values)}
        if not several:
            scores = {"score": row.values[0] if row.values else None}
        told = {"number": row.number, "state": row.state.name, **scores}
        for name, value in (told | {"started": row.started, "completed": row.completed}).items():
            columns.put(name, at, value, 0)


def _write(frame: pd.DataFrame, path: Path, form: str) -> int:
    try:
        with replacing(path) as partial:
            if form == "csv":
                frame.to_csv(partial, index=False)
            elif form == "json":
                frame.to_json(partial, orient="records", date_format="iso", indent=1)
            else:
                frame.to_parquet(partial, index=False)
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    return len(frame)
