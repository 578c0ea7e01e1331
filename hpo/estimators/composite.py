"""Estimators made of others: a second model behind a gate, and an ensemble."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import GroupKFold
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import bounds_argument, weight_argument

Columns = tuple[int, ...]


class _Composite(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Rows as all of these take them: gaps are for the models that they are handed to.

    So are bounds of the target, for those of them that take any.
    """

    @property
    def models(self) -> tuple[Regressor, ...]:
        """The models that it is made of, as they were given."""
        raise NotImplementedError

    @property
    def takes_bounds(self) -> bool:
        """Whether one of its models is fitted to bounds of the target."""
        return any(bounds_argument(model) for model in self.models)

    def _check_training(self, X: Floats, y: Floats, least: int = 1) -> tuple[Floats, Floats]:
        settings = {"ensure_all_finite": "allow-nan", "ensure_min_samples": least}
        checked: tuple[Floats, Floats] = validate_data(self, X, y, y_numeric=True, **settings)
        return checked

    def _check_new(self, X: Floats) -> Floats:
        check_is_fitted(self)
        checked: Floats = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        return checked


class GatedRegressor(_Composite):
    """Predicts with a base model, and with a second one where all gate columns are 1.

    With base prediction b(x) and second model m, a row that passes the gate gets m(x) where m
    `predicts` the target, and b(x) + m(x) where it predicts the residual y - b(x). With a
    combiner c, it gets c(b(x), that prediction, columns of x). Every other row gets b(x), and so
    does every row where fewer than two training rows pass the gate: there is nothing to fit.

    Residuals, and what the combiner is trained on, come from `base_predictions`: out-of-fold
    within the training rows, or in-sample. A base model that fits its training rows closely
    leaves small residuals on them, which say little about those on new rows. Folds are
    interleaved (row i is held out in fold i mod `inner_folds`), in the order of the rows; they
    keep no groups together, as an estimator is told none. Where a combiner follows, the second
    model's out-of-fold predictions rest on the residuals of the whole training part, as in
    stacking: each is made by a model that has not been fitted on its row.

    Parameters
    ----------
    base, second, combiner
        Regressors of scikit-learn's kind, which are cloned and never fitted themselves.
    base_columns, second_columns, gate_columns, combiner_columns
        Positions in X of the features of each model and of the gate.
    rows
        Which training rows the second model is fitted on.
    predicts
        What the second model predicts.
    base_predictions
        Which predictions of the training rows residuals and combiner are made from.
    inner_folds
        Number of folds of out-of-fold predictions.
    """

    def __init__(
        self,
        base: Regressor,
        second: Regressor,
        combiner: Regressor | None = None,
        *,
        base_columns: Columns,
        second_columns: Columns,
        gate_columns: Columns,
        combiner_columns: Columns = (),
        rows: Literal["all", "gated"] = "gated",
        predicts: Literal["target", "residual"] = "target",
        base_predictions: Literal["out_of_fold", "in_sample"] = "out_of_fold",
        inner_folds: int = 5,
    ) -> None:
        self.base, self.second, self.combiner = base, second, combiner
        self.base_columns, self.second_columns = base_columns, second_columns
        self.gate_columns, self.combiner_columns = gate_columns, combiner_columns
        self.rows, self.predicts = rows, predicts
        self.base_predictions, self.inner_folds = base_predictions, inner_folds

    @property
    def models(self) -> tuple[Regressor, ...]:
        """The models that it is made of, as they were given."""
        return tuple(m for m in (self.base, self.second, self.combiner) if m is not None)

    def fit(self, X: Floats, y: Floats, bounds: Floats | None = None) -> GatedRegressor:
        """Fit all models; X of shape (n_rows, n_features), y of shape (n_rows,).

        `bounds`, of shape (n_rows, 2), are what is known of y. Those of a residual are theirs less
        the base prediction.
        """
        X, y = self._check_training(X, y)
        gated = self._passes(X)
        base_X, second_X = X[:, self.base_columns], X[:, self.second_columns]
        self.base_ = _recall(_fit, self.base, base_X, y, None, bounds)
        self.second_, self.combiner_ = None, None
        rows = np.flatnonzero(gated) if self.rows == "gated" else np.arange(len(y))
        if int(gated.sum()) < 2:
            return self
        base = np.zeros(len(y))
        if self.predicts == "residual" or self.combiner is not None:
            base = self._predict_training(self.base, self.base_, base_X, y, bounds)
        target, ends = y, bounds
        if self.predicts == "residual":
            target, ends = y - base, None if bounds is None else bounds - base[:, None]
        of_second = (second_X[rows], target[rows])
        second_ends = None if ends is None else ends[rows]
        self.second_ = _fit(self.second, *of_second, None, second_ends)
        if self.combiner is not None:
            second = np.zeros(len(y))
            second[rows] = self._predict_training(
                self.second, self.second_, *of_second, second_ends
            )
            inputs = self._combine(X, base, second)
            of_gated = None if bounds is None else bounds[gated]
            self.combiner_ = _fit(self.combiner, inputs[gated], y[gated], None, of_gated)
        return self

    def predict(self, X: Floats) -> Floats:
        """Return predictions of shape (n_rows,) for X of shape (n_rows, n_features)."""
        X = self._check_new(X)
        predicted = np.asarray(self.base_.predict(X[:, self.base_columns]), dtype=np.float64)
        gated = self._passes(X)
        if self.second_ is None or not gated.any():
            return predicted
        base = predicted[gated]
        second = np.asarray(self.second_.predict(X[gated][:, self.second_columns]))
        inputs = self._combine(X[gated], base, second)
        # The second column of what a combiner sees is the prediction without one.
        behind = inputs[:, 1] if self.combiner_ is None else self.combiner_.predict(inputs)
        predicted[gated] = behind
        return predicted

    def _passes(self, X: Floats) -> NDArray[np.bool_]:
        # A gap is not 1: a row whose indicator is missing falls back to the base model.
        passes: NDArray[np.bool_] = (X[:, self.gate_columns] == 1.0).all(axis=1)
        return passes

    def _combine(self, X: Floats, base: Floats, second: Floats) -> Floats:
        corrected = base + second if self.predicts == "residual" else second
        return np.column_stack([base, corrected, X[:, self.combiner_columns]])

    def _predict_training(
        self, model: Regressor, fitted: Regressor, X: Floats, y: Floats, bounds: Floats | None
    ) -> Floats:
        """Return predictions of the rows that a model is trained on."""
        if self.base_predictions == "in_sample":
            return np.asarray(fitted.predict(X), dtype=np.float64)
        fold = _interleave(len(y), self.inner_folds)
        predicted: Floats = _recall(_predict_out_of_fold, model, X, y, fold, None, bounds)
        return predicted


