"""Objectives: the penalised score by hand, and one battery for everything that can be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import features.table
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.estimators.factory import BoundEstimator, make_estimator
from hpo.objectives.cv_objectives import PenalisedCv
from hpo.objectives.factory import make_objective
from hpo.objectives.folds import make_folds
from hpo.objectives.metrics import mae, r2, rmse, spearman
from hpo.objectives.protocol import Objective
from hpo.spec.cv import GroupKFoldCv
from hpo.spec.estimators import EstimatorSpec
from tests.support.studies import make_spec
from tests.support.trials import need

METRIC = {"rmse": rmse, "mae": mae, "r2": r2, "spearman": spearman}
SMALL = {
    "hist_gradient_boosting": {"max_iter": 5},
    "random_forest": {"n_estimators": 5},
    "extra_trees": {"n_estimators": 5},
    "ridge": {"alpha": 1.0},
    "k_neighbors": {"n_neighbors": 4},
    "lightgbm": {"n_estimators": 5, "max_bin": 31},
    "lightgbm_ranker": {"n_estimators": 5, "grades": 5},
}


@pytest.fixture(scope="module")
def table(hand_table):
    return features.table.read(hand_table)


def penalised(table, metric="rmse", penalty=0.2, estimator="ridge") -> PenalisedCv:
    folds = make_folds(GroupKFoldCv(scheme="group_kfold", folds=4), table.train.groups)
    spec = EstimatorSpec(name=estimator, params=SMALL.get(estimator, {}))
    return PenalisedCv(
        table.train.X,
        table.train.y,
        folds,
        BoundEstimator(spec, seed=3),
        metric=metric,
        penalty=penalty,
    )


@pytest.mark.parametrize("metric", METRIC)
@pytest.mark.parametrize("penalty", [0.0, 0.2, 1.0])
def test_the_penalised_score_is_the_formula(table, metric, penalty):
    objective = penalised(table, metric, penalty, "sklearn.linear_model:LinearRegression")
    parts = [objective.score_part({}, k) for k in range(4)]
    by_hand = []
    for k, fold in enumerate(objective.folds):
        X, y = table.train.X, table.train.y
        model = LinearRegression().fit(X[fold.train], y[fold.train])
        v = METRIC[metric](y[fold.validation], model.predict(X[fold.validation]))
        t = METRIC[metric](y[fold.train], model.predict(X[fold.train]))
        if metric in ("rmse", "mae"):
            by_hand.append(v + penalty * max(0.0, v - t))
        else:
            by_hand.append(v - penalty * max(0.0, t - v))
        assert parts[k][f"{metric}_val"] == pytest.approx(v, rel=1e-12)
        assert parts[k][f"{metric}_train"] == pytest.approx(t, rel=1e-12)
    assert [part["score"] for part in parts] == pytest.approx(by_hand, rel=1e-12)
    assert objective.combine(parts)["score"] == pytest.approx(np.mean(by_hand), rel=1e-12)
    assert objective.direction == ("minimize" if metric in ("rmse", "mae") else "maximize")


@pytest.mark.parametrize("name", [*SMALL, "sklearn.neighbors:KNeighborsRegressor"])
def test_every_estimator_scores_and_repeats_itself(table, name):
    need(name)
    ranks = name == "lightgbm_ranker"
    objective = penalised(table, "spearman" if ranks else "rmse", estimator=name)
    first = objective.score_part({}, 0)
    assert first == objective.score_part({}, 0)
    assert np.isfinite(first["score"])
    assert first["spearman_val"] > 0.3, "learns nothing of a learnable target"


@pytest.mark.parametrize("name", SMALL)
def test_registered_estimators_take_missing_values(table, name):
    need(name)
    X = table.train.X.copy()
    X[::7, 1] = np.nan
    model = make_estimator(EstimatorSpec(name=name, params=SMALL[name]), {}, 0)
    assert np.isfinite(model.fit(X, table.train.y).predict(X)).all()


def test_the_seed_is_the_estimators_unless_the_file_says_otherwise():
    for params, seed in (({}, 7), ({"random_state": 1}, 1)):
        spec = EstimatorSpec(name="random_forest", params=params)
        model: Any = make_estimator(spec, {}, 7)
        assert model.random_state == seed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": {"name": "rigde"}}, "unknown 'rigde'; did you mean 'ridge'"),
        ({"estimator": {"name": "ridge", "params": {"alhpa": 1.0}}}, "no parameter 'alhpa'; did"),
        ({"space": {"aplha": {"type": "float", "low": 0.0, "high": 1.0}}}, "no parameter 'aplha'"),
        ({"space": {"alpha": {"type": "float", "low": -1.0, "high": 1.0}}}, "refuses {'alpha': -1"),
        (
            {"estimator": {"name": "random_forest", "params": {"n_jobs": 4}}},
            "'n_jobs' is set to 1 by",
        ),
        ({"estimator": {"name": "no_such_module:X"}}, "cannot import 'no_such_module'"),
        ({"estimator": {"name": "sklearn.linear_model:Rigde"}}, "has no 'Rigde'"),
        (
            {
                "estimator": {"name": "hist_gradient_boosting"},
                "space": {"loss": {"type": "categorical", "choices": ["squared_error", "sqared"]}},
            },
            "refuses {'loss': 'sqared'}",
        ),
    ],
)
def test_a_wrong_estimator_or_parameter_is_named(changes, message):
    spec = make_spec(**changes)
    with pytest.raises(SpecError, match=message):
        check_estimator(spec, expected_columns(spec))


class Generous:
    """Takes more than its constructor names, as XGBoost's regressors do."""

    def __init__(self, *, objective="squared", **more):
        self.settings = {"n_estimators": 100, "objective": objective, **more}

    @classmethod
    def _get_param_names(cls):
        return ["objective"]

    def get_params(self, deep=True):
        return {**self.settings, "max_depth": None}


