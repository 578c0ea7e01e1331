"""How sure a random forest is: the spread of its trees, and what their leaves leave open."""

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

    A tree says of a row that its value has the mean m_b and the variance v_b of the training rows
    in its leaf, the leaf's impurity. Of the mixture of all B trees with equal weights, the law of
    total variance gives

        mean = sum(m_b) / B,    variance = sum(v_b + m_b^2) / B - mean^2,

    what a leaf leaves open plus what the trees disagree by: Hutter, Xu, Hoos & Leyton-Brown,
    Algorithm runtime prediction, Artificial Intelligence 206, 79 (2014), sec. 4.3. The forest is
    trained as it is without; the mean is its own prediction. With one training row per leaf, the
    spread of the trees is all there is.

    Parameters
    ----------
    forest
        A fitted RandomForestRegressor or ExtraTreesRegressor of scikit-learn, of one target.
    X
        Array of shape (n_rows, n_features).

    Returns
    -------
    tuple of arrays of shape (n_rows,)
        In units of the target.

    Raises
    ------
    ModelError
        If it is no forest, or its leaves keep no variance (criterion `absolute_error`, `poisson`).
    """
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
    total, squares = np.zeros(len(rows)), np.zeros(len(rows))
    for estimator in forest.estimators_:
        tree = estimator.tree_
        leaves = tree.apply(rows)
        means = tree.value[leaves, 0, 0]
        total += means
        squares += tree.impurity[leaves] + means**2
    count = len(forest.estimators_)
    mean = total / count
    # Rounding may leave less than nothing where all trees agree.
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))
