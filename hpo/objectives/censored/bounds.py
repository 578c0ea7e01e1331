"""Targets that are known as intervals alone, and the order that they leave predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is known of the target of some rows; it takes the place of `y` in metrics.

    Attributes
    ----------
    ends
        Array of shape (n_rows, 2): lower and upper bound, equal where the target was measured, one
        of them infinite where a limit is known.
    """

    ends: Floats

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Bounds:
        return Bounds(self.ends[rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n_rows,)`, that of the values in whose place they are."""
        return (len(self.ends),)

    @property
    def lower(self) -> Floats:
        """Array of shape (n_rows,), -inf where nothing is known."""
        return self.ends[:, 0]

    @property
    def upper(self) -> Floats:
        """Array of shape (n_rows,), inf where nothing is known."""
        return self.ends[:, 1]

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """Whether the target of each row is a value."""
        return np.asarray(self.lower == self.upper, dtype=bool)

    def residuals(self, predicted: Floats) -> Floats:
        """Return the nearest value that is possible less the prediction: 0 within the bounds.

        Arrays of shape (n_rows,), or (n_rows, n_models).
        """
        lower, upper = self.ends.T.reshape(2, -1, *[1] * (predicted.ndim - 1))
        nearest = np.minimum(np.maximum(predicted, lower), upper)
        return np.asarray(nearest - predicted, dtype=np.float64)


Truth = Floats | Bounds


def truth_of(y: Floats, bounds: Floats | None) -> Truth:
    """Return what predictions are held against: bounds of shape (n_rows, 2), where there are."""
    return y if bounds is None else Bounds(bounds)


def residuals(y: Truth, predicted: Floats) -> Floats:
    """Return what is known of the target less the predictions."""
    return y.residuals(predicted) if isinstance(y, Bounds) else y - predicted


def measured(y: Truth, predicted: Floats) -> tuple[Floats, Floats]:
    """Return the values and the predictions of the rows that were measured.

    Without bounds these are all. `predicted` is of shape (n_rows,) or (n_rows, n_models).
    """
    if not isinstance(y, Bounds):
        return y, predicted
    kept = y.is_measured
    return y.lower[kept], predicted[kept]


def concordance(y: Truth, predicted: Floats) -> float:
    """Return Harrell's concordance index; NaN where no two rows can be compared.

    See `weighted_concordance`.
    """
    return float(weighted_concordance(y, predicted, np.ones((1, len(y))))[0])


def weighted_concordance(y: Truth, predicted: Floats, weights: NDArray[np.number]) -> Floats:
    """Return Harrell's concordance index of every set of weights.

    The share of pairs of rows that predictions put in the order in which the targets are known to
    be, of those whose order is known: where the intervals have no more in common than an end, which
    belongs to one of them alone where one of the rows was not measured. Equal predictions count
    one half. Harrell et al., JAMA 247, 2543 (1982); with limits to one side it is
    `concordance_index_censored` of scikit-survival.

    Parameters
    ----------
    y, predicted
        Of length n_rows.
    weights
        Array of shape (n_sets, n_rows): how often a set holds each row.

    Returns
    -------
    array of shape (n_sets,)
        NaN where no pair can be compared.

    Notes
    -----
    A row that is surely below comes before a row that is surely above it in a list of upper bounds
    (of what is below) and lower bounds (of what is above). Pairs are counted between halves of the
    list, of its halves, and so on, each time in the order of predictions: O(n log^2 n).
    """
    n = len(y)
    ends = y.ends if isinstance(y, Bounds) else np.column_stack([y, y])
    is_measured = ends[:, 0] == ends[:, 1]
    # Of bounds that are equal, those come first whose row may be below all rows after it.
    turn = np.concatenate((np.where(is_measured, 2, 0), np.where(is_measured, 1, 3)))
    order = np.lexsort((turn, np.concatenate((ends[:, 1], ends[:, 0]))))
    row, is_above = order % n, order >= n
    counted = np.asarray(weights, dtype=np.float64)[:, row]
    below, above = counted * ~is_above, counted * is_above
    pairs = (np.cumsum(below, axis=1) * above).sum(axis=1)
    right = _pairs_in_order(below, above, predicted[row])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(right / pairs, dtype=np.float64)


def _pairs_in_order(below: Floats, above: Floats, predicted: Floats) -> Floats:
    """Return the weight of pairs that are in order in a list and by prediction, ties one half.

    Parameters
    ----------
    below, above
        Arrays of shape (n_sets, n): what a place of the list counts as the first of a pair, and as
        the second.
    predicted
        Array of shape (n,).
    """
    n = predicted.shape[0]
    total = np.zeros(len(below))
    place = np.arange(n)
    size = 1
    while size < n:
        block, is_second = place // (2 * size), place // size % 2 == 1
        order = np.lexsort((predicted, block))
        values, blocks = predicted[order], block[order]
        is_new = np.concatenate(([True], (values[1:] != values[:-1]) | (blocks[1:] != blocks[:-1])))
        starts = np.flatnonzero(is_new)
        tie = np.cumsum(is_new) - 1
        ends = np.append(starts[1:], n)
        first_of_block = np.searchsorted(blocks, blocks)
        first = below[:, order] * ~is_second[order]
        so_far = np.concatenate((np.zeros((len(below), 1)), np.cumsum(first, axis=1)), axis=1)
        smaller = (so_far[:, starts[tie]] + so_far[:, ends[tie]]) / 2.0 - so_far[:, first_of_block]
        total += (smaller * above[:, order] * is_second[order]).sum(axis=1)
        size *= 2
    return total
