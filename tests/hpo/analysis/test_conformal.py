"""Conformal intervals: what they promise, counted over many seeds, and what never happens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpo.analysis.best_model import Predictions
from hpo.analysis.conformal import (
    HeldOut,
    Intervals,
    assess,
    calibrate_quantiles,
    calibrate_residuals,
    conformal_quantile,
    cross_calibrate_quantiles,
    cross_calibrate_residuals,
    join_predictions,
    repair_crossing,
)
from hpo.errors import HpoError

SEEDS = 400
NEW = 50


def labels(values) -> np.ndarray:
    return np.array([f"g{value}" for value in values])


def draw(seed, n=60, folds=5, noise=1.0) -> tuple[HeldOut, np.ndarray, np.ndarray]:
    """Exchangeable rows with quantiles that are too narrow and cross here and there."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=n + NEW)
    y = centre + noise * rng.standard_t(3, size=n + NEW)
    spread = rng.uniform(-0.1, 0.8, size=n + NEW)
    quantiles = np.column_stack([centre - spread, centre, centre + spread])
    held_out = HeldOut(y[:n], quantiles[:n], np.arange(n) % folds, labels(range(n)))
    return held_out, quantiles[n:], y[n:]


def single(held_out: HeldOut) -> HeldOut:
    return HeldOut(held_out.y, held_out.predicted[:, 1:2], held_out.fold, held_out.groups)


def require_coverage(covered, coverage, n) -> None:
    """Between the nominal coverage and 1 / (n + 1) above it, within four standard errors."""
    error = 4.0 * np.std(covered, ddof=1) / math.sqrt(len(covered))
    assert coverage - error <= np.mean(covered) <= coverage + 1.0 / (n + 1) + error


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_quantile_intervals_cover_as_often_as_they_say(coverage):
    covered, raw = [], []
    for seed in range(SEEDS):
        held_out, quantiles, y = draw(seed)
        covered.append(assess(calibrate_quantiles(held_out, quantiles, coverage), y).coverage)
        lower, median, upper = repair_crossing(quantiles).T
        raw.append(assess(Intervals(lower, median, upper, coverage), y).coverage)
    require_coverage(covered, coverage, 60)
    assert np.mean(raw) < 0.45, "the quantiles were fine without calibration: nothing is shown"


@pytest.mark.parametrize("coverage", [0.1, 0.3, 0.8, 0.9])
def test_residual_intervals_cover_as_often_as_they_say(coverage):
    covered = []
    for seed in range(SEEDS):
        held_out, quantiles, y = draw(seed)
        intervals = calibrate_residuals(single(held_out), quantiles[:, 1], coverage)
        covered.append(assess(intervals, y).coverage)
    require_coverage(covered, coverage, 60)


def test_a_row_of_a_new_group_is_covered_if_groups_are_what_is_drawn():
    by_row, by_group = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        # Large groups are easy, small ones are not: by row, large groups decide.
        sizes = rng.choice([1, 20], 41)
        group = np.repeat(np.arange(41), sizes)
        errors = np.abs(rng.normal(size=len(group)) * np.where(sizes[group] == 1, 5.0, 1.0))
        known = group < 40
        new = errors[np.flatnonzero(~known)[0]]
        scores, groups = errors[known], labels(group[known])
        by_row.append(new <= conformal_quantile(scores, 0.9))
        by_group.append(new <= conformal_quantile(scores, 0.9, groups))
    error = 4.0 * math.sqrt(0.9 * 0.1 / SEEDS)
    assert np.mean(by_row) < 0.9 - error
    assert np.mean(by_group) >= 0.9 - error


