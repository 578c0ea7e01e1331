"""Calibrated intervals of predictions, from quantile models or from one model's residuals.

Calibration uses rows that the folds held out, never the rows that an interval is made for. What
is promised is marginal: over all rows, drawn as the calibration rows were, at least the nominal
share lies within its interval. Nothing is promised of a single family, or of rows that are
unlike the calibration rows; `assess` says how it went, by family too.

A score of conformity says by how much an interval missed a calibration row (negative inside). The
interval of a new row is moved by a quantile of these scores with the finite-sample correction:
of n scores the ceil((n + 1) * coverage)-th smallest.

Sources: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005); Romano, Patterson
& Candès, Conformalized quantile regression, NeurIPS (2019), arXiv:1905.03222; Chernozhukov,
Fernández-Val & Galichon, Quantile and probability curves without crossing, Econometrica 78, 1093
(2010); Lee, Barber & Willett, Distribution-free inference with hierarchical data, arXiv:2306.06342.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpo.analysis.best_model import Predictions
from hpo.errors import HpoError

Floats = NDArray[np.float64]
Labels = NDArray[np.str_]

# The sums n * coverage of exact fractions come out a rounding error too high or too low.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows with predictions by models that were fitted without them.

    Attributes
    ----------
    y
        Array of shape (n_rows,).
    predicted
        Array of shape (n_rows, n_models): one column, or lower, median and upper quantile.
    fold
        Array of shape (n_rows,): the fold that held the row out.
    groups
        Array of shape (n_rows,): rows of one group are not independent of one another.
    ids
        Array of shape (n_rows,): which row each is, where some are there several times, predicted
        by the models of several folds; None if all differ.
    """

    y: Floats
    predicted: Floats
    fold: NDArray[np.int64]
    groups: Labels
    ids: Labels | None = None

    def units(self, *, by_group: bool) -> Labels | None:
        """Return what is taken as drawn alike: groups, or rows; None if every row is its own."""
        return self.groups if by_group else self.ids


@dataclass(frozen=True, eq=False)
class Intervals:
    """An interval and a central prediction per row, in units of the target.

    Attributes
    ----------
    lower, centre, upper
        Arrays of shape (n_rows,) with lower <= centre <= upper; the ends are infinite where the
        calibration rows are too few for the coverage.
    coverage
        The nominal coverage.
    """

    lower: Floats
    centre: Floats
    upper: Floats
    coverage: float

    @property
    def width(self) -> Floats:
        """Width of every interval; never negative."""
        return self.upper - self.lower


@dataclass(frozen=True)
class Assessment:
    """How often intervals held the measured value, and how wide they were.

    Attributes
    ----------
    n_rows
        Number of rows.
    coverage
        Fraction of rows within their interval, ends included.
    mean_width
        In units of the target; infinite if one interval is.
    families
        The same by label; empty if no labels were given.
    """

    n_rows: int
    coverage: float
    mean_width: float
    families: Mapping[str, Assessment]


def join_predictions(*studies: Predictions) -> HeldOut:
    """Return out-of-fold predictions of one study, or of several, side by side.

    Parameters
    ----------
    studies
        One study's, or those of the lower, the median and the upper quantile.

    Raises
    ------
    HpoError
        If the studies differ in rows, targets or folds.
    """
    first = studies[0]
    for name in ("ids", "y", "fold", "groups"):
        for other in studies[1:]:
            if not np.array_equal(getattr(other, name), getattr(first, name)):
                raise HpoError(
                    f"predictions that are to be joined differ in their {name}: studies of several "
                    "quantiles need the same [table] and [cv]"
                )
    predicted = np.column_stack([study.predicted for study in studies])
    return HeldOut(first.y, predicted, first.fold, first.groups, first.shared_ids)


def repair_crossing(quantiles: ArrayLike) -> Floats:
    """Return predicted quantiles in ascending order within every row.

    Rearranged quantiles are never further from the true ones than those that cross (Chernozhukov
    et al. 2010).

    Parameters
    ----------
    quantiles
        Array of shape (n_rows, n_levels), levels ascending.
    """
    return np.sort(np.asarray(quantiles, dtype=np.float64), axis=1)


