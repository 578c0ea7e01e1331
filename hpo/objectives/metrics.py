"""Scores of a regression."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.objectives.censored.bounds import Truth, concordance, measured, residuals

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Metric = Callable[[Any, Floats], float]


def rmse(y: Truth, predicted: Floats) -> float:
    """Root mean squared error, in units of the target; arrays of shape (n_rows,).

    Of `Bounds`, the error is 0 within and the distance to the nearer bound beyond them.
    """
    return float(np.sqrt(np.mean(residuals(y, predicted) ** 2)))


def mae(y: Truth, predicted: Floats) -> float:
    """Mean absolute error, in units of the target; errors are those of `rmse`."""
    return float(np.mean(np.abs(residuals(y, predicted))))


def r2(y: Truth, predicted: Floats) -> float:
    """Coefficient of determination against the mean of `y`; NaN for a constant `y`.

    Of `Bounds`, that of the rows that were measured.
    """
    y, predicted = measured(y, predicted)
    if not len(y):
        return float("nan")
    total = float(np.sum((y - np.mean(y)) ** 2))
    return 1.0 - float(np.sum((y - predicted) ** 2)) / total if total > 0 else float("nan")


def spearman(y: Truth, predicted: Floats) -> float:
    """Rank correlation, ties at their mean rank; 0 for predictions that rank nothing.

    NaN for a constant `y`. Of `Bounds`, that of the rows that were measured.
    """
    y, predicted = measured(y, predicted)
    if not len(y) or np.ptp(y) == 0:
        return float("nan")
    if np.ptp(predicted) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(y), _ranks(predicted))[0, 1])


def pinball_loss(y: Floats, predicted: Floats, level: float) -> float:
    """Mean pinball loss of predicted quantiles, in units of the target.

    With residuals r = y - predicted, the mean of max(level * r, (level - 1) * r), which the true
    quantile of that level minimises: Koenker & Bassett, Econometrica 46, 33 (1978).

    Parameters
    ----------
    y, predicted
        Arrays of shape (n_rows,).
    level
        Level of the quantile, between 0 and 1; at 0.5 the loss is half the mean absolute error.
    """
    residual = y - predicted
    return float(np.mean(np.maximum(level * residual, (level - 1.0) * residual)))


def coverage(y: Floats, predicted: Floats) -> float:
    """Fraction of rows that are not above their predicted quantile; ideally the quantile's level.

    Arrays of shape (n_rows,).
    """
    return float(np.mean(y <= predicted))


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1, ties at their mean; scipy.stats alone would double a worker's start."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2.0
    return mean_rank[inverse].astype(np.float64)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {"rmse": rmse, "mae": mae, "r2": r2, "spearman": spearman}
)
MAXIMISED = frozenset({"r2", "spearman", "concordance"})

# What can be said of predictions that have no unit, such as a ranker's scores.
RANK_METRICS: Mapping[str, Metric] = MappingProxyType({"spearman": spearman})

# What can be said beside them of a target that is known as intervals.
BOUNDS_METRICS: Mapping[str, Metric] = MappingProxyType({"concordance": concordance})


def quantile_metrics(level: float) -> Mapping[str, Metric]:
    """Return the metrics of a predicted quantile: its loss, its coverage and the usual ones."""
    pinball = functools.partial(pinball_loss, level=level)
    return MappingProxyType({"pinball": pinball, "coverage": coverage, **METRICS})


def score_all(
    y: Truth, predicted: Floats, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Return every metric by name."""
    return {name: metric(y, predicted) for name, metric in metrics.items()}
