"""What a ranking is worth, how wide its intervals are and how far candidates lie, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import features.table
from hpo.analysis import discovery_metrics
from hpo.analysis.bootstrap import resample_counts
from hpo.analysis.candidates import applicability_domain, ranking
from hpo.errors import ObjectiveError


def test_residual_interval_by_hand() -> None:
    y = np.arange(9.0)
    predicted = y + np.array([1, -2, 3, -4, 5, -6, 7, -8, 9])
    # The ceil(10 * 0.8) = 8th and the ceil(10 * 0.9) = 9th smallest of nine.
    assert ranking.half_width_of(np.abs(y - predicted), 0.8) == 8.0
    assert ranking.half_width_of(np.abs(y - predicted), 0.9) == 9.0
    with pytest.raises(ObjectiveError, match=r"needs at least 19 validated rows.*have 9"):
        ranking.half_width_of(np.abs(y - predicted), 0.95)


def test_residual_intervals_cover_what_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        residuals = rng.standard_t(3, size=50)
        half_width = ranking.half_width_of(np.abs(residuals[:49]), 0.9)
        hits.append(abs(residuals[49]) <= half_width)
    assert 0.86 < np.mean(hits) < 0.94


def test_auc_by_hand() -> None:
    above = np.array([True, True, False, False, False])
    # Of the six pairs, 0.9 wins three, 0.4 wins one, ties one and loses one.
    predicted = np.array([0.9, 0.4, 0.1, 0.4, 0.7])
    assert discovery_metrics.auc(above, predicted) == pytest.approx(4.5 / 6)
    assert math.isnan(discovery_metrics.auc(np.array([True]), np.array([1.0])))


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auc_is_that_of_scikit_learn_with_ties_and_without(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for n_rows in (2, 5, 50, 500):
        predicted = rng.normal(size=n_rows).round(decimals)
        above = np.arange(n_rows) < rng.integers(1, n_rows)
        found = discovery_metrics.auc(above, predicted)
        assert found == pytest.approx(roc_auc_score(above, predicted), rel=1e-12)


def test_precision_at_the_top_by_hand() -> None:
    above = np.array([True, False, True, False, False, False, False, False, False, False])
    predicted = np.array([5.0, 9.0, 8.0, 1, 1, 1, 1, 1, 1, 1])
    assert discovery_metrics.precision_at_top(above, predicted, 0.1) == 0.0
    assert discovery_metrics.precision_at_top(above, predicted, 0.2) == 0.5
    assert discovery_metrics.precision_at_top(above, predicted, 0.3) == pytest.approx(2 / 3)
    # All tie: a blind choice.
    assert discovery_metrics.precision_at_top(above, np.zeros(10), 0.1) == pytest.approx(0.2)


@pytest.mark.parametrize("decimals", [0, 8])
def test_intervals_are_those_of_scoring_each_resample_by_itself(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    y, groups = rng.normal(size=60), np.arange(60) // 5
    predicted = (y + rng.normal(size=60)).round(decimals)
    scores: list[tuple[float, float]] = []
    (counts,) = resample_counts(60, groups.astype(str), 200, seed=0)
    for rows in (np.repeat(np.arange(60), of_one) for of_one in counts):
        above, of_rows = y[rows] > 1.0, predicted[rows]
        top = discovery_metrics.precision_at_top(above, of_rows)
        # A resample with nothing above has no area.
        scores.append((roc_auc_score(above, of_rows) if above.any() else math.nan, top))
    area, top_share = np.nanquantile(np.array(scores), [0.025, 0.975], axis=0).T
    found = discovery_metrics.ranking_value(y, predicted, 1.0, groups.astype(str), n_resamples=200)
    assert found.auc_interval == pytest.approx(area, rel=1e-12)
    assert found.precision_interval == pytest.approx(top_share, rel=1e-12)


def test_ranking_value_has_wider_intervals_by_group_than_by_row() -> None:
    rng = np.random.default_rng(0)
    of_group = rng.normal(size=20)
    group = np.repeat(np.arange(20), 10)
    y = of_group[group] + 0.1 * rng.normal(size=200)
    predicted = of_group[group] + rng.normal(size=20)[group]
    by_row = discovery_metrics.ranking_value(y, predicted, 0.5, n_resamples=300)
    by_group = discovery_metrics.ranking_value(
        y, predicted, 0.5, group.astype(str), n_resamples=300
    )
    assert by_row.auc == by_group.auc == discovery_metrics.auc(y > 0.5, predicted)
    assert by_row.prevalence == np.mean(y > 0.5)
    for value in (by_row, by_group):
        assert value.auc_interval[0] <= value.auc <= value.auc_interval[1]
    assert np.ptp(by_group.auc_interval) > np.ptp(by_row.auc_interval)
    with pytest.raises(ObjectiveError, match="0 of 200 values are above it"):
        discovery_metrics.ranking_value(y, predicted, 99.0)


def test_the_domain_by_hand() -> None:
    domain = applicability_domain.domain_of(["LiCl", "Li2Cl2", "LiF", "Li3Cl", "Na2O"])
    assert len(domain.fractions) == 4  # Li2Cl2 is LiCl
    distances, found = domain.nearest(features.table.atomic_fractions(["LiBr", "LiCl", "NaLiO"]))
    # LiBr: half of the atoms; NaLiO to Na2O: a third.
    np.testing.assert_allclose(distances, [0.5, 0.0, 1 / 3], atol=1e-12)
    assert domain.formulas[found[1]] == "LiCl"
    # Nearest others: LiCl-Li3Cl 1/4, LiF-LiCl 1/2, Na2O-anything 1.
    expected = np.quantile([0.25, 0.25, 0.5, 1.0], 0.95)
    assert domain.limit == pytest.approx(expected)