def test_the_conformal_quantile_by_hand():
    scores = np.arange(1.0, 10.0)  # n = 9
    assert conformal_quantile(scores, 0.8) == 8.0  # ceil(10 * 0.8)
    assert conformal_quantile(scores, 0.9) == 9.0
    assert conformal_quantile(scores, 0.91) == math.inf
    assert conformal_quantile(scores[::-1], 0.5) == 5.0
    assert conformal_quantile([], 0.5) == math.inf
    # Groups a: 1, 2 and b: 10 weigh 1/6, 1/6 and 1/3; infinity weighs 1/3.
    groups = np.array(["a", "a", "b"])
    assert conformal_quantile([1.0, 2.0, 10.0], 0.5, groups) == 10.0
    assert conformal_quantile([1.0, 2.0, 10.0], 0.7, groups) == math.inf


def test_groups_of_one_row_are_rows():
    rng = np.random.default_rng(1)
    for n in range(5, 60):
        scores = rng.normal(size=n)
        for coverage in (0.5, 0.75, 0.9):
            alone = conformal_quantile(scores, coverage)
            assert conformal_quantile(scores, coverage, labels(range(n))) == alone


def test_quantile_intervals_by_hand():
    # Scores: max(lower - y, y - upper) = 1, -1, 2; coverage 0.5 of n = 3 takes the second, 1.
    predicted = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [3.0, 2.0, 1.0]])
    held_out = HeldOut(np.array([4.0, 1.0, 5.0]), predicted, np.arange(3), labels(range(3)))
    made = calibrate_quantiles(held_out, [[0.0, 1.0, 2.0]], 0.5)
    assert [*made.lower, *made.centre, *made.upper, *made.width] == [-1.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_crosses_and_no_width_is_negative(seed):
    # Quantiles far too wide: the shift is negative and would turn narrow intervals inside out.
    held_out, quantiles, _ = draw(seed, noise=1e-3)
    held_out = HeldOut(
        held_out.y, held_out.predicted + np.array([-3.0, 0.0, 3.0]), held_out.fold, held_out.groups
    )
    assert (np.diff(repair_crossing(quantiles), axis=1) >= 0).all()
    crossing = quantiles[:, ::-1]
    for made in (
        calibrate_quantiles(held_out, crossing),
        cross_calibrate_quantiles(held_out),
        calibrate_residuals(single(held_out), quantiles[:, 1]),
        cross_calibrate_residuals(single(held_out)),
    ):
        assert (made.lower <= made.centre).all()
        assert (made.centre <= made.upper).all()
        assert (made.width >= 0).all()


def test_repair_keeps_what_does_not_cross_and_never_loses():
    rng = np.random.default_rng(0)
    true = np.sort(rng.normal(size=(500, 3)), axis=1)
    predicted = true + 0.5 * rng.normal(size=(500, 3))
    repaired = repair_crossing(predicted)
    fine = (np.diff(predicted, axis=1) >= 0).all(axis=1)
    assert 0 < fine.sum() < 500
    assert (repaired[fine] == predicted[fine]).all()
    before, after = (((p - true) ** 2).sum(axis=1) for p in (predicted, repaired))
    assert (after <= before + 1e-12).all()


@pytest.mark.parametrize("by_group", [False, True])
def test_units_origin_and_order_do_not_matter(by_group):
    held_out, quantiles, _ = draw(3)
    held_out = HeldOut(
        held_out.y, held_out.predicted, held_out.fold, labels(np.arange(60) // 5 * 5 % 11)
    )
    made = calibrate_quantiles(held_out, quantiles, 0.8, by_group=by_group)
    scaled = HeldOut(
        8.0 * held_out.y - 4.0, 8.0 * held_out.predicted - 4.0, held_out.fold, held_out.groups
    )
    other = calibrate_quantiles(scaled, 8.0 * quantiles - 4.0, 0.8, by_group=by_group)
    assert other.lower == pytest.approx(8.0 * made.lower - 4.0)
    assert other.width == pytest.approx(8.0 * made.width)
    order = np.random.default_rng(0).permutation(60)
    mixed = HeldOut(*(part[order] for part in vars(held_out).values() if part is not None))
    again = calibrate_quantiles(mixed, quantiles, 0.8, by_group=by_group)
    assert again.upper == pytest.approx(made.upper, abs=0)


def test_a_row_is_calibrated_by_other_folds_and_other_groups_alone():
    held_out, _, _ = draw(5)
    groups = labels(np.arange(60) // 2)  # two rows of a group lie in neighbouring folds
    held_out = HeldOut(held_out.y, held_out.predicted, held_out.fold, groups)
    before = cross_calibrate_quantiles(held_out, 0.8)
    of_fold = held_out.fold == 2
    tied = of_fold | np.isin(groups, groups[of_fold])
    assert tied.sum() > of_fold.sum()
    changed = HeldOut(np.where(tied, 1e6, held_out.y), held_out.predicted, held_out.fold, groups)
    after = cross_calibrate_quantiles(changed, 0.8)
    assert (before.upper[of_fold] == after.upper[of_fold]).all()
    assert (before.upper[~tied] != after.upper[~tied]).any()


def test_folds_without_anything_else_to_calibrate_with_are_refused():
    held_out, _, _ = draw(0)
    held_out = HeldOut(held_out.y, held_out.predicted, held_out.fold, labels([0] * 60))
    with pytest.raises(HpoError, match=r"fold 0 leaves no row .* scheme = \"group_kfold\""):
        cross_calibrate_quantiles(held_out)


def test_coverage_and_width_by_family():
    made = Intervals(np.zeros(4), np.ones(4), np.array([2.0, 2.0, 2.0, 4.0]), 0.9)
    found = assess(made, [0.0, 2.0, 3.0, 3.0], np.array(["a", "a", "b", "b"]))
    assert (found.n_rows, found.coverage, found.mean_width) == (4, 0.75, 2.5)
    assert found.families["a"].coverage == 1.0
    assert (found.families["b"].coverage, found.families["b"].mean_width) == (0.5, 3.0)
    assert assess(made, [0.0, 2.0, 3.0, 3.0]).families == {}
    with pytest.raises(HpoError, match="at least one row"):
        assess(Intervals(np.empty(0), np.empty(0), np.empty(0), 0.9), [])


def test_wrong_shapes_and_coverages_are_refused():
    held_out, quantiles, _ = draw(0)
    with pytest.raises(HpoError, match=r"at least 0.5 and below 1, got 1.0"):
        calibrate_quantiles(held_out, quantiles, 1.0)
    for made in (
        lambda: calibrate_quantiles(held_out, quantiles, 0.05),
        lambda: cross_calibrate_quantiles(held_out, 0.05),
    ):
        with pytest.raises(HpoError, match=r"at least 0.5 and below 1, got 0.05"):
            made()
    for coverage in (0.0, 1.0):
        with pytest.raises(HpoError, match=f"above 0 and below 1, got {coverage}"):
            calibrate_residuals(single(held_out), quantiles[:, 1], coverage)
    with pytest.raises(HpoError, match=r"lower, median and upper .*, got shape \(50, 2\)"):
        calibrate_quantiles(held_out, quantiles[:, :2])
    with pytest.raises(HpoError, match=r"one prediction per row, got shape \(60, 3\)"):
        calibrate_residuals(held_out, quantiles[:, 0])


def test_studies_of_other_rows_or_folds_are_not_joined():
    def predictions(shift, fold=(0, 1)) -> Predictions:
        y = np.array([1.0, 2.0])
        rows = np.array(["a", "b"])
        return Predictions(rows, y, y + shift, rows, np.array(fold), {}, {}, {})

    joined = join_predictions(predictions(-1.0), predictions(0.0), predictions(1.0))
    assert joined.predicted.tolist() == [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    with pytest.raises(HpoError, match="differ in their fold"):
        join_predictions(predictions(-1.0), predictions(0.0, fold=(1, 0)))
