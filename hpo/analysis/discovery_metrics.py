"""Discovery metrics: whether a ranking finds the values above a threshold."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import Target
from hpo.analysis.best_model import Predictions
from hpo.analysis.bootstrap import N_RESAMPLES, bootstrap_intervals
from hpo.errors import ObjectiveError, SpecError
from hpo.objectives.class_metrics import CLASS_METRICS, cumulate
from hpo.objectives.metrics import Metric, score_all

Floats = NDArray[np.float64]

TOP_SHARE = 0.1
SET_NAMES = {"cv": "CV", "test": "test"}


@dataclass(frozen=True)
class RankingValue:
    """How well predictions find the values above a threshold, with 95 % bootstrap intervals.

    Attributes
    ----------
    auc
        Probability that a value above is predicted higher than one that is not; chance is 0.5.
    precision
        Share of values above among the top 10 % of the predictions; chance is `prevalence`.
    """

    rows: int
    above: int
    auc: float
    auc_interval: tuple[float, float]
    precision: float
    precision_interval: tuple[float, float]

    @property
    def prevalence(self) -> float:
        """Share of values above the threshold among all: the precision of a blind choice."""
        return self.above / self.rows


@dataclass(frozen=True)
class _ScoreAbove:
    """A score of how predictions rank the values above a threshold.

    Attributes
    ----------
    score
        Of which rows are above, of shape (n_rows,), the predictions, and how often each of some
        resamples holds each row, of shape (n_resamples, n_rows).
    """

    score: Callable[[NDArray[np.bool_], Floats, Floats], Floats]
    threshold: float

    def __call__(self, y: Floats, predicted: Floats) -> float:
        return _once(self.score, y > self.threshold, predicted)

    def of_resamples(self, y: Floats, predicted: Floats, counts: NDArray[np.int64]) -> Floats:
        return self.score(y > self.threshold, predicted, counts.astype(np.float64))


def _once(score: Callable[..., Floats], above: NDArray[np.bool_], predicted: Floats) -> float:
    return float(score(above, predicted, np.ones((1, len(above))))[0])


def auc(above: NDArray[np.bool_], predicted: Floats) -> float:
    """Return the area under the ROC curve; NaN if all values are on one side. Ties count a half."""
    return _once(_auc, above, predicted)


def _auc(above: NDArray[np.bool_], predicted: Floats, counts: Floats) -> Floats:
    both = np.column_stack([-predicted, predicted])
    return CLASS_METRICS["roc_auc"].of_resamples(above.astype(np.float64), both, counts)


def precision_at_top(
    above: NDArray[np.bool_], predicted: Floats, share: float = TOP_SHARE
) -> float:
    """Return the share of values above among the highest `share` of the predictions.

    That is a whole number of rows, rounded up. Rows that tie for the last places count by the mean
    of all that tie.
    """
    return _once(functools.partial(_precision, share=share), above, predicted)


def _precision(
    above: NDArray[np.bool_], predicted: Floats, counts: Floats, share: float = TOP_SHARE
) -> Floats:
    n_top = np.ceil(np.round(share * counts.sum(axis=1), 9))
    found, others, _ = cumulate(above, predicted, counts)
    # Of every distinct prediction, how many rows are as high, or higher; first, of none of them.
    found, rows = (np.pad(of, ((0, 0), (1, 0))) for of in (found, found + others))
    cut = np.argmax(rows >= n_top[:, None], axis=1)[:, None]
    (before, upto), (rows_before, rows_upto) = (
        [np.take_along_axis(of, at, axis=1)[:, 0] for at in (cut - 1, cut)] for of in (found, rows)
    )
    share_of_tied = (upto - before) / (rows_upto - rows_before)
    return np.asarray((before + (n_top - rows_before) * share_of_tied) / n_top, dtype=np.float64)


def ranking_value(
    y: Floats,
    predicted: Floats,
    threshold: float,
    groups: NDArray[np.str_] | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> RankingValue:
    """Say how well predictions find the values above a threshold.

    Parameters
    ----------
    y, predicted
        Arrays of shape (n_rows,), in units of the target, as is `threshold`.
    groups
        Array of shape (n_rows,); if given, intervals resample whole groups rather than rows.

    Raises
    ------
    ObjectiveError
        No value, or every value, is above the threshold.
    """
    above = y > threshold
    if above.all() or not above.any():
        raise ObjectiveError(
            f"threshold {threshold:g}: {np.count_nonzero(above)} of {len(y)} values are above it; "
            f"choose one between {y.min():g} and {y.max():g}, in units of the model's target"
        )
    metrics: dict[str, Metric] = {
        "auc": _ScoreAbove(_auc, threshold),
        "precision": _ScoreAbove(_precision, threshold),
    }
    scores = score_all(y, predicted, metrics)
    intervals = bootstrap_intervals(
        y, predicted, groups, n_resamples=n_resamples, seed=seed, metrics=metrics
    )
    return RankingValue(
        rows=len(y),
        above=int(np.count_nonzero(above)),
        auc=scores["auc"],
        auc_interval=intervals["auc"],
        precision=scores["precision"],
        precision_interval=intervals["precision"],
    )


# By set of rows: with intervals by row, and with intervals by group.
Values = Mapping[str, tuple[RankingValue, RankingValue]]


def on_scale(threshold: float, target: Target) -> float:
    """Return a threshold in the target's own unit on the scale that the table has it in.

    Raises
    ------
    SpecError
        If it is not above 0 and has no logarithm.
    """
    if not target.log10:
        return threshold
    if threshold <= 0.0:
        raise SpecError(f"--threshold {threshold:g}: must be above 0 for a log10 target")
    return math.log10(threshold)


def value_study(rows: Mapping[str, Predictions], at: float) -> Values:
    """Return what the ranking of a study is worth, by set of rows.

    Parameters
    ----------
    rows
        Predictions of "cv" and "test", as far as there are any.
    at
        The threshold, on the scale of the predictions' target.

    Returns
    -------
    mapping of tuple
        With intervals by row, and with intervals by group; a set of rows that are all on one side
        of the threshold is left out.
    """
    return {
        of: (
            ranking_value(part.y, part.predicted, at, part.shared_ids),
            ranking_value(part.y, part.predicted, at, part.groups),
        )
        for of, part in ((of, _on_one_side(found, at)) for of, found in rows.items())
        if 0 < np.count_nonzero(part.y > at) < len(part.y)
    }


def _on_one_side(rows: Predictions, at: float) -> Predictions:
    """Return the rows that are known to be above a threshold, or not to be."""
    if rows.bounds is None:
        return rows
    lower, upper = rows.bounds.T
    return rows.take((lower > at) | (upper <= at))


def screening_cells(
    found: Mapping[str, Values],
) -> list[Sequence[str]]:
    """Return the values as a table of texts, heads first: a line by row and one by group."""
    heads = ["study", "set", "rows", "above", "resampled", "AUC", "95 %"]
    table: list[Sequence[str]] = [[*heads, "precision at top 10 %", "95 %", "chance"]]
    for name, of_study in found.items():
        for of, (by_row, by_group) in of_study.items():
            first = [name, SET_NAMES[of], str(by_row.rows), str(by_row.above), "by row"]
            for cells, value in ((first, by_row), ([""] * 4 + ["by group"], by_group)):
                shown = value is by_row
                table.append(
                    [
                        *cells,
                        f"{value.auc:.3f}" if shown else "",
                        _ends(value.auc_interval),
                        f"{value.precision:.2f}" if shown else "",
                        _ends(value.precision_interval),
                        f"{value.prevalence:.2f}" if shown else "",
                    ]
                )
    return table


def describe(by_row: RankingValue, by_group: RankingValue) -> dict[str, Any]:
    """Return one ranking's value for a program, with intervals by row and by group."""
    return {
        "rows": by_row.rows,
        "above": by_row.above,
        "auc": by_row.auc,
        "precision_at_top_10_percent": by_row.precision,
        "chance": by_row.prevalence,
        "by_row": {"auc": by_row.auc_interval, "precision": by_row.precision_interval},
        "by_group": {"auc": by_group.auc_interval, "precision": by_group.precision_interval},
    }


def _ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"
