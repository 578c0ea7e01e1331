"""Standard deviations of random forests: the spread of the trees, and that within their leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ModelError

Floats = NDArray[np.float64]

# Criteria whose impurity of a leaf is the variance of its training rows.
_VARIANCE_CRITERIA = ("squared_error", "friedman_mse")


def predict_with_deviation(forest: Any, X: Floats) -> tuple[Floats, Floats]:
    """Return a fitted forest's predictions and the standard deviation of each.

    The root of the sum of both variances of `predict_with_variances`, which see.

    Returns
    -------
    tuple of arrays of shape (n_rows,)
        In units of the target.
    """
    mean, within, between = predict_with_variances(forest, X)
    return mean, np.sqrt(within + between)


def predict_with_variances(forest: Any, X: Floats) -> tuple[Floats, Floats, Floats]:
    """Return a fitted forest's predictions, and the variance within its leaves and between trees.

    A tree says of a row that its value has the mean m_b and the variance v_b of the training rows
    in its leaf, the leaf's impurity. Of the mixture of all B trees with equal weights, the law of
    total variance gives

        mean = sum(m_b) / B,    variance = sum(v_b) / B + sum((m_b - mean)^2) / B,

    what leaves keep open plus what the trees disagree by: Hutter, Xu, Hoos & Leyton-Brown,
    Algorithm runtime prediction, Artificial Intelligence 206, 79 (2014), sec. 4.3. The forest is
    trained as it is without; the mean is its own prediction. Where trees grow until leaves hold
    one value, their disagreement is all there is.

    Parameters
    ----------
    forest
        A fitted RandomForestRegressor or ExtraTreesRegressor of scikit-learn, of one target.
    X
        Array of shape (n_rows, n_features).

    Returns
    -------
    tuple of arrays of shape (n_rows,)
        Mean in units of the target, and the two variances in its square.

    Raises
    ------
    ModelError
        If it is no forest, or its leaves keep no variance (criterion `absolute_error`, `poisson`).
    """
    # A worker that fits one of these has imported it; a check of a study file need not.
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    if not isinstance(forest, RandomForestRegressor | ExtraTreesRegressor):
        raise ModelError(
            f"{type(forest).__name__} is no forest of trees, whose leaves would say how sure it "
            "is; use random_forest or extra_trees"
        )
    if forest.criterion not in _VARIANCE_CRITERIA:
        raise ModelError(
            f"criterion '{forest.criterion}': the leaves of these trees keep no variance; use "
            f"{' or '.join(_VARIANCE_CRITERIA)}"
        )
    # As the trees themselves see the rows.
    rows = np.asarray(X, dtype=np.float32)
    within = np.zeros(len(rows))
    means = np.empty((len(forest.estimators_), len(rows)))
    for position, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        leaves = tree.apply(rows)
        means[position] = tree.value[leaves, 0, 0]
        within += tree.impurity[leaves]
    # Rounding leaves some leaves of one value a little less than nothing.
    within = np.maximum(within / len(means), 0.0)
    return means.mean(axis=0), within, means.var(axis=0)
