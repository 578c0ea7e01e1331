"""Scores of a regression and their bootstrap intervals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Metric = Callable[[Floats, Floats], float]


def rmse(y: Floats, predicted: Floats) -> float:
    """Root mean squared error, in units of the target; arrays of shape (n_rows,)."""
    return float(np.sqrt(np.mean((y - predicted) ** 2)))


def mae(y: Floats, predicted: Floats) -> float:
    """Mean absolute error, in units of the target; arrays of shape (n_rows,)."""
    return float(np.mean(np.abs(y - predicted)))


def r2(y: Floats, predicted: Floats) -> float:
    """Coefficient of determination against the mean of `y`; NaN for a constant `y`."""
    total = float(np.sum((y - np.mean(y)) ** 2))
    return 1.0 - float(np.sum((y - predicted) ** 2)) / total if total > 0 else float("nan")


def spearman(y: Floats, predicted: Floats) -> float:
    """Rank correlation, ties at their mean rank; 0 for predictions that rank nothing.

    NaN for a constant `y`.
    """
    if np.ptp(y) == 0:
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
MAXIMISED = frozenset({"r2", "spearman"})


# What can be said of predictions that have no unit, such as a ranker's scores.
RANK_METRICS: Mapping[str, Metric] = MappingProxyType({"spearman": spearman})


def quantile_metrics(level: float) -> Mapping[str, Metric]:
    """Return the metrics of a predicted quantile: its loss, its coverage and the usual ones."""
    pinball = functools.partial(pinball_loss, level=level)
    return MappingProxyType({"pinball": pinball, "coverage": coverage, **METRICS})


def score_all(
    y: Floats, predicted: Floats, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Return every metric by name."""
    return {name: metric(y, predicted) for name, metric in metrics.items()}


def bootstrap_intervals(
    y: Floats,
    predicted: Floats,
    groups: NDArray[np.str_] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    metrics: Mapping[str, Metric] = METRICS,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of every metric.

    Parameters
    ----------
    y, predicted
        Arrays of shape (n_rows,).
    groups
        Array of shape (n_rows,). If given, whole groups are drawn rather than rows, which
        allows for rows that come from one paper or one composition.
    level
        Coverage of the interval.
    n_resamples
        Number of resamples.
    seed
        Seed of the resampling.
    metrics
        The metrics by name.

    Notes
    -----
    Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13. Resamples in which a
    metric is undefined are left out of its percentiles.
    """
    rng = np.random.default_rng(seed)
    members: list[NDArray[np.int64]] | None = None
    if groups is not None:
        _, group_of_row = np.unique(groups, return_inverse=True)
        members = [np.flatnonzero(group_of_row == g) for g in range(int(group_of_row.max()) + 1)]
    draws: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(n_resamples):
        if members is None:
            rows = rng.integers(0, len(y), len(y))
        else:
            drawn = rng.integers(0, len(members), len(members))
            rows = np.concatenate([members[g] for g in drawn])
        for name, value in score_all(y[rows], predicted[rows], metrics).items():
            draws[name].append(value)
    tail = (1.0 - level) / 2.0
    intervals = {}
    for name, values in draws.items():
        finite = np.array(values)[np.isfinite(values)]
        low, high = np.quantile(finite, [tail, 1.0 - tail]) if len(finite) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals
