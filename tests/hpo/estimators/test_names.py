"""Estimators by name: each of scikit-learn's is made, fitted on gaps, and asked what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.utils import get_tags
from sklearn.utils.discovery import all_estimators

from hpo.estimators.defaults import default_params
from hpo.estimators.factory import make_estimator
from hpo.estimators.registry import REGISTRY, find, parameter_names
from hpo.spec.estimators import EstimatorSpec

RNG = np.random.default_rng(0)
X = np.column_stack([np.arange(40.0), 1000.0 * RNG.normal(size=40), RNG.normal(size=40)])
Y = X[:, 0] / 40.0 + 0.01 * RNG.normal(size=40) + 1.0
LABELS = (X[:, 0] >= 20).astype(float)
X[3, 1] = X[11, 2] = np.nan

# What cannot be fitted to one target and any columns, and what it says.
TWO = "two dimensions|mono-task|n_components|tuple index"
EXCEPTIONS = {
    "CCA": TWO,
    "CategoricalNB": "Negative values",
    "ClassifierChain": TWO,
    "ComplementNB": "Negative values",
    "IsotonicRegression": "1 feature",
    "MultiOutputClassifier": TWO,
    "MultiOutputRegressor": TWO,
    "MultiTaskElasticNet": TWO,
    "MultiTaskElasticNetCV": TWO,
    "MultiTaskLasso": TWO,
    "MultiTaskLassoCV": TWO,
    "MultinomialNB": "Negative values",
    "PLSCanonical": TWO,
    "RegressorChain": TWO,
}
RIDGE, LOGISTIC = {"name": "Ridge"}, {"name": "LogisticRegression"}
SMALL: dict[str, dict[str, Any]] = {
    "BaggingClassifier": {"n_estimators": 2},
    "ClassifierChain": {"estimator": LOGISTIC},
    "FixedThresholdClassifier": {"estimator": LOGISTIC},
    "MultiOutputClassifier": {"estimator": LOGISTIC},
    "MultiOutputRegressor": {"estimator": RIDGE},
    "OneVsOneClassifier": {"estimator": LOGISTIC},
    "OneVsRestClassifier": {"estimator": LOGISTIC},
    "OutputCodeClassifier": {"estimator": LOGISTIC},
    "RFE": {"estimator": RIDGE},
    "RFECV": {"estimator": RIDGE},
    "RegressorChain": {"estimator": RIDGE},
    "SelfTrainingClassifier": {"estimator": LOGISTIC},
    "StackingClassifier": {"estimators": {"a": LOGISTIC, "b": {"name": "DecisionTreeClassifier"}}},
    "StackingRegressor": {"estimators": {"a": RIDGE, "b": {"name": "SVR"}}},
    "TunedThresholdClassifierCV": {"estimator": LOGISTIC},
    "VotingClassifier": {"estimators": {"a": LOGISTIC, "b": {"name": "GaussianNB"}}},
    "VotingRegressor": {"estimators": {"a": RIDGE, "b": {"name": "SVR"}}},
    "MLPClassifier": {"max_iter": 5},
    "MLPRegressor": {"max_iter": 5},
}
KINDS = [
    (name, kind)
    for kind in ("regressor", "classifier")
    for name, _ in all_estimators(type_filter=kind)
]
BOOSTED = [
    (name, "classifier" if name.endswith("Classifier") else "regressor")
    for name in [entry.class_name for entry in REGISTRY.values() if not entry.ranks]
    if name.startswith(("LGBM", "XGB", "CatBoost"))
]


def small(name: str) -> dict[str, Any]:
    """Return parameters that a class needs, and few trees."""
    _, factory = find(name, "test")
    given = SMALL.get(name, {})
    few = {"n_estimators": 10} if "n_estimators" in parameter_names(factory) else {}
    return {**few, **given}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "kind"), [*KINDS, *BOOSTED])
def test_every_estimator_is_made_fitted_on_gaps_and_says_what_it_takes(name, kind):
    spec = EstimatorSpec(name=name, params=small(name))
    model: Any = make_estimator(spec, {}, 3)
    last = model[-1] if hasattr(model, "steps") else model
    assert type(last).__name__ == name
    assert get_tags(model).estimator_type == kind
    for parameter, value in last.get_params(deep=True).items():
        if parameter.rpartition("__")[2] == "n_jobs":
            assert value in (1, None)
        if parameter == "random_state":
            assert value == 3
    valid = parameter_names(find(name, "test")[1])
    # What is within it, and LightGBM's further parameters, an instance knows.
    assert default_params(spec).keys() <= valid | last.get_params(deep=True).keys()
    y = LABELS if kind == "classifier" else Y
    if name in EXCEPTIONS:
        with pytest.raises((ValueError, IndexError), match=EXCEPTIONS[name]):
            model.fit(X, y)
        return
    predicted = model.fit(X, y).predict(X)
    assert np.isfinite(predicted).all()
    again = make_estimator(spec, {}, 3).fit(X, y).predict(X)
    np.testing.assert_array_equal(predicted, again)
