"""LightGBM on rows that are binned once, without its way from model to text and back.

`fit` bins the rows anew for every model, and `lightgbm.train` ends by writing the model as text and
reading it again. Here a fold has one data set for all models that bin alike, and what a model
predicts with fewer trees is added up tree by tree, rather than predicted anew for each number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import lightgbm
import numpy as np

from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import LIGHTGBM_EXTRA, parameter_names
from hpo.estimators.suitability import OTHER_KIND, SUITABLE, Verdict, declined

# What a data set depends on; columns that no tree could split are left out of it.
BINNING = ("max_bin", "min_child_samples", "min_data_in_bin", "subsample_for_bin", "random_state")
# What `fit` does not hand to LightGBM's trees.
NOT_OF_TREES = frozenset({"n_estimators", "importance_type", "class_weight", "objective"})
OBJECTIVES = frozenset(
    {None, "regression", "l1", "l2", "mae", "mse", "rmse", "regression_l1", "regression_l2"}
    | {"fair", "huber", "mape", "quantile"}
)
MAX_KEPT_BYTES = 32_000_000


def judge(model: Regressor) -> Verdict:
    """Return whether a model that is not fitted can be fitted here."""
    if type(model) is not lightgbm.LGBMRegressor:
        return OTHER_KIND
    params: dict[str, Any] = model.get_params()
    known = parameter_names(lightgbm.LGBMRegressor) | LIGHTGBM_EXTRA | {"alpha", "verbosity"}
    plain = {
        "objective": not callable(params["objective"]) and params["objective"] in OBJECTIVES,
        "boosting_type": params["boosting_type"] == "gbdt",
        "linear_tree": not params.get("linear_tree"),
        "class_weight": params["class_weight"] is None,
        "random_state": isinstance(params["random_state"], int | None),
        "n_jobs": params["n_jobs"] == 1,
        "n_estimators": isinstance(params["n_estimators"], int) and params["n_estimators"] > 0,
        **dict.fromkeys(params.keys() - known, False),
    }
    unusual = [name for name, is_plain in plain.items() if not is_plain]
    if unusual:
        return declined(f"{unusual[0]} is set, which LightGBM's own fit knows alone")
    return SUITABLE


class LightGbmRows:
    """The two sides of a fold: rows to fit to, and rows to predict.

    Parameters are those of `hpo.estimators.boosting.BoostedRows`.
    """

    def __init__(self, X: Floats, y: Floats, X_other: Floats, weights: Floats | None) -> None:
        self.X, self.y, self.X_other, self.weights = X, y, X_other, weights
        self._data: OrderedDict[tuple[Any, ...], lightgbm.Dataset] = OrderedDict()

    def predict(self, model: lightgbm.LGBMRegressor) -> tuple[Floats, Floats]:
        """Fit a model, and return what it predicts of the other rows and of its own.

        The model is left as it is: what is fitted is not kept.
        """
        return next(self.predict_staged(model, [model.n_estimators]))

    def predict_staged(
        self, model: lightgbm.LGBMRegressor, numbers: Sequence[int]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Fit a model, and yield both predictions at each of some numbers of trees, ascending."""
        params = {k: v for k, v in model.get_params().items() if k not in NOT_OF_TREES}
        params["objective"] = model.objective or "regression"
        booster = lightgbm.Booster({**params, "metric": "None"}, self._binned(params))
        for _ in range(numbers[-1]):
            # As `fit` does, whether or not there was a split: drawn columns may allow the next.
            booster.update()
        # Not what training has added up: there, rows are where their bins are, which is not always
        # where their values are.
        yield from zip(
            *(_predict(booster, rows, numbers) for rows in (self.X_other, self.X)), strict=True
        )

    def _binned(self, params: dict[str, Any]) -> lightgbm.Dataset:
        key = tuple(params.get(name) for name in BINNING)
        if key not in self._data:
            # What it has of other parameters would come before those of later models.
            binning = {k: v for k, v in zip(BINNING, key, strict=True) if v is not None}
            data = lightgbm.Dataset(
                self.X,
                label=self.y,
                weight=self.weights,
                params={**binning, "num_threads": 1, "verbosity": -1},
            )
            self._data[key] = data.construct()
            # Of each entry one or two bytes, by rows and by columns.
            while len(self._data) > 1 and 4 * self.X.size * len(self._data) > MAX_KEPT_BYTES:
                self._data.popitem(last=False)
        self._data.move_to_end(key)
        return self._data[key]


def _predict(booster: lightgbm.Booster, X: Floats, numbers: Sequence[int]) -> list[Floats]:
    """Return predictions of shape (n_rows,) with each of some numbers of trees, ascending."""
    if len(numbers) == 1:
        return [np.asarray(booster.predict(X, num_threads=1), dtype=np.float64)]
    leaves = np.asarray(booster.predict(X, pred_leaf=True, num_threads=1)).reshape(len(X), -1)
    of_trees = np.empty(leaves.shape)
    for tree, of_rows in enumerate(leaves.T):
        found, at = np.unique(of_rows, return_inverse=True)
        of_trees[:, tree] = np.array([booster.get_leaf_output(tree, leaf) for leaf in found])[at]
    # In the order of the trees, as LightGBM adds them.
    sums = np.add.accumulate(of_trees, axis=1)
    return [sums[:, number - 1].copy() for number in numbers]
