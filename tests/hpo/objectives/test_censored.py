"""Targets that are known as intervals: scores against brute force, and fits that take them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin

from features.table import Column, FeatureTable, TableRows, Target
from hpo.analysis import nested_cv
from hpo.analysis.best_model import Predictions
from hpo.analysis.bootstrap import bootstrap_intervals, paired_differences, resample_counts
from hpo.analysis.discovery_metrics import value_study
from hpo.errors import ObjectiveError
from hpo.objectives.censored.bounds import Bounds, concordance, weighted_concordance
from hpo.objectives.censored.checks import describe_bounds
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.objectives.metrics import BOUNDS_METRICS, METRICS, score_all
from hpo.spec.loading import validate
from tests.support.tables.own_tables import rows_of_table

EVERY = {**METRICS, **BOUNDS_METRICS}
INF = math.inf
Drawn = tuple[np.ndarray, np.ndarray]


@st.composite
def known_rows(draw: Any, least: int = 2) -> Drawn:
    """Bounds with ties, open sides and values, and predictions with ties."""
    n = draw(st.integers(least, 14))
    ends = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted)
    kinds = st.sampled_from(["value", "below", "above", "range"])
    rows = []
    for lower, upper in draw(st.lists(ends, min_size=n, max_size=n)):
        of = {"value": (lower, lower), "below": (-INF, upper), "above": (lower, INF)}
        rows.append(of.get(draw(kinds), (lower, upper)))
    predicted = draw(st.lists(st.integers(-1, 5), min_size=n, max_size=n))
    return np.array(rows, dtype=np.float64), np.array(predicted, dtype=np.float64)


def brute_concordance(bounds: np.ndarray, predicted: np.ndarray) -> float:
    right, pairs = 0.0, 0
    measured = bounds[:, 0] == bounds[:, 1]
    for i in range(len(bounds)):
        for j in range(len(bounds)):
            touch = bounds[i, 1] == bounds[j, 0] and not (measured[i] and measured[j])
            if i != j and (bounds[i, 1] < bounds[j, 0] or touch):
                pairs += 1
                right += (predicted[i] < predicted[j]) + 0.5 * (predicted[i] == predicted[j])
    return right / pairs if pairs else math.nan


@given(known_rows())
def test_scores_are_those_of_brute_force(drawn: Drawn) -> None:
    bounds, predicted = drawn
    distances = [
        max(lower - value, value - upper, 0.0)
        for (lower, upper), value in zip(bounds, predicted, strict=True)
    ]
    measured = bounds[:, 0] == bounds[:, 1]
    values = bounds[measured, 0]
    found = score_all(Bounds(bounds), predicted, EVERY)
    assert found["rmse"] == pytest.approx(math.sqrt(np.mean(np.square(distances))))
    assert found["mae"] == pytest.approx(np.mean(distances))
    assert found["concordance"] == pytest.approx(brute_concordance(bounds, predicted), nan_ok=True)
    for name in ("r2", "spearman"):
        alone = METRICS[name](values, predicted[measured]) if len(values) else math.nan
        assert found[name] == pytest.approx(alone, nan_ok=True)


@given(known_rows())
def test_limits_to_one_side_are_compared_as_survival_analysis_does(drawn: Drawn) -> None:
    # scikit-survival, `concordance_index_censored`: the earlier time is an event, or both times are
    # equal and one of them alone is; a higher risk is the earlier one's.
    bounds, predicted = drawn
    time, event = np.where(np.isfinite(bounds[:, 0]), bounds[:, 0], 1.0), np.isfinite(bounds[:, 1])
    right, pairs = 0.0, 0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += (predicted[i] < predicted[j]) + 0.5 * (predicted[i] == predicted[j])
    of_these = Bounds(np.column_stack([time, np.where(event, time, INF)]))
    assert concordance(of_these, predicted) == pytest.approx(
        right / pairs if pairs else math.nan, nan_ok=True
    )


@given(known_rows())
def test_without_intervals_every_score_is_the_plain_one(drawn: Drawn) -> None:
    bounds, predicted = drawn
    y = np.where(np.isfinite(bounds[:, 0]), bounds[:, 0], bounds[:, 1])
    np.testing.assert_equal(
        score_all(Bounds(np.column_stack([y, y])), predicted), score_all(y, predicted)
    )


@settings(max_examples=15)
@given(known_rows(least=6), st.booleans())
def test_resamples_are_scored_as_if_they_were_written_out(drawn: Drawn, grouped: bool) -> None:
    bounds, predicted = drawn
    groups = np.array([f"g{k // 2}" for k in range(len(bounds))]) if grouped else None
    found = bootstrap_intervals(
        Bounds(bounds), predicted, groups, n_resamples=40, seed=1, metrics=EVERY
    )
    written = [
        np.repeat(np.arange(len(bounds)), counts)
        for some in resample_counts(len(bounds), groups, 40, 1)
        for counts in some
    ]
    for name, metric in EVERY.items():
        scores = np.array([metric(Bounds(bounds)[rows], predicted[rows]) for rows in written])
        known = scores[np.isfinite(scores)]
        expected = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
        assert found[name] == pytest.approx(tuple(expected), nan_ok=True, abs=1e-9)


def test_models_are_compared_on_what_is_known() -> None:
    rng = np.random.default_rng(0)
    y, noise = rng.normal(size=200), rng.normal(size=(2, 200))
    bounds = np.column_stack([np.where(y < -1, -INF, y), np.maximum(y, -1)])
    bounds[y < -1, 1] = -1
    groups = np.array([f"g{k // 4}" for k in range(200)])
    good, bad = y + 0.1 * noise[0], y + noise[1]
    (found,) = paired_differences(Bounds(bounds), bad, [good], groups, n_resamples=200)
    assert found.keys() == EVERY.keys()
    assert found["concordance"].value == pytest.approx(
        concordance(Bounds(bounds), good) - concordance(Bounds(bounds), bad)
    )
    assert found["concordance"].group[0] > 0
    assert found["rmse"].group[1] < 0


def test_a_million_pairs_need_no_matrix_of_pairs() -> None:
    rng = np.random.default_rng(0)
    y = np.sort(rng.normal(size=50_000))
    bounds = Bounds(np.column_stack([y, np.where(rng.random(50_000) < 0.3, INF, y)]))
    found = weighted_concordance(bounds, y, np.ones((2, 50_000)))
    assert found.tolist() == [1.0, 1.0]


# Objectives -------------------------------------------------------------------------------------


class Remembering(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts the first column, and keeps what it was fitted to."""

    takes_bounds = True

    def fit(self, X: Any, y: Any, bounds: Any = None) -> Remembering:
        self.n_features_in_, self.y_, self.bounds_ = X.shape[1], y, bounds
        return self

    def predict(self, X: Any) -> Any:
        return X[:, 0]


