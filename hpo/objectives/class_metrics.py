"""Scores of predicted class probabilities, each equal to scikit-learn's of that name.

They are computed from weights of rows, for many sets of weights at once: a resample of a bootstrap
is a set of counts, and thousands of them take as long as a few calls of scikit-learn's functions,
which know one set of weights and check their arguments anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Classified:
    """Rows with their classes, predicted probabilities, and weights.

    Attributes
    ----------
    y
        Array of shape (n_rows,): positions of the classes.
    probabilities
        Array of shape (n_rows, n_classes).
    weights
        Array of shape (n_sets, n_rows).
    """

    y: Ints
    probabilities: Floats
    weights: Floats

    @property
    def total(self) -> Floats:
        """Sum of the weights of each set; array of shape (n_sets,)."""
        return np.asarray(self.weights.sum(axis=1), dtype=np.float64)

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes, of which the last one is the positive one."""
        return bool(self.probabilities.shape[1] == 2)

    def mean(self, values: Floats) -> Floats:
        """Return weighted means of values of shape (n_rows,)."""
        return np.asarray(self.weights @ values / self.total, dtype=np.float64)

    def confusion(self) -> Floats:
        """Return confusion matrices, of shape (n_sets, n_classes, n_classes), actual first."""
        n = self.probabilities.shape[1]
        cell = n * self.y + predicted_classes(self.probabilities)
        of_cell = np.zeros((len(self.y), n * n))
        of_cell[np.arange(len(self.y)), cell] = 1.0
        return np.asarray(self.weights @ of_cell, dtype=np.float64).reshape(-1, n, n)

    def each_class(self, score: Callable[[NDArray[np.bool_], Floats, Floats], Floats]) -> Floats:
        """Return a score of the positive class, or its mean over each class against all others."""
        n = self.probabilities.shape[1]
        found = [
            score(self.y == k, self.probabilities[:, k], self.weights)
            for k in ([1] if self.is_binary else range(n))
        ]
        return np.asarray(np.mean(found, axis=0), dtype=np.float64)


def predicted_classes(probabilities: Floats) -> Ints:
    """Return the most probable class of every row; of two, the first unless the last is above."""
    return np.asarray(np.argmax(probabilities, axis=1), dtype=np.int64)


