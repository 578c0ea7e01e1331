"""Curves of predicted class probabilities, with bands from resampling whole groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.best_model import Predictions
from hpo.analysis.bootstrap import resample_counts
from hpo.analysis.calibration import wilson_interval
from hpo.objectives.class_metrics import Classified, cumulate

Floats = NDArray[np.float64]

GRID = np.linspace(0.0, 1.0, 101)
N_RESAMPLES = 400  # of a band, whose ends are drawn and not read off
N_BINS = 10


@dataclass(frozen=True, eq=False)
class RateCurve:
    """One rate against another, as the threshold of a class falls.

    Attributes
    ----------
    x, y
        Arrays of shape (n_points,).
    low, high
        Arrays of the shape of `GRID`: ends of 95 % of the resamples, at each rate of it.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often a class is there, against the probability that was predicted.

    Attributes
    ----------
    predicted, observed, low, high
        Arrays of shape (n_bins,): the mean probability of a bin, the share of its rows that are of
        the class, and the 95 % interval of that.
    error
        Expected calibration error: the mean distance of both over all rows (Guo et al., ICML
        2017, arXiv:1706.04599).
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    error: float


def roc_curve(rows: Predictions, k: int) -> RateCurve | None:
    """Return the true positive rate of a class against the false positive rate.

    None where all rows are of the class, or none is.
    """

    def rates(taken: Floats, others: Floats) -> tuple[Floats, Floats]:
        return others / others[-1], taken / taken[-1]

    return _curve(rows, k, rates, start=(0.0, 0.0))


def precision_recall_curve(rows: Predictions, k: int) -> RateCurve | None:
    """Return the precision of a class against its recall; None where no row is of the class."""

    def rates(taken: Floats, others: Floats) -> tuple[Floats, Floats]:
        return taken / taken[-1], taken / np.maximum(taken + others, 1e-300)

    return _curve(rows, k, rates, start=None)


def _curve(
    rows: Predictions, k: int, rates: object, start: tuple[float, float] | None
) -> RateCurve | None:
    of_class, scores = rows.y == k, rows.predicted[:, k]
    if not of_class.any() or of_class.all():
        return None
    assert callable(rates)

    def points(taken: Floats, others: Floats) -> tuple[Floats, Floats]:
        x, y = rates(taken, others)
        first = (x[:1] * 0.0, y[:1]) if start is None else np.array(start)[:, None]
        return np.concatenate((first[0], x)), np.concatenate((first[1], y))

    taken, others, _ = cumulate(of_class, scores, np.ones((1, len(scores))))
    found = []
    for counts in resample_counts(len(rows.y), rows.groups, N_RESAMPLES, 0):
        drawn = cumulate(of_class, scores, counts.astype(np.float64))
        for one_taken, one_others in zip(*drawn[:2], strict=True):
            if one_taken[-1] and one_others[-1]:
                found.append(np.interp(GRID, *points(one_taken, one_others)))
    low, high = np.quantile(np.array(found), [0.025, 0.975], axis=0)
    return RateCurve(*points(taken[0], others[0]), low, high)


def confusion(rows: Predictions) -> NDArray[np.int64]:
    """Return how many rows of each class are predicted to be of each; actual first."""
    weights = np.ones((1, len(rows.y)))
    found = Classified(rows.y.astype(np.int64), rows.predicted, weights).confusion()[0]
    return np.asarray(np.rint(found), dtype=np.int64)


def reliability(rows: Predictions, k: int, n_bins: int = N_BINS) -> Reliability:
    """Return how often a class is there, in bins with equally many rows."""
    probability, of_class = rows.predicted[:, k], rows.y == k
    edges = np.unique(np.quantile(probability, np.linspace(0.0, 1.0, n_bins + 1)[1:-1]))
    of_bin = np.searchsorted(edges, probability, "right")
    bins = np.unique(of_bin)
    sizes = np.array([np.sum(of_bin == one) for one in bins])
    predicted = np.array([probability[of_bin == one].mean() for one in bins])
    observed = np.array([of_class[of_bin == one].mean() for one in bins])
    ends = [wilson_interval(share, int(n)) for share, n in zip(observed, sizes, strict=True)]
    low, high = (np.array([end[side][0] for end in ends]) for side in (0, 1))
    error = float(np.sum(sizes * np.abs(predicted - observed)) / len(probability))
    return Reliability(predicted, observed, low, high, error)


def shares(rows: Predictions) -> NDArray[np.int64]:
    """Return how many rows there are of each class."""
    return np.bincount(rows.y.astype(np.int64), minlength=rows.predicted.shape[1])