def table_of(n: int = 40, *, censored: bool = True) -> FeatureTable:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, 2))
    y = X[:, 0] + 0.2 * rng.normal(size=n)
    low = y < -0.5
    bounds = np.column_stack([np.where(low, -INF, y), np.where(low, -0.5, y)])
    rows = TableRows(
        dataset="hand",
        ids=tuple(f"r{k}" for k in range(n)),
        formulas=("",) * n,
        groups=tuple(f"g{k // 2}" for k in range(n)),
        y=np.where(low, -0.5, y),
        is_train=np.arange(n) % 5 > 0,
        columns=(Column("a", "own"), Column("b", "own")),
        target=Target("t"),
        bounds=bounds if censored else None,
    )
    return rows.with_features(X)


def objective_of(table: FeatureTable, estimator: Any, **objective: Any) -> CrossValidation:
    raw = {
        "name": "c",
        "trials": 1,
        "table": {"dataset": "own", "loader": "nowhere:load"},
        "cv": {"scheme": "group_kfold", "folds": 4},
        "estimator": {"name": estimator} if isinstance(estimator, str) else estimator,
        "objective": objective,
    }
    made = make_objective(validate(raw, "c"), table)
    assert isinstance(made, CrossValidation)
    return made


STEPS = {"steps": [{"name": "StandardScaler"}, {"name": f"{__name__}:Remembering", "step": "last"}]}


