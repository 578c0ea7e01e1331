"""Metrics against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    mean_absolute_error,
    mean_pinball_loss,
    r2_score,
    root_mean_squared_error,
)

from hpo.objectives.metrics import (
    coverage,
    mae,
    pinball_loss,
    r2,
    rmse,
    spearman,
)

RNG = np.random.default_rng(3)
Y = RNG.normal(size=50)
PREDICTED = np.round(Y + RNG.normal(size=50), 1)  # with ties


def test_metrics_agree_with_the_libraries():
    assert rmse(Y, PREDICTED) == pytest.approx(root_mean_squared_error(Y, PREDICTED))
    assert mae(Y, PREDICTED) == pytest.approx(mean_absolute_error(Y, PREDICTED))
    assert r2(Y, PREDICTED) == pytest.approx(r2_score(Y, PREDICTED))
    assert spearman(Y, PREDICTED) == pytest.approx(spearmanr(Y, PREDICTED).statistic)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_the_pinball_loss_agrees_with_the_library(level):
    expected = mean_pinball_loss(Y, PREDICTED, alpha=level)
    assert pinball_loss(Y, PREDICTED, level) == pytest.approx(expected, rel=1e-12)


def test_pinball_loss_and_coverage_by_hand():
    # Residuals 3, -1 and 0 at level 0.25: 0.75, 0.75 and 0.
    y, predicted = np.array([3.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0])
    assert pinball_loss(y, predicted, 0.25) == pytest.approx(0.5, rel=1e-15)
    assert coverage(y, predicted) == pytest.approx(2 / 3, rel=1e-15)
    assert pinball_loss(Y, PREDICTED, 0.5) == pytest.approx(mae(Y, PREDICTED) / 2, rel=1e-12)


def test_the_pinball_loss_is_least_at_the_quantile():
    y = RNG.normal(size=1001)
    tried = np.sort(y)
    losses = [pinball_loss(y, np.full(1001, value), 0.95) for value in tried]
    assert tried[np.argmin(losses)] == np.quantile(y, 0.95)


def test_a_constant_prediction_ranks_nothing():
    assert spearman(Y, np.ones(50)) == 0.0


def test_a_constant_target_has_no_r2_and_no_rank():
    assert np.isnan(r2(np.ones(50), PREDICTED))
    assert np.isnan(spearman(np.ones(50), PREDICTED))