@dataclass(frozen=True)
class ClassMetric:
    """A score of predicted class probabilities.

    Attributes
    ----------
    score
        What it is for every set of weights; NaN where it is undefined.
    maximised
        Whether a large one is good.
    """

    score: Callable[[Classified], Floats]
    maximised: bool = True

    def __call__(self, y: Floats, predicted: Floats) -> float:
        """Return the score; arrays of shape (n_rows,) and (n_rows, n_classes)."""
        return float(self.of_resamples(y, predicted, np.ones((1, len(y))))[0])

    def of_resamples(self, y: Floats, predicted: Floats, weights: NDArray[np.number]) -> Floats:
        """Return the score for every set of weights, of shape (n_sets, n_rows)."""
        rows = Classified(y.astype(np.int64), predicted, np.asarray(weights, dtype=np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.score(rows)


def _accuracy(rows: Classified) -> Floats:
    return rows.mean((predicted_classes(rows.probabilities) == rows.y).astype(np.float64))


def _balanced_accuracy(rows: Classified) -> Floats:
    """Return the mean recall of the classes that there are."""
    confusion = rows.confusion()
    recall = np.diagonal(confusion, axis1=1, axis2=2) / confusion.sum(axis=2)
    return _nanmean(recall)


def _f1_macro(rows: Classified) -> Floats:
    """Return the mean F1 of the classes that are there or predicted."""
    confusion = rows.confusion()
    both = confusion.sum(axis=1) + confusion.sum(axis=2)
    return _nanmean(2.0 * np.diagonal(confusion, axis1=1, axis2=2) / both)


def _mcc(rows: Classified) -> Floats:
    """Return Matthews' correlation of several classes: Gorodkin, Comput. Biol. Chem. 28, 367.

    0 where all rows are, or are predicted to be, of one class.
    """
    confusion = rows.confusion()
    actual, predicted, total = confusion.sum(axis=2), confusion.sum(axis=1), rows.total
    right = np.trace(confusion, axis1=1, axis2=2)
    both = right * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return np.where(spread > 0, both / np.sqrt(spread), 0.0)


def _log_loss(rows: Classified) -> Floats:
    """Return the mean negative logarithm of the probability of what is there."""
    tiny = np.finfo(np.float64).eps
    of_class = rows.probabilities[np.arange(len(rows.y)), rows.y]
    return rows.mean(-np.log(np.clip(of_class, tiny, 1.0 - tiny)))


def _brier(rows: Classified) -> Floats:
    """Return the mean squared distance of the probabilities from what is there.

    Of two classes that of the positive one, which is half the sum over both.
    """
    actual = np.eye(rows.probabilities.shape[1])[rows.y]
    squares = ((rows.probabilities - actual) ** 2).sum(axis=1)
    return rows.mean(squares / 2.0 if rows.is_binary else squares)


def _roc_auc(rows: Classified) -> Floats:
    return rows.each_class(_auc)


def _average_precision(rows: Classified) -> Floats:
    return rows.each_class(_area_of_precision)


def cumulate(
    is_class: NDArray[np.bool_], scores: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return what a falling threshold takes in, of the class and of all others.

    Parameters
    ----------
    is_class, scores
        Arrays of shape (n_rows,).
    weights
        Array of shape (n_sets, n_rows).

    Returns
    -------
    tuple of arrays
        Weights of the class and of the others, of shape (n_sets, n_thresholds), and the distinct
        scores that are the thresholds, of shape (n_thresholds,), descending.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.concatenate((ordered[1:] != ordered[:-1], [True])))
    weighed = weights[:, order]
    taken = np.cumsum(weighed * is_class[order], axis=1)[:, last]
    others = np.cumsum(weighed * ~is_class[order], axis=1)[:, last]
    return taken, others, ordered[last]


def _auc(is_class: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve; NaN where all rows are on one side."""
    taken, others, _ = cumulate(is_class, scores, weights)
    nothing = np.zeros((len(weights), 1))
    x, y = np.hstack([nothing, others]), np.hstack([nothing, taken])
    area = ((x[:, 1:] - x[:, :-1]) * (y[:, 1:] + y[:, :-1])).sum(axis=1) / 2.0
    return np.asarray(area / (x[:, -1] * y[:, -1]), dtype=np.float64)


def _area_of_precision(is_class: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the mean precision over what each threshold finds; NaN where there is nothing."""
    taken, others, _ = cumulate(is_class, scores, weights)
    found = np.diff(taken, axis=1, prepend=0.0) / taken[:, -1:]
    precision = np.where(taken > 0, taken / (taken + others), 0.0)
    return np.asarray((found * precision).sum(axis=1), dtype=np.float64)


def _nanmean(values: Floats) -> Floats:
    """Return means over the last axis of what is not NaN."""
    known = ~np.isnan(values)
    sums = np.where(known, values, 0.0).sum(axis=-1)
    return np.asarray(sums / known.sum(axis=-1), dtype=np.float64)


CLASS_METRICS: Mapping[str, ClassMetric] = MappingProxyType(
    {
        "roc_auc": ClassMetric(_roc_auc),
        "average_precision": ClassMetric(_average_precision),
        "log_loss": ClassMetric(_log_loss, maximised=False),
        "brier_score": ClassMetric(_brier, maximised=False),
        "balanced_accuracy": ClassMetric(_balanced_accuracy),
        "accuracy": ClassMetric(_accuracy),
        "f1_macro": ClassMetric(_f1_macro),
        "matthews_corrcoef": ClassMetric(_mcc),
    }
)

# What can be said of predicted classes that come without probabilities.
LABEL_METRICS: Mapping[str, ClassMetric] = MappingProxyType(
    {
        name: CLASS_METRICS[name]
        for name in ("balanced_accuracy", "accuracy", "f1_macro", "matthews_corrcoef")
    }
)
