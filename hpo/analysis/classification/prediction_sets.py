"""Sets of classes that hold the actual one as often as they promise: split conformal prediction.

The score of a calibration row is 1 less the probability of its class; a set has every class whose
score is not above the conformal quantile of these. Such sets are the smallest on average of those
with that coverage, if probabilities are right, and may be empty: Sadinle, Lei & Wasserman, J. Am.
Stat. Assoc. 114, 223 (2019). What is promised is marginal, as of intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.best_model import Predictions
from hpo.analysis.conformal import HeldOut, conformal_quantile, cross_quantiles
from hpo.errors import HpoError

Floats = NDArray[np.float64]
COVERAGE = 0.9


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Which classes the set of every row has.

    Attributes
    ----------
    holds
        Array of shape (n_rows, n_classes).
    coverage
        The nominal coverage.
    """

    holds: NDArray[np.bool_]
    coverage: float

    @property
    def size(self) -> NDArray[np.int64]:
        """Number of classes of every set; array of shape (n_rows,)."""
        return np.asarray(self.holds.sum(axis=1), dtype=np.int64)

    def covers(self, y: Floats) -> NDArray[np.bool_]:
        """Return whether each set has the class of its row; arrays of shape (n_rows,)."""
        return np.asarray(self.holds[np.arange(len(y)), y.astype(np.int64)], dtype=np.bool_)


def conformity_scores(y: Floats, probabilities: Floats) -> Floats:
    """Return 1 less the probability of what is there.

    Arrays of shape (n_rows,) and (n_rows, n_classes).
    """
    return np.asarray(1.0 - probabilities[np.arange(len(y)), y.astype(np.int64)], dtype=np.float64)


def sets_at(probabilities: Floats, limit: Floats | float, coverage: float) -> PredictionSets:
    """Return the sets of rows whose classes have a score of at most `limit`, or one for each."""
    limits = np.broadcast_to(np.asarray(limit, dtype=np.float64), len(probabilities))
    return PredictionSets(1.0 - probabilities <= limits[:, None] + 1e-12, coverage)


def calibrated_sets(
    cv: Predictions, test: Predictions | None, coverage: float = COVERAGE
) -> tuple[PredictionSets | None, PredictionSets | None, str]:
    """Return the sets of out-of-fold and of held-out rows, and why some are missing.

    Out-of-fold rows are calibrated by rows of other folds and groups, held-out rows by all of them.
    """
    known = conformity_scores(cv.y, cv.predicted)
    held_out = HeldOut(cv.y, known[:, None], cv.fold, cv.groups, cv.shared_ids)
    problem = ""

    def of_cv() -> PredictionSets:
        limits = cross_quantiles(held_out, known, coverage, by_group=False)
        return sets_at(cv.predicted, limits, coverage)

    def of_test() -> PredictionSets | None:
        if test is None:
            return None
        limit = conformal_quantile(known, coverage, cv.shared_ids)
        return sets_at(test.predicted, limit, coverage)

    found: list[PredictionSets | None] = []
    makers: tuple[Callable[[], PredictionSets | None], ...] = (of_cv, of_test)
    for make in makers:
        try:
            found.append(make())
        except HpoError as exc:
            found.append(None)
            problem = str(exc)
    return found[0], found[1], problem


def coverage_across_folds(held_out: HeldOut, probabilities: Floats, coverage: float) -> list[float]:
    """Return, for each fold, the share of its rows within sets made from the other folds."""
    known = held_out.predicted[:, 0]
    try:
        limits = cross_quantiles(held_out, known, coverage, by_group=False)
    except HpoError:  # there is one fold only
        return []
    covers = sets_at(probabilities, limits, coverage).covers(held_out.y)
    return [float(covers[held_out.fold == fold].mean()) for fold in np.unique(held_out.fold)]
