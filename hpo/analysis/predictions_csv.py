"""predictions.csv, which lies beside a report: every validated and every held-out row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from hpo.analysis.best_model import Evaluation, Predictions
from hpo.errors import HpoError
from hpo.objectives.metrics import METRICS, RANK_METRICS, score_all
from hpo.wording import original_cell, plain_cell

PREDICTIONS_NAME = "predictions.csv"
COLUMNS = ("set", "id", "group", "fold", "actual", "predicted")


def predictions_csv(evaluation: Evaluation) -> str:
    """Return the predictions of a best trial as CSV; numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, rows in (("cv", evaluation.cv), ("test", evaluation.test)):
        if rows is None:
            continue
        folds = [fold if fold >= 0 else "" for fold in rows.fold.tolist()]
        columns = (rows.ids.tolist(), rows.groups.tolist(), folds, rows.y, rows.predicted)
        for row_id, group, fold, actual, predicted in zip(*columns, strict=True):
            texts = (plain_cell(row_id), plain_cell(group))
            writer.writerow((name, *texts, fold, float(actual), float(predicted)))
    return text.getvalue()


def read_predictions(path: Path, *, has_unit: bool = True) -> dict[str, Predictions]:
    """Read what `predictions_csv` wrote: "cv" and, if it is there, "test".

    Parameters
    ----------
    path
        The file.
    has_unit
        Whether predictions can be compared with values; scores that only rank have rho alone.

    Raises
    ------
    HpoError
        If the file cannot be read, or is none of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream))
        if not lines or tuple(lines[0]) != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        sets = {
            name: _predictions([line for line in lines[1:] if line[0] == name], has_unit)
            for name in ("cv", "test")
        }
    except OSError as exc:
        raise HpoError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, IndexError, csv.Error) as exc:
        raise HpoError(f"{path}: no predictions of ours: {exc}") from exc
    return {name: rows for name, rows in sets.items() if rows is not None}


def _predictions(lines: list[list[str]], has_unit: bool) -> Predictions | None:
    if not lines:
        return None
    _, ids, groups, folds, actual, predicted = zip(*lines, strict=True)
    y, found = np.array(actual, dtype=np.float64), np.array(predicted, dtype=np.float64)
    return Predictions(
        ids=np.array([original_cell(text) for text in ids], dtype=np.str_),
        y=y,
        predicted=found,
        groups=np.array([original_cell(text) for text in groups], dtype=np.str_),
        fold=np.array([int(fold) if fold else -1 for fold in folds], dtype=np.int64),
        scores=score_all(y, found, METRICS if has_unit else RANK_METRICS),
        row_intervals={},
        group_intervals={},
    )
