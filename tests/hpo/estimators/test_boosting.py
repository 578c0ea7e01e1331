"""The short way of boosting: bit for bit what scikit-learn's own fit and predict give."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import threadpoolctl
from sklearn.ensemble import HistGradientBoostingRegressor

import features.table
from hpo.estimators import boosting, trees
from hpo.estimators.boosting import BoostedRows, judge, slowed_by
from hpo.estimators.factory import BoundEstimator
from hpo.estimators.suitability import OTHER_KIND, SUITABLE, declined
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.cv_objectives import PenalisedCv, QuantileCv
from hpo.objectives.folds import make_folds
from hpo.spec.cv import InterleavedCv
from hpo.spec.estimators import EstimatorSpec
from hpo.system.threads import hold_threads
from tests.support.requirements import unavailable

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
    if not boosting.judge_version().suits:
        pytest.skip(boosting.judge_version().reason)


def need_compiled_trees():
    if not trees.installed().suits:
        unavailable("trees", trees.installed().reason)


@pytest.fixture(params=["compiled", "scikit-learn's"])
def growers(request, monkeypatch):
    """Both ways of growing trees: the usual one, and that of a machine without the library."""
    if request.param == "compiled":
        need_compiled_trees()
    else:
        monkeypatch.setattr(trees, "installed", lambda: declined("compiled trees: left out"))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_are_those_of_scikit_learn(name, weighted, growers):
    weights = np.random.default_rng(1).uniform(0.1, 2.0, N_TRAINED) if weighted else None
    for start in (0, 40):
        trained = (np.arange(len(Y)) + start) % len(Y) < N_TRAINED
        rows = BoostedRows(X[trained], Y[trained], X[~trained], weights)
        for seed in (0, 42):
            model = make_model(SETTINGS[name], seed)
            assert judge(model, N_TRAINED) == SUITABLE
            others, own = rows.predict(model)
            model.fit(X[trained], Y[trained], sample_weight=weights)
            assert np.array_equal(others, model.predict(X[~trained]))
            assert np.array_equal(own, model.predict(X[trained]))


def draw_rows(source, n_rows, n_columns):
    X = source.normal(size=(n_rows, n_columns))
    for column in range(n_columns):
        gaps = source.random(n_rows) < source.random()
        X[:, column] = [
            X[:, column],
            np.round(X[:, column]),
            X[:, column] > source.normal(),
            np.where(gaps, np.nan, X[:, column]),
            np.where(gaps, np.nan, np.round(X[:, column])),
            np.maximum(X[:, column], 0.0),
            X[:, 0],
        ][source.integers(7)]
    return X


def draw_target(source, n_rows):
    y = source.normal(size=n_rows)
    return [y, np.round(2.0 * y), y * 10.0 ** source.integers(-8, 8, size=n_rows)][
        source.choice(3, p=[0.5, 0.4, 0.1])
    ]


def draw_settings(source):
    choices: dict[str, list[object]] = {
        "loss": ["squared_error", "squared_error", "absolute_error", "quantile"],
        "quantile": [0.1, 0.5, 0.9],
        "max_depth": [None, 1, 3, 6],
        "max_leaf_nodes": [None, 2, 7, 31],
        "min_samples_leaf": [1, 2, 5, 20],
        "max_bins": [2, 5, 30, 255],
        "learning_rate": [0.05, 0.3, 1.0],
        "l2_regularization": [0.0, 0.0, 0.1, 5.0],
        "max_features": [1.0, 1.0, 0.2, 0.7],
    }
    return {name: of[source.integers(len(of))] for name, of in choices.items()}


@pytest.fixture
def grown(monkeypatch):
    """What every call of the compiled grower returned."""
    need_compiled_trees()
    answers = []

    class Watched(trees.Grower):
        def grow(self):
            answers.append(super().grow())
            return answers[-1]

    monkeypatch.setattr(trees, "Grower", Watched)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_rows_and_settings_give_the_trees_of_scikit_learn(seed, grown):
    source = np.random.default_rng(seed)
    for _ in range(25):
        n_trained, n_others = int(source.integers(10, 300)), int(source.integers(3, 40))
        X = draw_rows(source, n_trained + n_others, int(source.integers(1, 10)))
        y = draw_target(source, len(X))
        weights = source.uniform(0.1, 3.0, n_trained) if source.random() < 0.3 else None
        model = make_model(draw_settings(source), max_iter=int(source.integers(1, 10)))
        trained, others = slice(n_trained), slice(n_trained, None)
        try:
            model.fit(X[trained], y[trained], sample_weight=weights)
        except ValueError:
            continue  # a column without any value
        found = BoostedRows(X[trained], y[trained], X[others], weights).predict(model)
        assert np.array_equal(found[0], model.predict(X[others]))
        assert np.array_equal(found[1], model.predict(X[trained]))
    # Few trees have sums that would be rounded, and are left to scikit-learn.
    assert sum(grown) > 0.9 * len(grown) > 50


def test_sums_that_would_be_rounded_are_left_to_scikit_learn(grown):
    y = Y[:N_TRAINED] * 10.0 ** RANDOM.integers(-9, 9, N_TRAINED)
    y[1::2] = -y[::2]  # the mean is zero, so that gradients are as different
    model = make_model({"min_samples_leaf": 3})
    others, _ = BoostedRows(X[:N_TRAINED], y, X[N_TRAINED:], None).predict(model)
    model.fit(X[:N_TRAINED], y)
    assert np.array_equal(others, model.predict(X[N_TRAINED:]))
    assert not grown[0]


def test_sums_of_single_precision_are_exact(grown):
    rows = BoostedRows(X[:N_TRAINED], Y[:N_TRAINED], X[N_TRAINED:], None)
    rows.predict(make_model({}))
    assert all(grown)
    assert len(grown) == 25


def test_columns_are_drawn_as_scikit_learn_draws_them():
    ours, theirs = (np.random.default_rng(7) for _ in range(2))
    draws = trees.Draws(ours, n_columns=9, fraction=0.3)
    expected = np.tile([True] * 3 + [False] * 6, (7, 1))
    for draw in expected:
        theirs.shuffle(draw)
    assert np.array_equal(draws.have(4)[:4], expected[:4])
    draws.used(3)
    one = np.empty(9, dtype=bool)
    draws.shuffle(one)
    assert np.array_equal(one, expected[3])
    assert np.array_equal(draws.have(3)[:3], expected[4:])


def test_a_library_that_is_gone_or_older_than_its_source_is_not_used(
    tmp_path, monkeypatch, hand_table, caplog
):
    need_compiled_trees()
    expected = scores_of(hand_table)
    source = tmp_path / "trees.c"
    source.write_text(trees.source() + "\n/* changed */\n")
    monkeypatch.setattr(trees, "SOURCE", source)
    monkeypatch.setattr(trees, "_load", trees._load.__wrapped__)
    assert "trees.c was changed after _trees" in trees.installed().reason
    with caplog.at_level(logging.INFO, logger="hpo.estimators.boosting"):
        assert scores_of(hand_table) == expected
    assert [record.message for record in caplog.records] == [trees.installed().reason]
    monkeypatch.setattr(trees, "LIBRARY", tmp_path / "_trees.so")
    assert "_trees.so cannot be loaded" in trees.installed().reason


def test_more_rows_or_columns_than_are_quick_are_left_to_scikit_learn():
    need_compiled_trees()
    assert trees.judge(65_535, 65_535, 65_535 * 5_000) == SUITABLE
    assert "65535 rows" in trees.judge(65_536, 3, 0).reason
    assert "65535 columns" in trees.judge(10, 65_536, 0).reason
    assert "more than 5000 rows outside" in trees.judge(20_000, 3, 15_001).reason


@pytest.mark.parametrize(("share", "ours"), [(0.3, True), (1.0, False)])
def test_what_columns_list_decides_who_grows_trees(share, ours, monkeypatch):
    need_compiled_trees()
    source, grown = np.random.default_rng(3), list[trees.Grower]()
    many = source.random((9_000, 4)) * (source.random((9_000, 4)) < share)
    y = many.sum(axis=1) + source.normal(size=len(many))
    grow = trees.Grower.grow

    def grow_noted(grower: trees.Grower) -> bool:
        grown.append(grower)
        return grow(grower)

    monkeypatch.setattr(trees.Grower, "grow", grow_noted)
    model = make_model({"early_stopping": False}, max_iter=4)
    _, own = BoostedRows(many, y, many[:1], None).predict(model)
    assert bool(grown) == ours
    assert np.array_equal(own, model.fit(many, y).predict(many))


@pytest.mark.parametrize(
    ("n_rows", "settings", "said"),
    [(220, {}, True), (220, {"monotonic_cst": [0] * 15 + [1]}, False), (6_000, {}, False)],
    ids=["helps", "another way", "would not help"],
)
def test_a_missing_library_is_told_where_it_would_help(n_rows, settings, said, monkeypatch):
    rows = X if n_rows == len(X) else RANDOM.random((n_rows, 3))
    monkeypatch.setattr(trees, "installed", lambda: declined("compiled trees: left out"))
    told = slowed_by(make_model(settings), rows)
    assert told == (f"compiled trees: left out; {trees.SLOWER}" if said else "")
    monkeypatch.setattr(trees, "installed", lambda: SUITABLE)
    assert slowed_by(make_model(settings), rows) == ""


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
    assert next(iter(settings)) in judge(make_model(settings), 100).reason


def test_many_rows_and_other_models_are_left_alone():
    class Another(HistGradientBoostingRegressor):  # type: ignore[misc]
        pass

    assert "early_stopping is set" in judge(make_model({}), 10_001).reason
    without = {"early_stopping": False}
    assert judge(make_model(without), 10_001) == SUITABLE
    assert "200000 rows" in judge(make_model(without), 200_001).reason
    assert judge(Another(), 100) == OTHER_KIND


def test_more_rows_than_scikit_learn_fits_without_early_stopping_are_fitted_the_same():
    source = np.random.default_rng(2)
    many = source.normal(size=(10_500, 3))
    y = many[:, 0] + source.normal(size=10_500)
    model = make_model({"early_stopping": False}, max_iter=4)
    others, own = BoostedRows(many, y, many[:50], None).predict(model)
    model.fit(many, y)
    assert np.array_equal(own, model.predict(many))
    assert np.array_equal(others, own[:50])


def test_another_version_is_fitted_by_its_own_fit_which_the_log_says(
    hand_table, monkeypatch, caplog
):
    expected = scores_of(hand_table)
    monkeypatch.setattr(
        boosting, "judge_version", lambda: declined("scikit-learn 9.9 is not known")
    )
    with caplog.at_level(logging.INFO, logger="hpo.objectives.cross_validation"):
        assert scores_of(hand_table) == expected
    assert [record.message for record in caplog.records] == ["scikit-learn 9.9 is not known"]


def scores_of(hand_table, kind: type[CrossValidation] = PenalisedCv, **settings):
    train = features.table.read(hand_table).train
    folds = make_folds(InterleavedCv(scheme="interleaved", folds=4), train.groups)
    params = {"loss": "quantile", "quantile": 0.2} if kind is QuantileCv else {}
    estimator = EstimatorSpec(name="hist_gradient_boosting", params=params)
    objective = kind(train.X, train.y, folds, BoundEstimator(estimator), **settings)
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
    monkeypatch.setattr(BoostedRows, "predict", None)  # must not be called
    monkeypatch.setattr(boosting, "judge", lambda *_: OTHER_KIND)
    assert scores_of(hand_table, kind, **settings) == short


def test_rows_that_are_not_valid_are_refused_as_scikit_learn_refuses_them():
    y = Y.copy()
    y[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        BoostedRows(X, y, X, None)
    with pytest.raises(ValueError, match="max_bins"):
        BoostedRows(X, Y, X, None).predict(make_model({"max_bins": 300}))


def test_libraries_that_would_use_more_threads_are_held_to_one(caplog):
    with (
        threadpoolctl.threadpool_limits(2),
        caplog.at_level(logging.INFO, logger="hpo.system.threads"),
    ):
        found = hold_threads(1)
        now = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    assert set(found.values()) == {2}
    assert now == {1}
    assert "is held to 1" in caplog.records[0].message
