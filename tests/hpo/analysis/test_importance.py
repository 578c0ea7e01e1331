"""Permutation importance: what is shuffled, by whom it is predicted, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hpo.analysis.importance
import hpo.estimators.factory
from hpo.analysis.best_model import evaluate
from hpo.analysis.importance import Validated, find_importances, permute
from hpo.estimators.factory import make_estimator
from hpo.objectives.metrics import rmse
from hpo.records import WorkerRun
from hpo.report.study_page import write_report
from hpo.study.snapshot import take_snapshot
from hpo.worker.worker import Worker


class Linear:
    """A model of known weights that keeps what it is asked."""

    def __init__(self, *weights):
        self.weights, self.asked = np.array(weights), []

    def predict(self, X):
        self.asked.append(X)
        return np.nan_to_num(X) @ self.weights


def rows_of(model, X, folds=2) -> Validated:
    y = np.nan_to_num(X) @ model.weights
    return Validated([model] * folds, X, y, y.copy(), np.arange(len(X)) % folds)


def increases(rows, sets, **options):
    return {found.name: found for found in permute(rows, sets, rmse, seed=0, **options)}


def test_the_increase_is_that_of_the_error_after_a_permutation_within_the_fold():
    X = np.random.default_rng(0).normal(size=(40, 2))
    model = Linear(3.0, 0.0)
    rows = rows_of(model, X)
    found = increases(rows, {"a": [0], "b": [1]}, repeats=2)
    errors = []
    rng = np.random.default_rng(0)
    again = np.empty((2, 40))
    for fold in range(2):
        of_fold = np.flatnonzero(rows.fold == fold)
        for repeat in range(2):
            again[repeat, of_fold] = 3.0 * X[of_fold][rng.permutation(20), 0]
    errors = [rmse(rows.y, predicted) for predicted in again]
    assert found["a"].increase == pytest.approx(np.mean(errors))
    assert found["a"].spread == pytest.approx(np.std(errors, ddof=1))
    assert (found["b"].increase, found["b"].spread) == (0.0, 0.0)


def test_columns_of_a_family_are_permuted_together():
    x = np.random.default_rng(0).normal(size=(50, 1))
    rows = rows_of(Linear(2.0, -2.0), np.hstack([x, x]))
    found = increases(rows, {"both": [0, 1], "one": [0]})
    assert found["both"].increase == pytest.approx(0.0, abs=1e-12)
    assert found["one"].increase > 1.0


def test_what_does_not_vary_is_not_predicted_again():
    X = np.random.default_rng(0).normal(size=(30, 3))
    X[:, 1], X[:, 2] = 7.0, np.nan
    model = Linear(1.0, 1.0, 1.0)
    found = increases(rows_of(model, X), {"x": [0], "same": [1], "gap": [2]}, repeats=3)
    assert sum(len(asked) for asked in model.asked) == 3 * 30
    assert (found["same"].increase, found["gap"].increase) == (0.0, 0.0)
    assert found["x"].increase > 0.5


def test_many_copies_are_predicted_in_batches_with_the_same_outcome(monkeypatch):
    X = np.random.default_rng(0).normal(size=(30, 4))
    sets = {f"x{k}": [k] for k in range(4)}
    model = Linear(1.0, 2.0, 3.0, 4.0)
    whole = permute(rows_of(model, X), sets, rmse, seed=1)
    assert len(model.asked) == 2  # one batch for each fold
    monkeypatch.setattr(hpo.analysis.importance, "CHUNK_CELLS", 150)
    assert permute(rows_of(model, X), sets, rmse, seed=1) == whole
    assert max(asked.size for asked in model.asked[2:]) <= 150
    assert [found.name for found in whole] == ["x3", "x2", "x1", "x0"]


def evaluated(record):
    table, objective = record.open_objective()
    evaluation = evaluate(take_snapshot(record), table, objective)
    assert evaluation is not None
    return evaluation, table


@pytest.fixture
def finished(begin_study):
    record = begin_study(trials=1, estimator={"name": "ridge", "params": {"alpha": 1.0}}, space={})
    Worker(record, record.open_objective()[1], "w").run(WorkerRun("here", 1))
    return record


@pytest.mark.slow
def test_the_models_of_the_folds_are_fitted_once_and_see_no_held_out_row(
    finished, tmp_path, monkeypatch
):
    fitted, asked = [], []

    def make(spec, params, seed, names):
        model: Any = make_estimator(spec, params, seed, names)
        predict = model.predict

        def predict_and_tell(X):
            asked.append((model, X))
            return predict(X)

        model.predict = predict_and_tell
        fitted.append(model)
        return model

    monkeypatch.setattr(hpo.estimators.factory, "make_estimator", make)
    write_report(finished, tmp_path)
    table, objective = finished.open_objective()
    assert len(fitted) == len(objective.folds) + 1
    held_out = {row.tobytes() for row in table.test.X}
    by_fold = [X for model, X in asked if model is not fitted[-1]]
    assert len(by_fold) > len(objective.folds)
    assert not held_out & {row.tobytes() for X in by_fold for row in X}


def test_importance_knows_what_the_target_was_made_from(finished, monkeypatch):
    evaluation, table = evaluated(finished)
    found = find_importances(evaluation, table, seed=0)
    assert found == find_importances(evaluation, table, seed=0)
    assert [one.name for one in found.families] == ["made"]
    assert [one.name for one in found.columns][:2] == ["x0", "x1"]
    assert (found.n_rows, found.n_columns) == (80, 4)
    assert found.columns[0].increase > 1.0 > abs(found.columns[-1].increase)
    assert found.error == "increase of RMSE"
    monkeypatch.setattr(hpo.analysis.importance, "N_COLUMNS", 2)
    monkeypatch.setattr(hpo.analysis.importance, "MAX_ROWS", 60)
    fewer = find_importances(evaluation, table, seed=0)
    assert (len(fewer.columns), fewer.n_columns, fewer.n_rows) == (2, 4, 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "error"),
    [
        ({"name": "quantile", "level": 0.9}, "increase of the pinball loss"),
        ({"name": "spearman"}, "drop of Spearman ρ"),
    ],
)
def test_the_error_is_the_one_that_the_study_speaks_of(begin_study, objective, error):
    forest = {"name": "hist_gradient_boosting", "params": {"max_iter": 5}}
    record = begin_study(trials=1, estimator=forest, space={}, objective=objective)
    Worker(record, record.open_objective()[1], "w").run(WorkerRun("here", 1))
    found = find_importances(*evaluated(record), seed=0)
    assert found.error == error
    assert found.columns[0].name == "x0"
    assert found.columns[0].increase > 0
