"""Intervals of a report: by hand, where groups leave nothing, and what the curves say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features.table import anion_classes
from hpo.analysis.best_model import Predictions
from hpo.analysis.calibration import (
    LEVELS,
    Calibrated,
    calibrate,
    calibration_curve,
    wilson_interval,
)
from hpo.analysis.conformal import Intervals
from hpo.objectives.metrics import score_all
from hpo.report.figures.model import calibration_figure, cumulative, error_figure, interval_figure
from hpo.report.tables import coverage_table


def rows(n_rows, seed=0, folds=5, noise=1.0, groups=None) -> Predictions:
    rng = np.random.default_rng(seed)
    predicted = rng.normal(size=n_rows)
    y = predicted + noise * rng.normal(size=n_rows)
    names = np.array([f"row {row}" for row in range(n_rows)])
    fold = np.arange(n_rows) % folds if folds else np.full(n_rows, -1)
    groups = names if groups is None else np.full(n_rows, groups)
    return Predictions(names, y, predicted, groups, fold, score_all(y, predicted), {}, {})


def curves_of(cv, test=None):
    sets = {"cv": cv} if test is None else {"cv": cv, "test": test}
    return calibration_curve(lambda coverage: calibrate(cv, test, coverage), sets)


def both(cv, test) -> tuple[Intervals, Intervals]:
    made = calibrate(cv, test)
    assert made.problem == ""
    assert made.cv is not None
    assert made.test is not None
    return made.cv, made.test


def test_intervals_hold_what_they_say_on_both_sets_at_every_level():
    gaps: dict[str, list[np.ndarray]] = {"cv": [], "test": []}
    for seed in range(60):
        cv, test = rows(100, seed), rows(50, 1000 + seed, folds=0)
        curves = curves_of(cv, test)
        for name, curve in curves.items():
            assert curve.nominal.tolist() == list(LEVELS)
            assert (np.diff(curve.observed) >= 0).all()
            assert (curve.low <= curve.observed).all()
            assert (curve.observed <= curve.high).all()
            gaps[name].append(curve.observed - curve.nominal)
    for name, found in gaps.items():
        error = 4.0 * np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
        # At least the nominal share, and 1 / (n + 1) above it at most.
        assert (np.mean(found, axis=0) >= -error).all(), name
        assert (np.mean(found, axis=0) <= error + 1 / 80).all(), name


def test_held_out_rows_are_calibrated_by_all_out_of_fold_rows():
    cv, test = rows(40), rows(10, seed=1, folds=0)
    of_cv, of_test = both(cv, test)
    half = np.sort(np.abs(cv.y - cv.predicted))[36]  # the ceil(41 * 0.9) = 37th
    assert of_test.width == pytest.approx(2 * half)
    assert of_test.centre.tolist() == test.predicted.tolist()
    # A fold's own rows have no say in its width.
    wild = cv.y.copy()
    wild[cv.fold == 2] += 1e6
    other, _ = both(Predictions(**{**vars(cv), "y": wild}), test)
    assert (other.width[cv.fold == 2] == of_cv.width[cv.fold == 2]).all()
    assert (other.width[cv.fold == 1] > of_cv.width[cv.fold == 1]).all()
    assert calibrate(cv, None).test is None


def test_groups_on_both_sides_of_every_fold_leave_no_interval_and_say_so():
    cv, test = rows(40, groups="paper"), rows(10, seed=1, folds=0)
    made = calibrate(cv, test)
    assert made.cv is None
    assert made.test is not None
    assert "fold 0 leaves no row of another fold and another group" in made.problem
    assert np.isfinite(made.test.width).all()
    assert [*curves_of(cv, test)] == ["test"]
    labels = {"cv": np.full(40, "oxide"), "test": np.full(10, "oxide")}
    (_, everything) = coverage_table(made, {"cv": cv, "test": test}, labels, "eV").rows
    assert everything[:5] == ("all rows", "40", "–", "–", "10")
    assert [panel.name for panel in interval_figure(made, cv, test, "y").panels] == ["test"]
    figure = interval_figure(calibrate(cv, None), cv, None, "y")
    assert figure.panels == ()
    assert figure.caption.startswith("not drawn; fold 0 leaves no row")


def test_too_few_rows_leave_no_interval_and_say_how_many_it_takes():
    made = calibrate(rows(8), rows(5, folds=0))
    assert (made.cv, made.test) == (None, None)
    assert "intervals of 90 % need at least 9 validated rows" in made.problem
    # 8 rows are enough for lower levels.
    assert max(curves_of(rows(8))["cv"].nominal) == 0.8


def test_the_wilson_interval_is_the_published_one():
    low, high = wilson_interval([0.0, 0.5, 1.0], 10)
    assert low == pytest.approx([0.0, 0.2366, 0.7225], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.7634, 1.0], abs=1e-4)


def test_coverage_and_width_by_class_by_hand():
    cv = rows(4)
    ends = np.array([1.0, 1.0, 2.0, 4.0])
    made = Intervals(cv.y - ends, cv.y, cv.y + ends, 0.9)
    made.upper[3] = cv.y[3] - 0.5  # missed; 3.5 wide
    classes = {"cv": np.array(["oxide", "sulfide", "oxide", "oxide"])}
    table = coverage_table(Calibrated(made, None, 0.9), {"cv": cv}, classes, "decades")
    assert table.columns == ("class by anions", "rows", "coverage", "mean width (decades)")
    assert table.rows == (
        ("oxide", "3", "0.667", "3.167"),
        ("sulfide", "1", "1.000", "2"),
        ("all rows", "4", "0.750", "2.875"),
    )


def test_the_cumulative_distribution_by_hand():
    errors, shares = cumulative(np.array([2.0, 1.0, 2.0, 4.0]))
    assert [*zip(errors, shares, strict=True)] == [
        (0.0, 0.0), (1.0, 0.25), (2.0, 0.75), (2.0, 0.75), (4.0, 1.0),
    ]  # fmt: skip
    errors, shares = cumulative(np.arange(10_000.0), most=100)
    assert (len(errors), errors[-1], shares[-1]) == (101, 9999.0, 1.0)
    assert shares == pytest.approx((errors + 1) / 10_000, abs=1e-4)


def test_figures_show_the_numbers_of_both_sets():
    cv, test = rows(40), rows(10, seed=1, folds=0)
    made = calibrate(cv, test)
    figure = interval_figure(made, cv, test, "y")
    assert [panel.name for panel in figure.panels] == ["cv", "test"]
    ranges = {tuple(panel.figure.layout.yaxis.range) for panel in figure.panels}
    assert len(ranges) == 1
    for panel, predictions, intervals in zip(
        figure.panels, (cv, test), both(cv, test), strict=True
    ):
        band, line, inside, outside = panel.figure.data
        within = (intervals.lower <= predictions.y) & (predictions.y <= intervals.upper)
        assert (len(inside.x), len(outside.x)) == (within.sum(), (~within).sum())
        assert f"{within.sum()} of {len(within)} rows inside" in panel.title
        assert list(line.y) == sorted(predictions.predicted)
        assert sorted([*inside.y, *outside.y]) == sorted(predictions.y)
        assert len(band.x) == 2 * len(within)
    assert len(error_figure(cv, test, "eV").panels[0].figure.data) == 2
    assert "A held-out line" not in error_figure(cv, None, "eV").caption
    curves = curves_of(cv, test)
    figure = calibration_figure(curves, {"cv": 40, "test": 10})
    names = [trace.name for trace in figure.panels[0].figure.data if trace.name]
    assert names == ["cross-validation (40 rows)", "held out (10 rows)"]
    assert "no intervals" in calibration_figure({}, {}).caption


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("Li7La3Zr2O12", "oxide"),
        ("Li10GeP2S12", "sulfide"),
        ("Li6PS5Cl", "mixed anions"),
        ("Li10GeP2S11.9O0.1", "sulfide"),  # under a tenth of the anions
        ("Li3YCl6", "chloride"),
        ("Li3N", "nitride"),
        ("Li15Si4", "no anion"),
        ("nonsense", "unknown"),
    ],
)
def test_formulas_have_a_class_by_their_anions(formula, expected):
    assert anion_classes([formula]).tolist() == [expected]
