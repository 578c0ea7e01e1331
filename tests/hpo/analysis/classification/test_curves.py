"""Curves and prediction sets of classes, against scikit-learn and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from sklearn.calibration import calibration_curve

from hpo.analysis.best_model import Predictions
from hpo.analysis.classification.curves import (
    confusion,
    precision_recall_curve,
    reliability,
    roc_curve,
)
from hpo.analysis.classification.prediction_sets import calibrated_sets
from hpo.analysis.classification.ranked_classes import RankedClasses, find_class
from hpo.errors import SpecError
from hpo.objectives.class_metrics import predicted_classes


def predictions(n_rows=400, n_classes=3, seed=0):
    """Rows in groups of two whose classes are drawn by the very probabilities that are told."""
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(n_classes), n_rows)
    y = np.array([rng.choice(n_classes, p=of_row) for of_row in proba], dtype=float)
    return Predictions(
        ids=np.arange(n_rows).astype(str),
        y=y,
        predicted=proba,
        groups=(np.arange(n_rows) // 2).astype(str),
        fold=np.arange(n_rows) // 2 % 4,
        scores={},
        row_intervals={},
        group_intervals={},
        classes=tuple("abcde"[:n_classes]),
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_curves_are_scikit_learns(n_classes):
    rows = predictions(n_classes=n_classes)
    for k in range(n_classes):
        fpr, tpr, _ = sk.roc_curve(rows.y == k, rows.predicted[:, k], drop_intermediate=False)
        roc = roc_curve(rows, k)
        assert roc is not None
        assert np.array([roc.x, roc.y]) == pytest.approx(np.array([fpr, tpr]))
        assert (roc.low <= roc.high).all()
        precision, recall, _ = sk.precision_recall_curve(rows.y == k, rows.predicted[:, k])
        found = precision_recall_curve(rows, k)
        assert found is not None
        assert found.x[1:] == pytest.approx(recall[:-1][::-1])
        assert found.y[1:] == pytest.approx(precision[:-1][::-1])
    assert (confusion(rows) == sk.confusion_matrix(rows.y, predicted_classes(rows.predicted))).all()


def test_a_class_that_is_not_there_has_no_curve():
    rows = predictions()
    rows.y[:] = 0.0
    assert roc_curve(rows, 0) is roc_curve(rows, 1) is None
    assert precision_recall_curve(rows, 2) is None


def test_reliability_is_scikit_learns_and_right_probabilities_have_little_error():
    rows = predictions(n_rows=4000, n_classes=2)
    found = reliability(rows, 1)
    observed, predicted = calibration_curve(
        rows.y == 1, rows.predicted[:, 1], n_bins=10, strategy="quantile"
    )
    assert found.observed == pytest.approx(observed, abs=0.01)
    assert found.predicted == pytest.approx(predicted, abs=0.01)
    assert found.error < 0.03
    assert ((found.low <= observed + 0.01) & (observed - 0.01 <= found.high)).all()


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_sets_hold_what_they_promise(coverage):
    held = []
    for seed in range(20):
        cv, test = predictions(seed=seed), predictions(seed=100 + seed)
        of_cv, of_test, problem = calibrated_sets(cv, test, coverage)
        assert of_cv is not None
        assert of_test is not None
        assert not problem
        held.append((of_cv.covers(cv.y).mean(), of_test.covers(test.y).mean()))
    assert np.mean(held, axis=0) == pytest.approx(coverage, abs=0.02)


def test_sets_are_missing_with_the_reason_where_nothing_calibrates():
    rows = predictions()
    rows.fold[:] = 0
    of_cv, _, problem = calibrated_sets(rows, None)
    assert of_cv is None
    assert "leaves no row" in problem


def test_what_a_ranking_tells_of_classes():
    proba = np.array([[0.5, 0.5], [1.0, 0.0]])
    sets, _, _ = calibrated_sets(predictions(n_classes=2), None, 0.8)
    assert sets is not None
    told = RankedClasses(("a", "b"), 1, proba, sets).columns(np.arange(2))
    assert told["class"] == ["a", "a"]
    assert list(told["entropy_bits"]) == [1.0, 0.0]
    assert (find_class(None, ("a", "b")), find_class("a", ("a", "b"))) == (1, 0)
    with pytest.raises(SpecError, match="no class of the target"):
        find_class("c", ("a", "b"))