def test_an_estimator_that_takes_more_than_it_names_is_asked_for_its_parameters():
    name = f"{__name__}:Generous"
    depth = {"max_depth": {"type": "int", "low": 1, "high": 5}}
    spec = make_spec(estimator={"name": name, "params": {"n_estimators": 7}}, space=depth)
    check_estimator(spec, expected_columns(spec))
    made: Any = make_estimator(EstimatorSpec(name=name, params={"n_estimators": 7}), {}, 0)
    assert made.settings["n_estimators"] == 7
    spec = make_spec(estimator={"name": name, "params": {"n_estimator": 7}}, space=depth)
    with pytest.raises(SpecError, match=r"no parameter 'n_estimator'; did you mean 'n_estimators'"):
        check_estimator(spec, expected_columns(spec))


def test_a_missing_system_library_is_said_and_what_installs_it(monkeypatch):
    def lack(name):
        raise OSError("libgomp.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("hpo.plugins.importlib.import_module", lack)
    with pytest.raises(SpecError, match=r"'lightgbm' lacks a system library: .*Debian: libgomp1"):
        make_estimator(EstimatorSpec(name="lightgbm"), {}, 0)


def test_an_objective_of_ones_own(table):
    custom: dict[str, Any] = {"cv": None, "estimator": None, "space": {}, "trials": 1}
    spec = make_spec(objective={"name": "tests.support.objectives:Parabola"}, **custom)
    assert isinstance(make_objective(spec, table), Objective)
    spec = make_spec(
        objective={"name": "tests.support.objectives:Parabola", "params": {"x": 1}}, **custom
    )
    with pytest.raises(ObjectiveError, match=r"cannot be called as \(table, seed=42, \*\*{'x': 1}"):
        make_objective(spec, table)
    spec = make_spec(objective={"name": "tests.support.objectives:Half"}, **custom)
    with pytest.raises(ObjectiveError, match="lacks score_name, parts, splits_hash, score_part"):
        make_objective(spec, table)


def test_parts_and_splits_are_the_tables(table):
    objective = make_objective(make_spec(), table)
    assert list(objective.parts) == ["fold 0", "fold 1", "fold 2"]
    assert objective.splits_hash == make_objective(make_spec(seed=1), table).splits_hash
    other = make_objective(make_spec(cv={"scheme": "kfold", "folds": 3}), table)
    assert objective.splits_hash != other.splits_hash