def conformal_quantile(
    scores: ArrayLike, coverage: float, groups: NDArray[np.str_] | None = None
) -> float:
    """Return the quantile of conformity scores that gives new rows the coverage.

    Parameters
    ----------
    scores
        Array of shape (n_rows,): scores of calibration rows.
    coverage
        Nominal coverage, above 0 and below 1.
    groups
        Array of shape (n_rows,). If given, groups rather than rows are taken as drawn alike, be it
        rows that several folds have predicted, with all their scores: each of K groups has the
        weight 1 / (K + 1), shared equally by its rows, and what is promised is the coverage of a
        row of a new group (Lee et al. 2023, HCP).

    Returns
    -------
    float
        Without groups the ceil((n + 1) * coverage)-th smallest score; infinite if there are too
        few rows or groups for that.

    Raises
    ------
    HpoError
        If the coverage is out of range.
    """
    if not 0 < coverage < 1:
        raise HpoError(f"coverage must be above 0 and below 1, got {coverage}")
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    if groups is None:
        rank = _upper_rank(len(values), coverage)
        return float(values[order[rank - 1]]) if rank <= len(values) else math.inf
    _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1.0 / ((len(sizes) + 1) * sizes[group_of_row])
    reached = np.cumsum(weights[order]) >= coverage - ROUNDING
    return float(values[order[int(np.argmax(reached))]]) if reached.any() else math.inf


def calibrate_quantiles(
    held_out: HeldOut, quantiles: ArrayLike, coverage: float = 0.9, *, by_group: bool = False
) -> Intervals:
    """Return conformalised quantile intervals of new rows.

    A calibration row's score is max(lower - y, y - upper) of its out-of-fold quantiles (Romano et
    al. 2019); both ends of every new interval move outwards by the conformal quantile of
    the scores, inwards if that is negative, but not past the median. Crossing is repaired first.

    Parameters
    ----------
    held_out
        Calibration rows with their lower, median and upper quantile.
    quantiles
        Array of shape (n_new, 3) of the new rows, by models fitted on all training rows. These are
        not the models of the folds, so that the coverage is as good as their likeness
        (cross-conformal; exact for rows that one split held out).
    coverage
        Nominal coverage, at least 0.5 and below 1.
    by_group
        Whether groups, not rows, are drawn alike; see `conformal_quantile`.

    Raises
    ------
    HpoError
        If shapes or the coverage are not as said.
    """
    _require_half(coverage)
    shift = conformal_quantile(
        _quantile_scores(held_out), coverage, held_out.units(by_group=by_group)
    )
    return _shift_quantiles(_three(quantiles), np.float64(shift), coverage)


def cross_calibrate_quantiles(
    held_out: HeldOut, coverage: float = 0.9, *, by_group: bool = False
) -> Intervals:
    """Return conformalised intervals of the held-out rows themselves.

    Rows of a fold are calibrated by the other folds alone, without rows of their own groups.

    Raises
    ------
    HpoError
        If a fold leaves nothing to calibrate with, or shapes or the coverage are not as said.
    """
    _require_half(coverage)
    shifts = cross_quantiles(held_out, _quantile_scores(held_out), coverage, by_group=by_group)
    return _shift_quantiles(_three(held_out.predicted), shifts, coverage)


def calibrate_residuals(
    held_out: HeldOut, predicted: ArrayLike, coverage: float = 0.9, *, by_group: bool = False
) -> Intervals:
    """Return intervals of one width around one model's predictions of new rows.

    Half the width is the conformal quantile of the absolute out-of-fold residuals (split
    conformal, Vovk et al. 2005).

    Parameters
    ----------
    held_out
        Calibration rows with one prediction each.
    predicted
        Array of shape (n_new,), by a model fitted on all training rows.
    coverage
        Nominal coverage, above 0 and below 1.
    by_group
        As in `calibrate_quantiles`.

    Raises
    ------
    HpoError
        If shapes or the coverage are not as said.
    """
    half = conformal_quantile(_residuals(held_out), coverage, held_out.units(by_group=by_group))
    centre = np.asarray(predicted, dtype=np.float64)
    return Intervals(centre - half, centre, centre + half, coverage)


