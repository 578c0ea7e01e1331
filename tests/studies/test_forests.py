"""The deviation that a forest gives its own predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, RandomForestRegressor

from hpo.errors import ModelError
from studies.bandgap.forests import predict_with_deviation, predict_with_variances


def data(n_rows=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    return X, X[:, 0] + 0.5 * rng.normal(size=n_rows)


def mixture(forest, X, y, new):
    """Mean and deviation of all training values in a row's leaves, each tree weighing the same."""
    values, weights = [], []
    for tree, drawn in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        leaf = tree.apply(new[None, :].astype(np.float32))[0]
        of_leaf = drawn[tree.apply(X[drawn].astype(np.float32)) == leaf]
        values.append(y[of_leaf])
        weights.append(np.full(len(of_leaf), 1.0 / len(of_leaf)))
    flat, weight = np.concatenate(values), np.concatenate(weights) / len(values)
    mean = np.sum(weight * flat)
    return mean, np.sqrt(np.sum(weight * (flat - mean) ** 2))


@pytest.mark.parametrize("min_samples_leaf", [1, 4])
@pytest.mark.parametrize("kind", [RandomForestRegressor, ExtraTreesRegressor])
def test_deviation_is_that_of_all_training_rows_in_the_leaves(kind, min_samples_leaf):
    X, y = data()
    forest = kind(12, min_samples_leaf=min_samples_leaf, random_state=1).fit(X, y)
    new = data(9, seed=3)[0]
    mean, deviation = predict_with_deviation(forest, new)
    np.testing.assert_allclose(mean, forest.predict(new), rtol=1e-12)
    expected = np.array([mixture(forest, X, y, row) for row in new])
    np.testing.assert_allclose(mean, expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(deviation, expected[:, 1], rtol=1e-6)


def test_a_forest_that_knows_one_value_is_sure_of_it():
    X, _ = data()
    forest = RandomForestRegressor(5, random_state=0).fit(X, np.full(len(X), 1.1))
    mean, deviation = predict_with_deviation(forest, X)
    np.testing.assert_allclose(mean, 1.1)
    assert (deviation < 1e-7).all()


def test_trees_that_grow_to_the_end_differ_by_their_means_alone():
    X, y = data()
    new = data(9, seed=3)[0]
    grown = RandomForestRegressor(12, random_state=1).fit(X, y)
    mean, within, between = predict_with_variances(grown, new)
    of_trees = np.array([tree.predict(new) for tree in grown.estimators_])
    np.testing.assert_allclose(between, of_trees.var(axis=0), rtol=1e-9)
    np.testing.assert_allclose(within, 0.0, atol=1e-12)
    np.testing.assert_allclose(mean, of_trees.mean(axis=0))
    stump = RandomForestRegressor(12, max_depth=1, random_state=1).fit(X, y)
    _, within, between = predict_with_variances(stump, new)
    assert (within > between).all()


def test_what_keeps_no_variance_is_refused():
    X, y = data()
    with pytest.raises(ModelError, match="criterion 'absolute_error': the leaves of these trees"):
        predict_with_deviation(RandomForestRegressor(3, criterion="absolute_error").fit(X, y), X)
    with pytest.raises(ModelError, match="GradientBoostingRegressor is no forest"):
        predict_with_deviation(GradientBoostingRegressor(n_estimators=3).fit(X, y), X)
