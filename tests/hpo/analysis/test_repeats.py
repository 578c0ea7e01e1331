"""Rows that several folds validate, or none: each counts once, with the predictions of all."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

import features.table
from features.table import TableView
from hpo.analysis.best_model import evaluate, predict_folds, score_predictions
from hpo.analysis.calibration import calibrate
from hpo.analysis.comparison.differences import ScoredStudy, find_differences
from hpo.analysis.comparison.studies import Row
from hpo.analysis.conformal import HeldOut, conformal_quantile, cross_calibrate_residuals
from hpo.analysis.importance import find_importances
from hpo.analysis.predictions_csv import predictions_csv
from hpo.analysis.told_trial import part_differences
from hpo.errors import ObjectiveError
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.objectives.folds import hold_out
from hpo.objectives.metrics import METRICS
from hpo.records import WorkerRun
from hpo.study.snapshot import take_snapshot
from hpo.worker.worker import Worker, new_worker_id
from tests.support.studies import make_spec

REPEATED = {"splitter": "RepeatedKFold", "params": {"n_splits": 3, "n_repeats": 4}}
LATER = {"splitter": "TimeSeriesSplit", "params": {"n_splits": 3}}


@pytest.fixture(scope="module")
def table(hand_table):
    return features.table.read(hand_table)


def objective_of(table, cv) -> CrossValidation:
    made = make_objective(make_spec(cv=cv, trials=1, space={}), table)
    assert isinstance(made, CrossValidation)
    return made


def predictions(n_rows: int, times: int, noise: float = 0.0) -> Any:
    """Predictions of rows, the same every time but for the noise; folds tell times apart."""
    rng = np.random.default_rng(1)
    y, error = rng.normal(size=n_rows), rng.normal(size=n_rows)
    rows = np.repeat(np.arange(n_rows), times)
    ids = np.array([f"row {row:03d}" for row in rows])
    groups = np.array([f"g{row // 2}" for row in rows])
    X = np.empty((len(rows), 0))
    predicted = (y + error)[rows] + noise * rng.normal(size=len(rows))
    fold = np.tile(np.arange(times), n_rows) * 2 + rows % 2
    return score_predictions(TableView(ids, X, X, y[rows], groups), predicted, fold, METRICS)


@pytest.mark.parametrize("cv", [REPEATED, LATER], ids=lambda cv: str(cv["splitter"]))
def test_every_prediction_is_by_the_model_of_its_fold(table, cv):
    objective = objective_of(table, cv)
    found = predict_folds(objective, {})
    assert len(found.rows) == sum(len(fold.validation) for fold in objective.folds)
    for k, fold in enumerate(objective.folds):
        of_fold = found.fold == k
        np.testing.assert_array_equal(found.rows[of_fold], fold.validation)
        expected = objective.fit({}, fold.train).predict(objective.X_new[fold.validation])
        np.testing.assert_array_equal(found.predicted[of_fold], expected)


def test_a_row_that_is_predicted_alike_several_times_says_no_more_than_once():
    once, thrice = predictions(40, 1), predictions(40, 3)
    assert (once.n_rows, thrice.n_rows) == (40, 40)
    for name in METRICS:
        assert thrice.scores[name] == pytest.approx(once.scores[name])
        for kind in ("row_intervals", "group_intervals"):
            ends, expected = getattr(thrice, kind)[name], getattr(once, kind)[name]
            assert ends == pytest.approx(expected, rel=1e-9)
    made, expected = calibrate(thrice, once), calibrate(once, once)
    assert made.test is not None
    assert expected.test is not None
    np.testing.assert_allclose(made.test.width, expected.test.width)
    scores = np.abs(once.y - once.predicted)
    ids = np.repeat(once.ids, 3)
    for coverage in (0.5, 0.8, 0.9, 0.99):
        again = conformal_quantile(np.repeat(scores, 3), coverage, ids)
        assert again == conformal_quantile(scores, coverage)


def test_no_interval_is_calibrated_by_another_prediction_of_its_own_row():
    ids = np.repeat([f"row {k}" for k in range(12)], 2)
    # Two repeats of two folds: by parity, and by halves.
    fold = np.column_stack([np.arange(12) % 2, 2 + np.arange(12) // 6]).ravel()
    y, predicted = np.zeros(24), np.ones((24, 1))
    # One row is far off, in both of its folds: nobody else's prediction says so.
    predicted[ids == "row 3"] = 100.0
    held_out = HeldOut(y, predicted, fold, ids, ids)
    made, rows = cross_calibrate_residuals(held_out, 0.8), ids == "row 3"
    assert set(made.width[rows]) == {2.0}
    assert 200.0 in made.width[~rows]


def test_studies_are_paired_prediction_by_prediction():
    first, second = predictions(30, 3), predictions(30, 2, noise=0.3)
    studies = [
        ScoredStudy(Row(name, "finished", cv=dict(rows.scores)), {"cv": rows})
        for name, rows in (("a", first), ("b", second))
    ]
    pair = next(pair for pair in find_differences(studies, "a") if pair.of == "cv")
    assert pair.n_rows == 30
    twice = predictions(30, 2)
    expected = second.scores["rmse"] - twice.scores["rmse"]
    assert pair.metrics["rmse"].value == pytest.approx(expected)


def test_differences_over_parts_of_the_same_rows_are_less_certain():
    ours = [{"score": value} for value in (1.0, 2.0, 4.0, 3.0)]
    theirs = [{"score": value} for value in (1.5, 1.0, 2.0, 4.0)]
    (once,), (repeated,) = part_differences(ours, theirs), part_differences(ours, theirs, 4.0)
    width, wider = (low[1] - low[0] for low in (once.interval, repeated.interval))
    assert wider == pytest.approx(2.0 * width)
    assert repeated.difference == once.difference


@pytest.mark.parametrize("cv", [REPEATED, LATER], ids=lambda cv: str(cv["splitter"]))
def test_report_and_files_of_a_study_count_rows_once(begin_study, table, cv, tmp_path):
    record = begin_study(name="again", trials=1, space={}, cv=cv)
    Worker(record, record.open_objective()[1], new_worker_id()).run(WorkerRun("here", 1))
    snapshot = take_snapshot(record, trials=True)
    found = evaluate(snapshot, *record.open_objective())
    assert found is not None
    validated = len({row for fold in objective_of(table, cv).folds for row in fold.validation})
    assert found.cv.n_rows == validated
    lines = list(csv.DictReader(io.StringIO(predictions_csv(found))))
    assert sum(line["set"] == "cv" for line in lines) == len(found.cv.y) == len(found.X_validated)
    assert find_importances(found, table, seed=0).families


def test_what_outer_folds_cannot_be_is_said(table):
    outer = hold_out(make_spec(cv={**REPEATED, "outer": 5}), table)
    assert len(outer.test.y) == pytest.approx(len(table.train.y) / 3, abs=1)
    with pytest.raises(ObjectiveError, match="outer: must be below the number of folds, 12, got"):
        hold_out(make_spec(cv={**REPEATED, "outer": 12}), table)
    with pytest.raises(ObjectiveError, match="rows out that it neither trains nor validates on"):
        hold_out(make_spec(cv={**LATER, "outer": 0}), table)


@pytest.mark.parametrize("metric", ["r2", "spearman"])
def test_a_metric_that_one_row_leaves_undefined_is_refused(table, metric):
    spec = make_spec(cv={"splitter": "LeaveOneOut"}, objective={"metric": metric})
    with pytest.raises(ObjectiveError, match=f"metric {metric}: all 1 row that fold 0 validates"):
        make_objective(spec, table)