@pytest.mark.parametrize("estimator", [f"{__name__}:Remembering", STEPS])
def test_an_estimator_that_takes_bounds_is_fitted_to_those_of_its_rows(estimator: Any) -> None:
    table = table_of()
    objective = objective_of(table, estimator)
    rows = objective.folds[1].train
    fitted: Any = objective.fit({}, rows)
    last = fitted.steps[-1][1] if isinstance(estimator, dict) else fitted
    assert table.train.bounds is not None
    np.testing.assert_array_equal(last.bounds_, table.train.bounds[rows])
    np.testing.assert_array_equal(last.y_, table.train.y[rows])
    assert objective_of(table_of(censored=False), estimator).fit({}).predict(table.X).shape == (40,)


TAKING = {"name": f"{__name__}:Remembering"}
ENSEMBLE = {
    "name": "ensemble",
    "members": {"taking": TAKING, "plain": {"name": "ridge"}},
    "combiner": TAKING,
}


def test_models_of_an_ensemble_are_fitted_to_the_bounds_that_they_take() -> None:
    table = table_of()
    fitted: Any = objective_of(table, ENSEMBLE).fit({})
    for model in (fitted.members_["taking"], fitted.combiner_):
        np.testing.assert_array_equal(model.bounds_, table.train.bounds)
    plain = {"name": "ensemble", "members": {k: {"name": k} for k in ("ridge", "extra_trees")}}
    assert objective_of(table, plain).fit({}).predict(table.X).shape == (40,)


@pytest.mark.parametrize("predicts", ["target", "residual"])
def test_a_second_model_is_fitted_to_bounds_of_what_it_predicts(predicts: str) -> None:
    table = gated_table()
    second = {**TAKING, "rows": "all", "predicts": predicts}
    gated = {"name": "gated", "gate": ["gate"], "base": TAKING, "second": second}
    fitted: Any = objective_of(table, {**gated, "combiner": {**TAKING, "columns": []}}).fit({})
    bounds, base = table.train.bounds, table.train.X[:, 0]  # which the base model predicts
    assert bounds is not None
    ends = bounds - base[:, None] if predicts == "residual" else bounds
    np.testing.assert_array_equal(fitted.base_.bounds_, bounds)
    np.testing.assert_array_equal(fitted.second_.bounds_, ends)
    np.testing.assert_array_equal(fitted.combiner_.bounds_, bounds[table.train.X[:, 2] == 1])


def gated_table() -> FeatureTable:
    plain = table_of()
    rows = rows_of_table(plain, columns=(*plain.columns, Column("gate", "own")))
    return rows.with_features(np.column_stack([plain.X, np.arange(len(plain.y)) % 2]))


def test_it_is_said_which_models_of_an_ensemble_take_bounds() -> None:
    objective = objective_of(table_of(), ENSEMBLE)
    (said,) = describe_bounds(objective.bounds, objective.bound)
    assert f"which {__name__}:Remembering is fitted to; ridge, which takes no bounds, is" in said


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2", "spearman", "concordance"])
def test_a_fold_scores_what_is_known_of_its_rows(metric: str) -> None:
    table = table_of()
    objective = objective_of(table, "ridge", metric=metric, penalty=0.0)
    assert objective.direction == ("minimize" if metric in ("rmse", "mae") else "maximize")
    assert table.train.bounds is not None
    for k, fold in enumerate(objective.folds):
        scores = objective.score_part({}, k)
        predicted = objective.fit({}, fold.train).predict(table.train.X[fold.validation])
        known = Bounds(table.train.bounds[fold.validation])
        assert scores["score"] == scores[f"{metric}_val"] == EVERY[metric](known, predicted)
        assert {f"{name}_train" for name in EVERY} <= scores.keys()


def test_without_intervals_an_objective_is_the_plain_one() -> None:
    table = table_of(censored=False)
    plain = objective_of(table, "ridge")
    assert plain.bounds is None
    assert [*plain.metrics] == [*METRICS]
    with pytest.raises(ObjectiveError, match="concordance: is of targets that are known as inter"):
        objective_of(table, "ridge", metric="concordance")


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ({"scoring": "r2"}, r"scoring r2: a scorer sees values alone, and of \d+ of the 32 train"),
        ({"name": "quantile", "level": 0.5}, "its loss is of values alone"),
    ],
)
def test_what_scores_values_alone_is_refused(objective: dict[str, Any], reason: str) -> None:
    with pytest.raises(ObjectiveError, match=reason):
        objective_of(table_of(), "hist_gradient_boosting", **objective)