def cross_calibrate_residuals(
    held_out: HeldOut, coverage: float = 0.9, *, by_group: bool = False
) -> Intervals:
    """Return intervals around the held-out predictions themselves.

    Rows of a fold are calibrated by the other folds alone, without rows of their own groups.

    Raises
    ------
    HpoError
        If a fold leaves nothing to calibrate with, or shapes or the coverage are not as said.
    """
    half = cross_quantiles(held_out, _residuals(held_out), coverage, by_group=by_group)
    centre = held_out.predicted[:, 0]
    return Intervals(centre - half, centre, centre + half, coverage)


def assess(intervals: Intervals, y: ArrayLike, labels: Labels | None = None) -> Assessment:
    """Return how often intervals hold the measured value, over all rows and by label.

    Parameters
    ----------
    intervals
        Intervals of n_rows rows.
    y
        Array of shape (n_rows,): what was measured.
    labels
        Array of shape (n_rows,): the group or the family of every row.

    Raises
    ------
    HpoError
        If there are no rows.
    """
    values = np.asarray(y, dtype=np.float64)
    if len(values) == 0:
        raise HpoError("coverage needs at least one row, got none")
    within = (intervals.lower <= values) & (values <= intervals.upper)
    families = {}
    for label in np.unique(labels) if labels is not None else ():
        rows = labels == label
        families[str(label)] = _assess(within[rows], intervals.width[rows], {})
    return _assess(within, intervals.width, families)


def _assess(
    within: NDArray[np.bool_], width: Floats, families: Mapping[str, Assessment]
) -> Assessment:
    return Assessment(len(within), float(within.mean()), float(width.mean()), families)


def _require_half(coverage: float) -> None:
    """Refuse what would be narrower than half of the values.

    Ends that are not let past the median hold too many then.
    """
    if not 0.5 <= coverage < 1:
        raise HpoError(f"coverage must be at least 0.5 and below 1, got {coverage}")


def _upper_rank(n: int, coverage: float) -> int:
    """Return ceil((n + 1) * coverage), the rank of the finite-sample quantile."""
    return math.ceil((n + 1) * coverage - ROUNDING)


def _three(quantiles: ArrayLike) -> Floats:
    repaired = np.asarray(quantiles, dtype=np.float64)
    if repaired.ndim != 2 or repaired.shape[1] != 3:
        raise HpoError(
            f"intervals need lower, median and upper quantile per row, got shape {repaired.shape}"
        )
    return repair_crossing(repaired)


def _quantile_scores(held_out: HeldOut) -> Floats:
    lower, _, upper = _three(held_out.predicted).T
    scores: Floats = np.maximum(lower - held_out.y, held_out.y - upper)
    return scores


def _residuals(held_out: HeldOut) -> Floats:
    if held_out.predicted.ndim != 2 or held_out.predicted.shape[1] != 1:
        raise HpoError(
            f"residuals need one prediction per row, got shape {held_out.predicted.shape}"
        )
    residuals: Floats = np.abs(held_out.y - held_out.predicted[:, 0])
    return residuals


def _shift_quantiles(quantiles: Floats, shift: Floats | np.float64, coverage: float) -> Intervals:
    """Move both ends outwards; never past the median, which only widens what would be empty."""
    lower, median, upper = quantiles.T
    return Intervals(
        np.minimum(lower - shift, median), median, np.maximum(upper + shift, median), coverage
    )


def cross_quantiles(
    held_out: HeldOut, scores: Floats, coverage: float, *, by_group: bool
) -> Floats:
    """Return for every row the conformal quantile of other folds and other groups."""
    found = np.empty(len(scores))
    for fold in np.unique(held_out.fold):
        rows = held_out.fold == fold
        others = ~rows & ~np.isin(held_out.groups, held_out.groups[rows])
        if not others.any():
            raise HpoError(
                f"fold {fold} leaves no row of another fold and another group to calibrate with; "
                'use folds of whole groups: scheme = "group_kfold" in [cv]'
            )
        units = held_out.units(by_group=by_group)
        of_others = None if units is None else units[others]
        found[rows] = conformal_quantile(scores[others], coverage, of_others)
    return found
