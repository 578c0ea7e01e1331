"""Scores of a regression."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class TargetMetric:
    """A metric of one of several targets, or its mean over all of them.

    The mean over the targets t is that of the metric on targets divided by their standard
    deviations s_t over the training rows,

        m = (1 / n_targets) * sum over t of metric(y_t / s_t, predicted_t / s_t)

    which adds up errors in different units as shares of what the targets vary; r2 and spearman have
    no unit, and are averaged as they are.

    Attributes
    ----------
    metric, name
        The metric of one target, and what it is called.
    scales
        For each target what it is divided by: of one target alone nothing.
    position
        Of the one target; None for the mean.
    """

    metric: Metric
    name: str
    scales: tuple[float, ...]
    position: int | None = None

    def __call__(self, y: Floats, predicted: Floats) -> float:
        """Return the score of predictions; arrays of shape (n_rows, n_targets)."""
        return float(self.of(self.metric, y, predicted))

    def of(self, score: Callable[[Floats, Floats], Any], y: Floats, predicted: Floats) -> Any:
        """Return what the metric is by another way to compute it for one target."""
        if self.position is not None:
            return score(y[:, self.position], predicted[:, self.position])
        found = [score(y[:, k] / s, predicted[:, k] / s) for k, s in enumerate(self.scales)]
        return sum(found[1:], start=found[0]) / len(found)


def target_metrics(
    targets: Sequence[str], y: Floats, metrics: Mapping[str, Metric] = METRICS
) -> Mapping[str, Metric]:
    """Return metrics of several targets: means by the plain names, then those of each target.

    Parameters
    ----------
    targets
        Their names; the rmse of target a is `rmse_a`.
    y
        Array of shape (n_rows, n_targets): the training rows, by whose standard deviations targets
        are divided.
    metrics
        Of one target.
    """
    scales = tuple(float(column.std()) for column in y.T)
    found = {name: TargetMetric(metric, name, scales) for name, metric in metrics.items()}
    for position, target in enumerate(targets):
        for name, metric in metrics.items():
            found[f"{name}_{target}"] = TargetMetric(metric, name, scales, position)
    return MappingProxyType(found)


def score_all(
    y: Truth, predicted: Floats, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Return every metric by name."""
    return {name: metric(y, predicted) for name, metric in metrics.items()}