def test_folds_that_leave_nothing_to_compare_are_refused() -> None:
    table = table_of()
    bounds = np.tile([-INF, 0.0], (40, 1))
    object.__setattr__(table, "bounds", bounds)
    for metric, reason in (("spearman", "in a measured value"), ("concordance", "known to differ")):
        with pytest.raises(ObjectiveError, match=reason):
            objective_of(table, "ridge", metric=metric)
    assert objective_of(table, "ridge").score_part({}, 0)["score"] >= 0


def test_a_threshold_counts_the_rows_that_are_known_to_be_on_one_side() -> None:
    ends = np.array([[0, 0], [2, 2], [-INF, 0.5], [-INF, 3.0], [2, INF], [0.5, 5]], dtype=float)
    rows = Predictions(
        ids=np.array([f"r{k}" for k in range(6)]),
        y=np.array([0, 2, 0.5, 3.0, 2, 2.75]),
        predicted=np.arange(6.0),
        groups=np.array([*"aabbcc"]),
        fold=np.zeros(6, dtype=np.int64),
        scores={},
        row_intervals={},
        group_intervals={},
        bounds=ends,
    )
    by_row, _ = value_study({"cv": rows}, 1.0)["cv"]
    assert (by_row.rows, by_row.above) == (4, 2)


def test_outer_folds_are_pooled_with_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of()
    monkeypatch.setattr(nested_cv, "best_trial", lambda _record: SimpleNamespace(params={}))
    records: list[Any] = []
    for k in range(2):
        outer = table.holding_out(np.arange(k, 32, 2))
        opened = (outer, objective_of(outer, "ridge"))
        records.append(SimpleNamespace(name=f"outer{k}", open_objective=lambda o=opened: o))
    pooled = nested_cv.pool(records)
    assert table.train.bounds is not None
    np.testing.assert_array_equal(
        pooled.ends, np.concatenate([table.train.bounds[k::2] for k in range(2)])
    )
    assert pooled.scores == score_all(pooled.truth, pooled.predicted, EVERY)
    assert pooled.group_intervals["concordance"][0] <= pooled.scores["concordance"]


# XGBoost's failure time loss ----------------------------------------------------------------------


def test_boosting_learns_from_limits() -> None:
    pytest.importorskip("xgboost")
    from hpo.estimators.extras.xgboost_aft import XGBAFTRegressor

    rng = np.random.default_rng(0)
    X = rng.uniform(-3, 3, size=(600, 1))
    y = X[:, 0] + 0.1 * rng.normal(size=600)
    # Above 0 it is known alone that it is above -1: by values, all of these would be -1.
    open_ = y > 0
    stated = np.where(open_, -1.0, y)
    bounds = np.column_stack([stated, np.where(open_, INF, y)])
    settings_: dict[str, Any] = {
        "n_estimators": 80,
        "max_depth": 2,
        "aft_loss_distribution_scale": 0.3,
    }
    model = XGBAFTRegressor(**settings_).fit(X, stated, bounds=bounds)
    by_value = XGBAFTRegressor(**settings_).fit(X, stated)
    new = np.array([[-2.0], [2.5]])
    assert by_value.predict(new)[1] == pytest.approx(-1.0, abs=0.1)
    assert model.predict(new)[1] > -0.8
    assert model.predict(new)[0] == pytest.approx(-2.0, abs=0.3)
    # Bounds that are values are no more than the values.
    same = XGBAFTRegressor(**settings_).fit(X, stated, bounds=np.column_stack([stated, stated]))
    np.testing.assert_array_equal(same.predict(new), by_value.predict(new))
    # Another unit changes nothing but the unit.
    moved = XGBAFTRegressor(**settings_).fit(X, 8 * stated + 64, bounds=8 * bounds + 64)
    np.testing.assert_allclose(moved.predict(new), 8 * model.predict(new) + 64, atol=1e-4)
    for wrong in (bounds[:, ::-1], bounds[:5], bounds * np.nan):
        with pytest.raises(ValueError, match="bounds must be"):
            XGBAFTRegressor(**settings_).fit(X, stated, bounds=wrong)
    with pytest.raises(ValueError, match="must be one of normal"):
        XGBAFTRegressor(aft_loss_distribution="cauchy").fit(X, stated)
