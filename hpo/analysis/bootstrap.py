"""Bootstrap intervals of scores, and of their differences between models on the same rows.

For differences every model is scored on the same resamples, so that what makes a resample hard or
easy for all of them cancels out. Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 8
(two samples that are paired) and 16; percentile intervals as in ch. 13.

A resample is kept as the number of times that it holds each row. Sums over it are then products of
matrices, and a value's mean rank in it follows from the counts of the values up to it.
`scipy.stats.bootstrap` draws no whole groups, and calls a function per resample or needs all of
them in memory at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.objectives.censored.bounds import Bounds, Truth, measured, weighted_concordance
from hpo.objectives.class_metrics import CLASS_METRICS
from hpo.objectives.metrics import (
    BOUNDS_METRICS,
    METRICS,
    Interval,
    Metric,
    TargetMetric,
    coverage,
    pinball_loss,
    score_all,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_RESAMPLES = 2000
CHUNK_CELLS = 1_000_000
# Metrics that are means over rows, beside those that `score_resamples` knows.
_MEANS = (pinball_loss, coverage)


@dataclass(frozen=True)
class Difference:
    """A model's score less the reference's.

    Attributes
    ----------
    value
        On the rows as they are.
    row, group
        95 % percentile intervals, resampling rows and resampling whole groups.
    """

    value: float
    row: Interval
    group: Interval


def bootstrap_intervals(
    y: Truth,
    predicted: Floats,
    groups: NDArray[np.str_] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    metrics: Mapping[str, Metric] = METRICS,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of every metric.

    Parameters
    ----------
    y, predicted
        Arrays of shape (n_rows,), or of (n_rows, n_classes) the predicted probabilities; both of
        (n_rows, n_targets) of several targets. `y` may be `Bounds` of so many rows.
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
        The metrics by name. One with a method `of_resamples(y, predicted, counts)` scores all
        resamples at once; one that nothing is known of is called with each.

    Notes
    -----
    Resamples in which a metric is undefined are left out of its percentiles.
    """
    known = {**METRICS, **BOUNDS_METRICS}
    usual = [name for name, metric in metrics.items() if known.get(name) is metric]
    scores: dict[str, list[Floats]] = {name: [] for name in metrics}
    for counts in resample_counts(len(y), groups, n_resamples, seed):
        found = score_resamples(y, predicted[:, None], counts, usual) if usual else {}
        for name in usual:
            scores[name].append(found[name][:, 0])
        for name in metrics.keys() - found.keys():
            scores[name].append(_score_each(y, predicted, counts, metrics[name]))
    tail = (1.0 - level) / 2.0
    return {name: _percentiles(np.concatenate(parts), tail) for name, parts in scores.items()}


def _score_each(y: Truth, predicted: Floats, counts: Ints, metric: Metric) -> Floats:
    """Return a metric of every resample; array of shape (n_resamples,).

    One that does not know many resamples at once is called with each of them, written out.
    """
    of_resamples = getattr(metric, "of_resamples", None)
    if of_resamples is not None and not isinstance(y, Bounds):
        return np.asarray(of_resamples(y, predicted, counts), dtype=np.float64)
    if getattr(metric, "func", metric) in _MEANS and not isinstance(y, Bounds):
        of_row = [metric(y[row : row + 1], predicted[row : row + 1]) for row in range(len(y))]
        return np.asarray(counts @ np.array(of_row) / counts.sum(axis=1), dtype=np.float64)
    if isinstance(metric, TargetMetric) and not isinstance(y, Bounds):

        def score(values: Floats, guesses: Floats) -> Floats:
            found = score_resamples(values, guesses[:, None], counts, (metric.name,))
            return found[metric.name][:, 0]

        return np.asarray(metric.of(score, y, predicted), dtype=np.float64)
    written = (np.repeat(np.arange(len(y)), of_one) for of_one in counts)
    return np.array([metric(y[rows], predicted[rows]) for rows in written], dtype=np.float64)


