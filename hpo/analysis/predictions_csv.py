"""predictions.csv, which lies beside a report: every validated and every held-out row."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpo.analysis.best_model import Evaluation, Predictions
from hpo.errors import HpoError
from hpo.objectives.class_metrics import CLASS_METRICS
from hpo.objectives.metrics import METRICS, Metric, score_all, target_metrics
from hpo.wording import original_cell, plain_cell

PREDICTIONS_NAME = "predictions.csv"
COLUMNS = ("set", "id", "group", "fold", "actual", "predicted")
# What stands before the label of a class in the column of its probabilities.
PROBABILITY = "probability "


def predictions_csv(evaluation: Evaluation) -> str:
    """Return the predictions of a best trial as CSV; numbers in full precision.

    Of a target with classes, actual and predicted are labels, and probabilities are behind them. Of
    several targets there are two columns for each, actual NAME and predicted NAME.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes, targets = evaluation.cv.classes, evaluation.cv.targets
    each = [f"{what} {plain_cell(name)}" for name in targets for what in COLUMNS[-2:]]
    common = (*COLUMNS[:-2], *each) if targets else COLUMNS
    writer.writerow((*common, *(PROBABILITY + label for label in classes)))
    for name, rows in (("cv", evaluation.cv), ("test", evaluation.test)):
        if rows is None:
            continue
        folds = [fold if fold >= 0 else "" for fold in rows.fold.tolist()]
        columns = (rows.ids.tolist(), rows.groups.tolist(), folds, rows.y, rows.predicted)
        for row_id, group, fold, actual, predicted in zip(*columns, strict=True):
            texts = (plain_cell(row_id), plain_cell(group))
            writer.writerow((name, *texts, fold, *_values(actual, predicted, classes)))
    return text.getvalue()


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
        classes = tuple(name.removeprefix(PROBABILITY) for name in lines[0][len(COLUMNS) :])
        every: Mapping[str, Metric] = CLASS_METRICS if classes else METRICS
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
    _, ids, groups, folds, actual, predicted, *probabilities = zip(*lines, strict=True)
    if classes:
        places = {plain_cell(label): place for place, label in enumerate(classes)}
        y = np.array([places[label] for label in actual], dtype=np.float64)
        found = np.array(probabilities, dtype=np.float64).T
    else:
        y, found = np.array(actual, dtype=np.float64), np.array(predicted, dtype=np.float64)
    return Predictions(
        ids=np.array([original_cell(text) for text in ids], dtype=np.str_),
        y=y,
        predicted=found,
        groups=np.array([original_cell(text) for text in groups], dtype=np.str_),
        fold=np.array([int(fold) if fold else -1 for fold in folds], dtype=np.int64),
        scores=score_all(y, found, metrics),
        row_intervals={},
        group_intervals={},
        classes=classes,
    )
