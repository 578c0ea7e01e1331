"""The short way of boosting: bit for bit what scikit-learn's own fit and predict give."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import threadpoolctl
from sklearn.ensemble import HistGradientBoostingRegressor

import features.table
from hpo import boosting
from hpo.boosting import BoostedRows, refusal
from hpo.folds import make_folds
from hpo.objective import CrossValidation, PenalisedCv, QuantileCv
from hpo.spec import EstimatorSpec, InterleavedCv
from hpo.threads import hold_one_thread

RANDOM = np.random.default_rng(5)
N_TRAINED = 160


def make_rows(n_rows=220):
    """Rows whose columns are of every kind: gaps, constants, copies, few values, infinities."""
    X = RANDOM.normal(size=(n_rows, 16))
    y = X[:, 1] * 2.0 + np.sin(3.0 * X[:, 2]) + 0.1 * RANDOM.normal(size=n_rows)
    X[:, 0] = 1.0
    X[RANDOM.random(n_rows) < 0.3, 2] = np.nan
    X[:, 3] = np.round(X[:, 1])
    X[:, 4] = X[:, 1]
    X[:, 5] = np.exp(X[:, 1])
    X[:, 6] = X[:, 2]
    X[:, 7] = np.where(RANDOM.random(n_rows) < 0.5, np.nan, 3.0)
    X[N_TRAINED:, 8] = np.nan
    X[:, 9] = -X[:, 1]
    X[:, 10] = np.round(X[:, 10])
    X[:3, 10] = [np.inf, -np.inf, np.inf]
    X[:, 11] = np.repeat(X[: n_rows // 2, 11], 2)
    X[:, 12] = X[:, 12] > 0
    X[:, 13] = 0.0
    return X, y


X, Y = make_rows()
SETTINGS = {
    "defaults": {},
    "few bins": {"max_bins": 7, "min_samples_leaf": 3},
    "search": {
        "max_depth": 4,
        "learning_rate": 0.04,
        "max_leaf_nodes": 60,
        "min_samples_leaf": 6,
        "l2_regularization": 0.02,
        "max_bins": 100,
    },
    "no limits": {"max_leaf_nodes": None, "max_depth": None, "min_samples_leaf": 1},
    "some columns": {"max_features": 0.3, "min_samples_leaf": 4, "max_bins": 40},
    "stumps": {"max_depth": 1},
    "too few rows": {"min_samples_leaf": 100},
    "quantile": {"loss": "quantile", "quantile": 0.9},
    "absolute": {"loss": "absolute_error", "l2_regularization": 1.0},
}


def make_model(settings, seed=0, max_iter=25):
    return HistGradientBoostingRegressor(random_state=seed, max_iter=max_iter, **settings)


@pytest.fixture(autouse=True)
def needs_a_known_version():
    if boosting.known_version():
        pytest.skip(boosting.known_version())


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_are_those_of_scikit_learn(name, weighted):
    weights = np.random.default_rng(1).uniform(0.1, 2.0, N_TRAINED) if weighted else None
    for start in (0, 40):
        trained = (np.arange(len(Y)) + start) % len(Y) < N_TRAINED
        rows = BoostedRows(X[trained], Y[trained], X[~trained], weights)
        for seed in (0, 42):
            model = make_model(SETTINGS[name], seed)
            assert refusal(model, N_TRAINED) is None
            others, own = rows.predict(model)
            model.fit(X[trained], Y[trained], sample_weight=weights)
            assert np.array_equal(others, model.predict(X[~trained]))
            assert np.array_equal(own, model.predict(X[trained]))


def test_bins_are_kept_and_serve_every_model():
    rows = BoostedRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], None)
    for max_bins in (50, 20, 50, 20):
        for depth in (2, 5):
            model = make_model({"max_bins": max_bins, "max_depth": depth})
            others, _ = rows.predict(model)
            model.fit(X[:N_TRAINED], Y[:N_TRAINED])
            assert np.array_equal(others, model.predict(X[N_TRAINED:]))
    assert [key for key, _ in rows._bins] == [50, 20]


def test_columns_without_a_choice_are_left_out_but_for_the_first():
    rows = BoostedRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], None)
    rows.predict(make_model({}))
    (bins,) = rows._bins.values()
    # Of 16 columns, 4 and 5 are bins of column 1, and 6 those of column 2; 13 is constant.
    assert bins.trained.shape == (N_TRAINED, 12)
    assert (bins.trained[:, 0] == bins.trained[0, 0]).all()


def test_the_curve_is_that_of_staged_predictions():
    rows = BoostedRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], None)
    model = make_model(SETTINGS["search"], max_iter=30)
    curve = list(rows.predict_staged(model, [1, 10, 30]))
    model.fit(X[:N_TRAINED], Y[:N_TRAINED])
    for side, rows_of_side in enumerate((X[N_TRAINED:], X[:N_TRAINED])):
        staged = list(model.staged_predict(rows_of_side))
        for point, number in enumerate((1, 10, 30)):
            assert np.array_equal(curve[point][side], staged[number - 1])


@pytest.mark.parametrize(
    "settings",
    [
        {"early_stopping": True},
        {"monotonic_cst": [0] * 15 + [1]},
        {"interaction_cst": "pairwise"},
        {"categorical_features": [12]},
        {"warm_start": True},
        {"loss": "gamma"},
    ],
)
def test_what_only_scikit_learn_knows_is_left_to_it(settings):
    assert next(iter(settings)) in (refusal(make_model(settings), 100) or "")


def test_many_rows_and_other_models_are_left_alone():
    class Another(HistGradientBoostingRegressor):  # type: ignore[misc]
        pass

    assert "10000 rows" in (refusal(make_model({}), 10_001) or "")
    assert refusal(Another(), 100) == ""


def test_another_version_is_fitted_by_its_own_fit_which_the_log_says(
    hand_table, monkeypatch, caplog
):
    expected = scores_of(hand_table)
    monkeypatch.setattr(boosting, "known_version", lambda: "scikit-learn 9.9 is not known")
    with caplog.at_level(logging.INFO, logger="hpo.objective"):
        assert scores_of(hand_table) == expected
    assert [record.message for record in caplog.records] == ["scikit-learn 9.9 is not known"]


def scores_of(hand_table, kind: type[CrossValidation] = PenalisedCv, **settings):
    train = features.table.read(hand_table).train
    folds = make_folds(InterleavedCv(scheme="interleaved", folds=4), train.groups)
    params = {"loss": "quantile", "quantile": 0.2} if kind is QuantileCv else {}
    estimator = EstimatorSpec(name="hist_gradient_boosting", params=params)
    objective = kind(train.X, train.y, folds, estimator, **settings)
    return [
        objective.score_part({"max_iter": 20, "max_bins": b}, k) for b in (9, 30) for k in (0, 3)
    ]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (PenalisedCv, {"metric": "rmse"}),
        (PenalisedCv, {"metric": "r2", "weights": np.linspace(0.5, 1.5, 80)}),
        (PenalisedCv, {"X_new": RANDOM.normal(size=(80, 4))}),
        (QuantileCv, {"level": 0.2}),
    ],
)
def test_an_objective_scores_the_same_either_way(hand_table, monkeypatch, kind, settings):
    short = scores_of(hand_table, kind, **settings)
    monkeypatch.setattr(BoostedRows, "predict", None)  # would be called in vain
    monkeypatch.setattr("hpo.objective.refusal", lambda *_: "")
    assert scores_of(hand_table, kind, **settings) == short


def test_rows_that_are_not_valid_are_refused_as_scikit_learn_refuses_them():
    y = Y.copy()
    y[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        BoostedRows(X, y, X, None)
    with pytest.raises(ValueError, match="max_bins"):
        BoostedRows(X, Y, X, None).predict(make_model({"max_bins": 300}))


def test_libraries_that_would_use_more_threads_are_held_to_one(caplog):
    with threadpoolctl.threadpool_limits(2), caplog.at_level(logging.INFO, logger="hpo.threads"):
        found = hold_one_thread()
        now = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    assert set(found.values()) == {2}
    assert now == {1}
    assert "is held to one" in caplog.records[0].message
