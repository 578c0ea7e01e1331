"""predictions.csv, which lies beside a report: every validated and every held-out row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpo.analysis.best_model import Evaluation, Predictions
from hpo.errors import HpoError
from hpo.objectives.censored.bounds import truth_of
from hpo.objectives.class_metrics import CLASS_METRICS
from hpo.objectives.metrics import BOUNDS_METRICS, METRICS, Metric, score_all, target_metrics
from hpo.wording import original_cell, plain_cell

PREDICTIONS_NAME = "predictions.csv"
COLUMNS = ("set", "id", "group", "fold", "actual", "predicted")
# Behind them, where some rows are known as intervals; empty where a side is open.
BOUNDS_COLUMNS = ("lower_bound", "upper_bound")
# What stands before the label of a class in the column of its probabilities.
PROBABILITY = "probability "


def predictions_csv(evaluation: Evaluation) -> str:
    """Return the predictions of a best trial as CSV; numbers in full precision.

    Of a target with classes, actual and predicted are labels, and probabilities are behind them. Of
    several targets there are two columns for each, actual NAME and predicted NAME. Where some rows
    are known as intervals, actual is the limit that is stated, or the middle.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes, targets = evaluation.cv.classes, evaluation.cv.targets
    each = [f"{what} {plain_cell(name)}" for name in targets for what in COLUMNS[-2:]]
    common = (*COLUMNS[:-2], *each) if targets else COLUMNS
    has_bounds = any(rows is not None and rows.bounds is not None for rows in _sets(evaluation))
    more = BOUNDS_COLUMNS if has_bounds else tuple(PROBABILITY + label for label in classes)
    writer.writerow((*common, *more))
    for name, rows in zip(("cv", "test"), _sets(evaluation), strict=True):
        if rows is None:
            continue
        folds = [fold if fold >= 0 else "" for fold in rows.fold.tolist()]
        columns = (rows.ids.tolist(), rows.groups.tolist(), folds, rows.y, rows.predicted)
        ends = _ends(rows) if has_bounds else [()] * len(rows.y)
        for row_id, group, fold, actual, predicted, known in zip(*columns, ends, strict=True):
            texts = (plain_cell(row_id), plain_cell(group))
            writer.writerow((name, *texts, fold, *_values(actual, predicted, classes), *known))
    return text.getvalue()


def _sets(evaluation: Evaluation) -> tuple[Predictions, Predictions | None]:
    return evaluation.cv, evaluation.test


def _ends(rows: Predictions) -> list[tuple[float | str, ...]]:
    """Return the bounds of every row, empty where a side is open."""
    return [tuple(end if math.isfinite(end) else "" for end in ends) for ends in rows.ends.tolist()]


def _values(actual: Any, predicted: Any, classes: Sequence[str]) -> tuple[Any, ...]:
    if np.ndim(actual):
        return tuple(np.column_stack([actual, predicted]).ravel().tolist())
    if not classes:
        return float(actual), float(predicted)
    labels = (classes[int(actual)], classes[int(np.argmax(predicted))])
    return (*map(plain_cell, labels), *predicted.tolist())


def read_predictions(
    path: Path, *, recorded: Collection[str] = tuple(METRICS)
) -> dict[str, Predictions]:
    """Read what `predictions_csv` wrote: "cv" and, if it is there, "test".

    Parameters
    ----------
    path
        The file.
    recorded
        Names of the scores that are known of it: what can be said of scores without a unit, or of
        classes without probabilities, is less.

    Raises
    ------
    HpoError
        If the file cannot be read, or is none of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream))
        targets = _targets_of(lines[0]) if lines else ()
        if targets:
            return _of_targets(lines[1:], targets, recorded)
        if not lines or tuple(lines[0][: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        has_bounds = tuple(lines[0][len(COLUMNS) :]) == BOUNDS_COLUMNS
        of_classes = () if has_bounds else lines[0][len(COLUMNS) :]
        classes = tuple(name.removeprefix(PROBABILITY) for name in of_classes)
        every: Mapping[str, Metric] = CLASS_METRICS if classes else {**METRICS, **BOUNDS_METRICS}
        metrics = {name: metric for name, metric in every.items() if name in recorded}
        sets = {
            name: _predictions([line for line in lines[1:] if line[0] == name], classes, metrics)
            for name in ("cv", "test")
        }
    except OSError as exc:
        raise HpoError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, IndexError, KeyError, csv.Error) as exc:
        raise HpoError(f"{path}: no predictions of ours: {exc}") from exc
    return {name: rows for name, rows in sets.items() if rows is not None}


def _targets_of(header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of several targets that the columns of a file are of; else none."""
    n_common = len(COLUMNS) - 2
    first, second = (f"{name} " for name in COLUMNS[-2:])
    if tuple(header[:n_common]) != COLUMNS[:-2] or not header[n_common].startswith(first):
        return ()
    names = tuple(name.removeprefix(first) for name in header[n_common::2])
    if [*header[n_common + 1 :: 2]] != [second + name for name in names]:
        raise ValueError(f"its columns are not {', '.join(COLUMNS[:-2])} and two for each target")
    return tuple(map(original_cell, names))


def _of_targets(
    lines: Sequence[Sequence[str]], targets: tuple[str, ...], recorded: Collection[str]
) -> dict[str, Predictions]:
    """Return predictions of several targets, with scores that no other row is needed for."""
    found = {}
    n_common = len(COLUMNS) - 2
    for name in ("cv", "test"):
        own = [line for line in lines if line[0] == name]
        each = [
            _predictions([[*line[:n_common], *line[at : at + 2]] for line in own], (), {})
            for at in range(n_common, n_common + 2 * len(targets), 2)
        ]
        rows = [one for one in each if one is not None]
        if not rows:
            continue
        y, predicted = (
            np.column_stack([getattr(r, what) for r in rows]) for what in ("y", "predicted")
        )
        # What the mean of errors is in units of, the file does not say.
        metrics = {
            name: metric
            for name, metric in target_metrics(targets, y).items()
            if name in recorded and name not in ("rmse", "mae")
        }
        found[name] = replace(
            rows[0],
            y=y,
            predicted=predicted,
            scores=score_all(y, predicted, metrics),
            targets=targets,
        )
    return found


def _predictions(
    lines: list[list[str]], classes: tuple[str, ...], metrics: Mapping[str, Metric]
) -> Predictions | None:
    if not lines:
        return None
    _, ids, groups, folds, actual, predicted, *more = zip(*lines, strict=True)
    bounds = None
    if classes:
        places = {plain_cell(label): place for place, label in enumerate(classes)}
        y = np.array([places[label] for label in actual], dtype=np.float64)
        found = np.array(more, dtype=np.float64).T
    else:
        y, found = np.array(actual, dtype=np.float64), np.array(predicted, dtype=np.float64)
        if more:
            signs = (-math.inf, math.inf)
            ends = [
                [float(end or sign) for end in of] for of, sign in zip(more, signs, strict=True)
            ]
            bounds = np.array(ends, dtype=np.float64).T
    return Predictions(
        ids=np.array([original_cell(text) for text in ids], dtype=np.str_),
        y=y,
        predicted=found,
        groups=np.array([original_cell(text) for text in groups], dtype=np.str_),
        fold=np.array([int(fold) if fold else -1 for fold in folds], dtype=np.int64),
        scores=score_all(truth_of(y, bounds), found, metrics),
        row_intervals={},
        group_intervals={},
        classes=classes,
        bounds=bounds,
    )