def paired_differences(
    y: Truth,
    reference: Floats,
    others: Sequence[Floats],
    groups: NDArray[np.str_],
    ids: NDArray[np.str_] | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> list[dict[str, Difference]]:
    """Return the differences of several models to one, by metric: of numbers, or of classes.

    Parameters
    ----------
    y, groups
        Arrays of shape (n_rows,): measured values, or `Bounds` of so many rows, and groups of rows
        that belong together.
    reference, others
        Arrays of shape (n_rows,): predictions of the model to compare with, and of each other; or
        of shape (n_rows, n_classes), the probabilities.
    ids
        Array of shape (n_rows,): which row each is, where some are predicted several times.
    n_resamples, seed
        Number of resamples of each kind, and the seed that gives all models the same ones.
    level
        Coverage of the intervals.

    Notes
    -----
    Resamples in which a metric is undefined are left out of its percentiles.
    """
    predicted = [reference, *others]
    metrics: Mapping[str, Metric] = CLASS_METRICS if reference.ndim == 2 else metrics_of(y)
    plain = [score_all(y, of_model, metrics) for of_model in predicted]
    intervals = {
        kind: _intervals(y, predicted, of_kind, n_resamples, seed, level)
        for kind, of_kind in (("row", ids), ("group", groups))
    }
    return [
        {
            name: Difference(
                plain[k][name] - plain[0][name],
                row=intervals["row"][name][k - 1],
                group=intervals["group"][name][k - 1],
            )
            for name in metrics
        }
        for k in range(1, len(predicted))
    ]


def _intervals(
    y: Truth,
    predicted: Sequence[Floats],
    groups: NDArray[np.str_] | None,
    n_resamples: int,
    seed: int,
    level: float,
) -> dict[str, list[Interval]]:
    parts = [
        _score_models(y, predicted, counts)
        for counts in resample_counts(len(y), groups, n_resamples, seed)
    ]
    tail = (1.0 - level) / 2.0
    found = {}
    for name in parts[0]:
        scores = np.concatenate([part[name] for part in parts])
        differences = scores[:, 1:] - scores[:, :1]
        found[name] = [_percentiles(column, tail) for column in differences.T]
    return found


def metrics_of(y: Truth) -> Mapping[str, Metric]:
    """Return the usual metrics of a number, and of intervals what there is beside them."""
    return {**METRICS, **BOUNDS_METRICS} if isinstance(y, Bounds) else METRICS


def _score_models(y: Truth, predicted: Sequence[Floats], counts: Ints) -> Mapping[str, Floats]:
    if predicted[0].ndim == 1 or isinstance(y, Bounds):
        return score_resamples(y, np.column_stack(predicted), counts, tuple(metrics_of(y)))
    return {
        name: np.column_stack([metric.of_resamples(y, one, counts) for one in predicted])
        for name, metric in CLASS_METRICS.items()
    }


def mean_intervals(
    values: Floats,
    groups: NDArray[np.str_] | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Return percentile intervals of the means of columns.

    Parameters
    ----------
    values
        Array of shape (n_rows, n_columns), such as differences of two models on the same rows.
    groups
        Array of shape (n_rows,). If given, whole groups are drawn rather than rows.
    n_resamples, seed, level
        As in `bootstrap_intervals`.
    """
    means = np.concatenate(
        [
            counts @ values / counts.sum(axis=1, keepdims=True)
            for counts in resample_counts(len(values), groups, n_resamples, seed)
        ]
    )
    return [_percentiles(column, (1.0 - level) / 2.0) for column in means.T]


def _percentiles(values: Floats, tail: float) -> Interval:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return float(low), float(high)


def resample_counts(
    n_rows: int, groups: NDArray[np.str_] | None, n_resamples: int, seed: int
) -> Iterator[Ints]:
    """Yield how often each resample holds each row, in arrays of shape (n_some, n_rows).

    With groups, as many whole groups are drawn as there are; else as many rows.
    """
    rng = np.random.default_rng(seed)
    member = np.arange(n_rows)
    if groups is not None:
        _, member = np.unique(groups, return_inverse=True)
    n_units = int(member.max()) + 1
    some = max(1, CHUNK_CELLS // n_rows)
    for start in range(0, n_resamples, some):
        n_some = min(some, n_resamples - start)
        drawn = rng.integers(0, n_units, (n_some, n_units))
        places = (drawn + n_units * np.arange(n_some)[:, None]).ravel()
        counts = np.bincount(places, minlength=n_some * n_units).reshape(n_some, n_units)
        yield counts[:, member]


def score_resamples(
    y: Truth, predicted: Floats, counts: Ints, names: Collection[str] = tuple(METRICS)
) -> Mapping[str, Floats]:
    """Return metrics of every model on every resample, in arrays (n_resamples, n_models).

    Parameters
    ----------
    y
        Array of shape (n_rows,), or `Bounds` of so many rows.
    predicted
        Array of shape (n_rows, n_models).
    counts
        Array of shape (n_resamples, n_rows): how often a resample holds a row.
    names
        Which of the usual metrics.
    """
    weights = counts.astype(np.float64)
    total = weights.sum(axis=1, keepdims=True)
    errors = y.residuals(predicted) if isinstance(y, Bounds) else predicted - y[:, None]
    squares = weights @ errors**2
    found: dict[str, Floats] = {}
    if "concordance" in names:
        of_models = [weighted_concordance(y, column, counts) for column in predicted.T]
        found["concordance"] = np.column_stack(of_models)
    if "rmse" in names:
        found["rmse"] = np.sqrt(squares / total)
    if "mae" in names:
        found["mae"] = weights @ np.abs(errors) / total
    if isinstance(y, Bounds):
        return {**found, **_score_measured(y, predicted, counts, {"r2", "spearman"} & {*names})}
    if "r2" in names:
        found["r2"] = 1.0 - squares / _spread(y, weights, total[:, 0])[:, None]
    if "spearman" in names:
        found["spearman"] = _rank_correlations(y, predicted, weights)
    return found


def _score_measured(
    y: Bounds, predicted: Floats, counts: Ints, names: Collection[str]
) -> Mapping[str, Floats]:
    """Return metrics over the measured rows of each resample; NaN where it holds none."""
    values, of_these = measured(y, predicted)
    found = {name: np.full((len(counts), predicted.shape[1]), np.nan) for name in names}
    drawn = counts[:, y.is_measured]
    holds_any = drawn.any(axis=1)
    if names and holds_any.any():
        for name, scores in score_resamples(values, of_these, drawn[holds_any], names).items():
            found[name][holds_any] = scores
    return found


def _spread(y: Floats, weights: Floats, total: Floats) -> Floats:
    """Return the sum of squared distances from each resample's mean; NaN where there is none."""
    centred = y - y.mean()
    spread = weights @ centred**2 - (weights @ centred) ** 2 / total
    # A resample of one value alone has no spread, but for rounding.
    return np.where(spread > 1e-12 * total * max(np.ptp(y), 1e-300) ** 2, spread, np.nan)


def _rank_correlations(y: Floats, predicted: Floats, weights: Floats) -> Floats:
    of_y = _centred_ranks(y, weights)
    spread_y = np.einsum("bn,bn,bn->b", weights, of_y, of_y)
    found = np.empty((len(weights), predicted.shape[1]))
    for k, column in enumerate(predicted.T):
        ranks = _centred_ranks(column, weights)
        both = np.einsum("bn,bn,bn->b", weights, of_y, ranks)
        spread = np.einsum("bn,bn,bn->b", weights, ranks, ranks)
        # Predictions that rank nothing have no correlation; measured values that do not, none.
        product = np.where(spread_y > 0, spread_y, np.nan) * np.where(spread > 0, spread, np.inf)
        found[:, k] = both / np.sqrt(product)
    return found


def _centred_ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank of every row's value in each resample, less the mean of all ranks."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(held, axis=1) - held / 2.0
    place = np.empty(len(values), dtype=np.int64)
    place[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    centred: Floats = ranks[:, place] - weights.sum(axis=1, keepdims=True) / 2.0
    return centred
