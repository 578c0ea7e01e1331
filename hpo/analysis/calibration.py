"""Intervals around the predictions of the best model, and whether they hold what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpo.analysis.best_model import Predictions
from hpo.analysis.conformal import (
    Intervals,
    assess,
    calibrate_quantiles,
    calibrate_residuals,
    cross_calibrate_quantiles,
    cross_calibrate_residuals,
    join_predictions,
)
from hpo.errors import HpoError

COVERAGE = 0.9
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

Floats = NDArray[np.float64]
Labels = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Conformal intervals of the out-of-fold rows and of the held-out rows.

    Attributes
    ----------
    cv
        Each fold's rows calibrated by rows of other folds and other groups.
    test
        Calibrated by all out-of-fold rows.
    coverage
        The nominal one.
    problem
        Why one of them is missing; "" if none is.
    """

    cv: Intervals | None
    test: Intervals | None
    coverage: float
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Curve:
    """Observed against nominal coverage.

    Attributes
    ----------
    nominal, observed, low, high
        Arrays of shape (n_levels,): shares, with the 95 % interval of the observed one.
    """

    nominal: Floats
    observed: Floats
    low: Floats
    high: Floats


def calibrate(cv: Predictions, test: Predictions | None, coverage: float = COVERAGE) -> Calibrated:
    """Return conformal intervals from the absolute out-of-fold residuals.

    Parameters
    ----------
    cv, test
        Predictions of the value itself, in units of the target.
    coverage
        The nominal coverage, above 0 and below 1.
    """
    held_out = join_predictions(cv)
    return _join(
        lambda: cross_calibrate_residuals(held_out, coverage),
        None if test is None else calibrate_residuals(held_out, test.predicted, coverage),
        coverage,
    )


def calibrate_three(
    cv: Sequence[Predictions],
    test: Sequence[Predictions],
    coverage: float = COVERAGE,
    *,
    by_group: bool = False,
) -> Calibrated:
    """Return conformalised intervals from predictions of three quantiles.

    Parameters
    ----------
    cv, test
        Predictions of the lower quantile, the median and the upper quantile of the same rows;
        `test` is empty where there are no held-out rows.
    coverage
        The nominal coverage, at least 0.5 and below 1.
    by_group
        Whether groups rather than rows are taken as drawn alike: `intervals.conformal_quantile`.

    Raises
    ------
    HpoError
        If the three are not of the same rows and folds.
    """
    held_out = join_predictions(*cv)
    of_test = None
    if test:
        quantiles = join_predictions(*test).predicted
        of_test = calibrate_quantiles(held_out, quantiles, coverage, by_group=by_group)
    return _join(
        lambda: cross_calibrate_quantiles(held_out, coverage, by_group=by_group), of_test, coverage
    )


def _join(cross: Callable[[], Intervals], of_test: Intervals | None, coverage: float) -> Calibrated:
    """Return the intervals of both sets of rows, or why there are none of one."""
    problem, of_cv = "", None
    try:
        of_cv = cross()
    except HpoError as exc:
        problem = str(exc)
    if any(made is not None and np.isinf(made.width).any() for made in (of_cv, of_test)):
        needed = math.ceil(round(coverage / (1.0 - coverage), 9))
        problem = (
            f"intervals of {100 * coverage:g} % need at least {needed} validated rows beside "
            "those of the fold"
        )
        of_cv, of_test = _finite(of_cv), _finite(of_test)
    return Calibrated(of_cv, of_test, coverage, problem)


def _finite(made: Intervals | None) -> Intervals | None:
    return None if made is None or np.isinf(made.width).any() else made


def calibration_curve(
    calibrate_at: Callable[[float], Calibrated],
    rows: Mapping[str, Predictions],
    levels: Sequence[float] = LEVELS,
) -> dict[str, Curve]:
    """Return how often intervals of several nominal coverages hold the value: "cv" and "test".

    A set of rows is left out where it has no intervals, as is a level that needs more rows.

    Parameters
    ----------
    calibrate_at
        Makes the intervals of a nominal coverage.
    rows
        The rows of "cv" and, if there are any, "test".
    levels
        The nominal coverages.
    """
    made = [(level, calibrate_at(level)) for level in levels]
    curves = {}
    for name, of_set in rows.items():
        found = [(level, getattr(of_level, name)) for level, of_level in made]
        shares = [
            (level, assess(intervals, of_set.y).coverage) for level, intervals in found if intervals
        ]
        if shares:
            nominal, observed = np.array(shares).T
            curves[name] = Curve(nominal, observed, *wilson_interval(observed, of_set.n_rows))
    return curves


def wilson_interval(share: ArrayLike, n_rows: int) -> tuple[Floats, Floats]:
    """Return the 95 % score interval of binomial shares.

    Wilson, J. Am. Stat. Assoc. 22, 209 (1927). It takes rows for independent.

    Parameters
    ----------
    share
        Observed shares.
    n_rows
        Of how many rows.
    """
    # Importing it takes longer than all else here, and there is no need of it for intervals.
    from scipy.stats import binomtest

    found = [
        binomtest(round(held * n_rows), n_rows).proportion_ci(0.95, method="wilson")
        for held in np.atleast_1d(share)
    ]
    low, high = np.array(found, dtype=np.float64).T
    return low, high
