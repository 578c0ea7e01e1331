"""Writes the trials of a study for other programs."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from hpo.errors import HpoError, StudyNotFoundError
from hpo.records import part_key
from hpo.spec.objectives import FunctionSpec, ProgramSpec
from hpo.storage.best import read_constraints, read_directions, read_front, read_value_names
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import (
    TrialRow,
    read_rows,
    stream_attributes,
    stream_params,
    stream_part_values,
)
from hpo.study.record import StudyRecord, find_id
from hpo.study.told import BASELINE_NUMBER, Baseline, key_of, read_told
from hpo.system.atomic_files import replacing
from hpo.wording import shown_cell

FORMATS = ("csv", "json", "parquet")
_PART = part_key(0).removesuffix("0")
_FIRST = ("number", "state", "score", "started", "completed")


class _Columns:
    """Columns of as many values as there are trials, made as they turn up.

    Columns of different kinds are kept apart where their names are the same.
    """

    def __init__(self, n_rows: int) -> None:
        # By kind and name.
        self._values: dict[tuple[int, str], list[Any]] = {}
        # Where each column turned up first: row, kind, and what it is sorted by within the kind.
        self._places: dict[tuple[int, str], tuple[int, int, str]] = {}
        self._n_rows = n_rows

    def find(self, name: str, row: int, kind: int, key: str = "") -> list[Any]:
        """Return a column, with NaN in it where nothing was put yet."""
        column = (kind, name)
        if column not in self._values:
            self._values[column] = [math.nan] * self._n_rows
            self._places[column] = (row, kind, key)
        return self._values[column]

    def frame(self) -> pd.DataFrame:
        """Return the columns in the order in which the rows have them, and leave none here.

        Where a name is taken by another kind, an underscore comes behind it.
        """
        labels: dict[tuple[int, str], str] = {}
        taken = set()
        for column in sorted(self._values):
            label = column[1]
            while label in taken:
                label += "_"
            taken.add(label)
            labels[column] = label
        # Sorting keeps the order in which columns of one place turned up.
        ordered = sorted(self._values, key=self._places.__getitem__)
        return pd.DataFrame({labels[column]: self._values.pop(column) for column in ordered})


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
    _write(frame, path, form)
    return int((frame["number"] != BASELINE_NUMBER).sum())


def export_plain(storage: StudyStorage, name: str, path: Path, form: str) -> int:
    """Write the trials of a study that Optuna alone made; see `export`.

    Reported values are `step K`.
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
    then what the trial keeps: scores by name, `part K.NAME`, `worker`, `wall_s`, `failure`. With
    several objectives there is `score.NAME` for each, and `on_front`; with constraints
    `constraint.NAME`, by how much it is broken, which 0 and less is not. A baseline that is scored
    comes last, in the same columns, as number -1 in the state BASELINE.
    """
    with record.storage.read() as c:
        # What trials report of their parts is in the attributes of these; reports of a
        # function or a program are there alone.
        steps = isinstance(record.spec.objective, FunctionSpec | ProgramSpec)
        frame = _read_frame(c, record.study_id, with_steps=steps)
        told = read_told(c, key_of(record.study_id, record.fingerprint), parts=True)
    if told.baseline is None or told.baseline.score is None:
        return frame
    # Of several values it has the first.
    row = pd.DataFrame([_baseline_row(told.baseline)]).rename(columns={"score": frame.columns[2]})
    if frame.empty:
        return row.reindex(columns=list(dict.fromkeys([*frame.columns, *row.columns])))
    return pd.concat([frame, row], ignore_index=True)


def _baseline_row(baseline: Baseline) -> dict[str, Any]:
    return {
        "number": BASELINE_NUMBER,
        "state": "BASELINE",
        **baseline.scores,
        **{f"param.{name}": value for name, value in baseline.params.items()},
        **{
            f"{part_key(k)}.{name}": value
            for k, part in enumerate(baseline.parts)
            for name, value in part.items()
        },
    }


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no cycles meanwhile: among millions of values that takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_no_collection()
def _read_frame(c: sa.Connection, study_id: int, *, with_steps: bool) -> pd.DataFrame:
    rows = sorted(read_rows(c, study_id), key=lambda row: row.number)
    if not rows:
        return pd.DataFrame(columns=[*_FIRST])
    row_of = {row.trial_id: at for at, row in enumerate(rows)}
    columns = _Columns(len(rows))
    names = read_value_names(c, study_id, len(read_directions(c, study_id)))
    _put_rows(columns, rows, names)
    if len(names) > 1:
        front = read_front(c, study_id)
        best = set(front.trial_ids if front else ())
        columns.find("on_front", 0, 0)[:] = [row.trial_id in best for row in rows]
    del rows
    for trial_id, violations in read_constraints(c, study_id).items():
        for name, by in violations.items():
            columns.find(f"constraint.{name}", row_of[trial_id], 0)[row_of[trial_id]] = by
    params: dict[str, list[Any]] = {}
    for trial_id, name, value in stream_params(c, study_id):
        at = row_of[trial_id]
        if name not in params:
            params[name] = columns.find(f"param.{name}", at, 1)
        params[name][at] = value
    if with_steps:
        for trial_id, step, reported in stream_part_values(c, study_id):
            at = row_of[trial_id]
            columns.find(f"step {step}", at, 2)[at] = reported
    _put_attributes(columns, row_of, stream_attributes(c, study_id))
    return columns.frame()


def _put_rows(columns: _Columns, rows: Sequence[TrialRow], names: Sequence[str]) -> None:
    """Put what a trial has without its parameters and attributes."""
    several = len(names) > 1
    number, state = (columns.find(name, 0, 0) for name in _FIRST[:2])
    labels = [f"score.{name}" for name in names] if several else _FIRST[2:3]
    scores = [columns.find(label, 0, 0) for label in labels]
    started, completed = (columns.find(name, 0, 0) for name in _FIRST[3:])
    for at, row in enumerate(rows):
        number[at], state[at] = row.number, row.state.name
        started[at], completed[at] = row.started, row.completed
        for k, score in enumerate(scores):
            score[at] = row.values[k] if k < len(row.values) else None


def _put_attributes(
    columns: _Columns, row_of: Mapping[int, int], attributes: Iterator[tuple[int, str, Any]]
) -> None:
    """Put user attributes, of which those of parts hold scores by their names."""
    parts: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for trial_id, key, value in attributes:
        at = row_of[trial_id]
        if isinstance(value, dict) and key.startswith(_PART):
            of_part = parts[key]
            for name, score in value.items():
                if name not in of_part:
                    of_part[name] = columns.find(f"{key}.{name}", at, 3, key)
                of_part[name][at] = score
        else:
            plain = isinstance(value, str | int | float)
            text = value if plain else json.dumps(value)
            columns.find(key, at, 3, key)[at] = _encodable(text) if isinstance(text, str) else text


def _encodable(text: str) -> str:
    """Return a text that UTF-8 has: halves of surrogate pairs are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose texts, names of columns too, no spreadsheet or terminal obeys."""
    texts = frame.select_dtypes(["object", "string"]).columns
    cells = {name: frame[name].map(shown_cell) for name in texts}
    return frame.assign(**cells).rename(columns=shown_cell)


def _write(frame: pd.DataFrame, path: Path, form: str) -> int:
    try:
        with replacing(path) as partial:
            if form == "csv":
                _shown(frame).to_csv(partial, index=False)
            elif form == "json":
                frame.to_json(partial, orient="records", date_format="iso", indent=1)
            else:
                frame.to_parquet(partial, index=False)
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    return len(frame)
