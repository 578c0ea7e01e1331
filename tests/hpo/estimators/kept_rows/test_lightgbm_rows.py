"""The short way of LightGBM: bit for bit what its own fit and predict give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpo.estimators.factory import BoundEstimator
from hpo.estimators.kept_rows.choice import choose
from hpo.estimators.staged_trees import predict_staged
from hpo.estimators.suitability import OTHER_KIND, SUITABLE
from hpo.objectives.cv_objectives import PenalisedCv
from hpo.objectives.folds import make_folds
from hpo.spec.cv import InterleavedCv
from hpo.spec.estimators import EstimatorSpec

try:
    import lightgbm

    from hpo.estimators.kept_rows import lightgbm_rows
    from hpo.estimators.kept_rows.lightgbm_rows import LightGbmRows
except OSError:
    pytest.skip("needs libgomp", allow_module_level=True)

RANDOM = np.random.default_rng(7)
N_TRAINED = 150
FIXED: dict[str, Any] = {"n_jobs": 1, "verbosity": -1, "random_state": 42}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "search": {"learning_rate": 0.05, "num_leaves": 9, "min_child_samples": 4, "reg_lambda": 3.0},
    "drawn": {"subsample": 0.6, "subsample_freq": 1, "colsample_bytree": 0.3},
    "by node": {"extra_trees": True, "feature_fraction_bynode": 0.5, "path_smooth": 1.0},
    "few bins": {"max_bin": 7, "min_data_in_bin": 9},
    "too few rows": {"min_child_samples": 100},
    "no split": {"min_child_samples": 1000},
    "hardly a split": {"min_child_samples": 70, "colsample_bytree": 0.1},
    "quantile": {"objective": "quantile", "alpha": 0.9},
    "absolute": {"objective": "regression_l1"},
    "huber": {"objective": "huber"},
}


def make_rows(n_rows=200):
    """Rows whose columns are of every kind; those of elements hardly ever overlap."""
    X = RANDOM.normal(size=(n_rows, 30))
    for row, (a, b) in enumerate(RANDOM.integers(8, 30, (n_rows, 2))):
        X[row, 8:] = 0.0
        X[row, [a, b]] = RANDOM.random(2)
    X[:, 0] = 1.0
    X[RANDOM.random(n_rows) < 0.3, 1] = np.nan
    X[N_TRAINED:, 2] = np.nan
    X[:, 3] = np.round(X[:, 4])
    X[N_TRAINED + 3 :, 5] *= 100.0
    X[:, 7] = np.round(X[:, 4], 1) * 0.3 / 3.0  # differs in the last digit from
    X[::2, 7] = np.round(X[::2, 4], 1) * 0.1
    X[:3, 6] = [np.inf, -np.inf, np.inf]
    return X, np.nan_to_num(X[:, 1]) + X[:, 3] + X[:, 8:14].sum(axis=1) + RANDOM.normal(size=n_rows)


X, Y = make_rows()


def make_model(settings, n_estimators=30):
    return lightgbm.LGBMRegressor(**FIXED, n_estimators=n_estimators, **settings)


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_predictions_are_those_of_lightgbm(weighted):
    weights = RANDOM.uniform(0.1, 2.0, N_TRAINED) if weighted else None
    # The same rows for all models, so that what is kept serves others, too, in any order.
    rows = LightGbmRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], weights)
    for name in [*SETTINGS, *reversed(SETTINGS)]:
        model = make_model(SETTINGS[name])
        assert choose(model, N_TRAINED) == (LightGbmRows, SUITABLE)
        others, own = rows.predict(model)
        model.fit(X[:N_TRAINED], Y[:N_TRAINED], sample_weight=weights)
        assert np.array_equal(others, model.predict(X[N_TRAINED:])), name
        assert np.array_equal(own, model.predict(X[:N_TRAINED])), name
    assert len(rows._data) == 6  # defaults, 4, 100, 1000 and 70 rows in a leaf, few bins


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_curve_is_that_of_predictions_with_fewer_trees():
    numbers = [1, 5, 6, 40]
    model = make_model(SETTINGS["drawn"], n_estimators=40)
    rows = LightGbmRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], None)
    found = list(rows.predict_staged(model, numbers))
    model.fit(X[:N_TRAINED], Y[:N_TRAINED])
    for side, asked in enumerate((X[N_TRAINED:], X[:N_TRAINED])):
        expected = list(predict_staged(model, asked, numbers))
        assert all(np.array_equal(a[side], b) for a, b in zip(found, expected, strict=True))


def test_only_so_many_data_sets_are_kept(monkeypatch):
    monkeypatch.setattr(lightgbm_rows, "MAX_KEPT_BYTES", 8 * N_TRAINED * X.shape[1])
    rows = LightGbmRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], None)
    for least in (4, 5, 4, 6):
        rows.predict(make_model({"min_child_samples": least}, n_estimators=1))
    assert [key[1] for key in rows._data] == [4, 6]


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "poisson"},
        {"objective": lambda y, predicted: (predicted - y, np.ones_like(y))},
        {"boosting_type": "dart"},
        {"linear_tree": True},
        {"class_weight": "balanced"},
        {"early_stopping_round": 3},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_only_lightgbm_knows_is_left_to_it(settings):
    kind, verdict = choose(make_model(settings), 100)
    assert kind is LightGbmRows
    assert f"{next(iter(settings))} is set" in verdict.reason


def test_other_models_are_left_alone():
    class Another(lightgbm.LGBMRegressor):
        __module__ = "lightgbm.sklearn"

    for model in (Another(), lightgbm.LGBMClassifier()):
        assert choose(model, 100) == (LightGbmRows, OTHER_KIND)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_an_objective_scores_the_same_either_way(monkeypatch):
    folds = make_folds(InterleavedCv(scheme="interleaved", folds=3), Y.astype(str))

    def score():
        bound = BoundEstimator(EstimatorSpec(name="lightgbm", params={"n_estimators": 10}))
        objective = PenalisedCv(X, Y, folds, bound, weights=np.linspace(0.5, 1.5, len(Y)))
        return [objective.score_part({"num_leaves": n}, k) for n in (4, 9) for k in (0, 2)]

    short = score()
    monkeypatch.setattr("hpo.objectives.cross_validation.choose", lambda *_: (None, OTHER_KIND))
    monkeypatch.setattr(LightGbmRows, "predict", None)  # must not be called
    assert score() == short