class EnsembleRegressor(_Composite):
    """The mean of several models' predictions, or what a combiner makes of them.

    The combiner is trained on predictions that the members make of rows that they were not fitted
    on (stacking: Wolpert, Neural Networks 5, 241 (1992)). Those inner folds keep groups together
    where `fit` is given groups, and are interleaved otherwise: a combiner that is trained on
    likenesses within a paper learns to trust the member that remembers best.

    Parameters
    ----------
    members
        Regressors of scikit-learn's kind by name, which are cloned and never fitted themselves.
    columns
        For each member, the positions in X of the features that it sees.
    combiner
        A regressor of their predictions, in the order of the members; the mean if None.
    passthrough
        Whether the combiner sees all features of X, too, after the predictions.
    inner_folds
        Number of folds that a combiner is trained with.
    """

    takes_groups = True

    def __init__(
        self,
        members: Mapping[str, Regressor],
        *,
        columns: Mapping[str, Columns],
        combiner: Regressor | None = None,
        passthrough: bool = False,
        inner_folds: int = 5,
    ) -> None:
        self.members, self.columns = members, columns
        self.combiner, self.passthrough, self.inner_folds = combiner, passthrough, inner_folds

    @property
    def models(self) -> tuple[Regressor, ...]:
        """The models that it is made of, as they were given."""
        combiner = () if self.combiner is None else (self.combiner,)
        return (*self.members.values(), *combiner)

    def fit(
        self,
        X: Floats,
        y: Floats,
        groups: NDArray[np.str_] | None = None,
        sample_weight: Floats | None = None,
        bounds: Floats | None = None,
    ) -> EnsembleRegressor:
        """Fit all models; X of shape (n_rows, n_features), all else of shape (n_rows,).

        Members that take no weights, such as neighbours, are fitted without, as are those that take
        no `bounds`, of shape (n_rows, 2): what is known of y.
        """
        X, y = self._check_training(X, y, least=1 if self.combiner is None else 2)
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight, dtype=np.float64)
        self.members_ = {
            name: _fit(model, X[:, self.columns[name]], y, sample_weight, bounds)
            for name, model in self.members.items()
        }
        self.combiner_ = None
        if self.combiner is not None:
            fold = _divide(len(y), self.inner_folds, groups)
            predicted = [
                _predict_out_of_fold(
                    model, X[:, self.columns[name]], y, fold, sample_weight, bounds
                )
                for name, model in self.members.items()
            ]
            inputs = self._inputs(predicted, X)
            self.combiner_ = _fit(self.combiner, inputs, y, sample_weight, bounds)
        return self

    def predict(self, X: Floats) -> Floats:
        """Return predictions of shape (n_rows,) for X of shape (n_rows, n_features)."""
        X = self._check_new(X)
        predicted = [
            model.predict(X[:, self.columns[name]]) for name, model in self.members_.items()
        ]
        if self.combiner_ is None:
            return np.asarray(np.mean(predicted, axis=0), dtype=np.float64)
        inputs = self._inputs(predicted, X)
        return np.asarray(self.combiner_.predict(inputs), dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags; it takes gaps where all of its models do."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = all(get_tags(m).input_tags.allow_nan for m in self.models)
        return tags

    def _inputs(self, predicted: Sequence[Floats], X: Floats) -> Floats:
        return np.column_stack([*predicted, X] if self.passthrough else predicted)


# What was computed last: a search of the second model, or of the combiner, leaves the base model as
# it is, with all its fits. A trial of a cross-validation needs two entries of it for every fold.
_RECALLED: OrderedDict[str, Any] = OrderedDict()
MAX_RECALLED = 40


def _recall(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a model and rows gave before, or what it gives now."""
    key = f"{function.__qualname__} {joblib.hash(arguments)}"
    if key not in _RECALLED:
        _RECALLED[key] = function(*arguments)
        if len(_RECALLED) > MAX_RECALLED:
            _RECALLED.popitem(last=False)
    _RECALLED.move_to_end(key)
    return _RECALLED[key]


def _fit(
    model: Regressor,
    X: Floats,
    y: Floats,
    weights: Floats | None = None,
    bounds: Floats | None = None,
) -> Regressor:
    """Return a clone of the model, fitted with weights of rows and bounds of y if it takes them."""
    settings: dict[str, Floats] = {}
    if weights is not None and (argument := weight_argument(model)):
        settings[argument] = weights
    if bounds is not None and (argument := bounds_argument(model)):
        settings[argument] = bounds
    fitted: Regressor = clone(model).fit(X, y, **settings)
    return fitted


def _interleave(n_rows: int, n_folds: int) -> NDArray[np.int64]:
    """Return a fold per row: row i is held out in fold i mod `n_folds`."""
    return np.arange(n_rows, dtype=np.int64) % min(n_folds, n_rows)


def _divide(n_rows: int, n_folds: int, groups: NDArray[np.str_] | None) -> NDArray[np.int64]:
    """Return a fold per row that keeps groups together, where there are any to keep."""
    n_groups = 0 if groups is None else len(np.unique(groups))
    if n_groups < 2:
        return _interleave(n_rows, n_folds)
    fold = np.empty(n_rows, dtype=np.int64)
    splits = GroupKFold(min(n_folds, n_groups)).split(np.empty(n_rows), groups=groups)
    for k, (_, held) in enumerate(splits):
        fold[held] = k
    return fold


def _predict_out_of_fold(
    model: Regressor,
    X: Floats,
    y: Floats,
    fold: NDArray[np.int64],
    weights: Floats | None = None,
    bounds: Floats | None = None,
) -> Floats:
    """Predict every row by a clone of the model that was fitted on the other folds."""
    predicted = np.empty(len(y))
    for k in range(int(fold.max()) + 1):
        held = fold == k
        of_rest = [None if values is None else values[~held] for values in (weights, bounds)]
        predicted[held] = _fit(model, X[~held], y[~held], *of_rest).predict(X[held])
    return predicted
