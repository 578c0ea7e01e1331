"""Quantiles and pooled rank correlation as objectives: formulas, restarts, refusals, reports."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_pinball_loss

import features.table
import hpo.analysis.best_model
from hpo.analysis.best_model import evaluate
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.estimators.factory import BoundEstimator, make_estimator
from hpo.estimators.lightgbm_ranker import MAX_QUERY_ROWS, grade
from hpo.objectives.cv_objectives import SpearmanCv
from hpo.objectives.factory import make_objective
from hpo.objectives.folds import make_folds
from hpo.objectives.metrics import METRICS
from hpo.records import Claim, part_key
from hpo.report.study_page import write_report
from hpo.spec.cv import InterleavedCv
from hpo.spec.estimators import EstimatorSpec
from hpo.spec.space import distributions
from hpo.study.record import StudyRecord, find
from hpo.study.snapshot import take_snapshot
from tests.support.pages import Page
from tests.support.studies import make_spec
from tests.support.trials import need

HGB = "hist_gradient_boosting"
SMALL: dict[str, dict[str, Any]] = {
    "hist_gradient_boosting": {"max_iter": 30, "min_samples_leaf": 5},
    "lightgbm": {"n_estimators": 30, "min_child_samples": 5},
}
DEPTH = {"max_depth": {"type": "int", "low": 2, "high": 4}}
ALPHA = make_spec().model_dump(mode="json")["space"]


def quantile(level=0.9, name="hist_gradient_boosting", penalty=0.0, **changes) -> dict[str, Any]:
    """Return the fields of a quantile study."""
    return {
        "objective": {"name": "quantile", "level": level, "penalty": penalty},
        "estimator": {"name": name, "params": SMALL.get(name, {})},
        "space": DEPTH,
        **changes,
    }


RANKER: dict[str, Any] = {
    "estimator": {
        "name": "lightgbm_ranker",
        "params": {"n_estimators": 20, "min_child_samples": 5},
    },
    "space": DEPTH,
}
SPEARMAN: dict[str, Any] = {"objective": {"name": "spearman"}}


@pytest.fixture(scope="module")
def table(hand_table):
    return features.table.read(hand_table)


def score_all_parts(objective, params) -> tuple[list[Mapping[str, float]], Mapping[str, float]]:
    parts = [objective.score_part(params, k) for k in range(len(objective.parts))]
    return parts, objective.combine(parts)


# Quantiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_a_quantile_scores_the_pinball_loss_of_its_folds(table, penalty):
    objective = make_objective(make_spec(**quantile(0.9, penalty=penalty)), table)
    parts, total = score_all_parts(objective, {"max_depth": 3})
    X, y, by_hand = table.train.X, table.train.y, []
    for k, part in enumerate(parts):
        validation = np.arange(80) % 3 == k
        model = HistGradientBoostingRegressor(
            loss="quantile",
            quantile=0.9,
            max_depth=3,
            random_state=42,
            **SMALL["hist_gradient_boosting"],
        ).fit(X[~validation], y[~validation])
        v, t = (
            mean_pinball_loss(y[rows], model.predict(X[rows]), alpha=0.9)
            for rows in (validation, ~validation)
        )
        by_hand.append(v + penalty * max(0.0, v - t))
        assert part["pinball_val"] == pytest.approx(v, rel=1e-12)
        assert part["coverage_val"] == np.mean(y[validation] <= model.predict(X[validation]))
        assert {"rmse_val", "r2_train"} <= part.keys()
    assert [part["score"] for part in parts] == pytest.approx(by_hand, rel=1e-12)
    assert total["score"] == pytest.approx(np.mean(by_hand), rel=1e-12)
    assert objective.direction == "minimize"


@pytest.mark.parametrize("name", SMALL)
def test_levels_are_where_they_say(table, name):
    need(name)
    covered = []
    for level in (0.1, 0.5, 0.9):
        objective = make_objective(make_spec(**quantile(level, name)), table)
        _, total = score_all_parts(objective, {"max_depth": 3})
        covered.append(total["coverage_train"])
        assert total["coverage_train"] == pytest.approx(level, abs=0.1)
    assert covered == sorted(covered)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (quantile(name="ridge", space=ALPHA), "'ridge' predicts no quantiles; objective quantile "
         "takes hist_gradient_boosting or lightgbm"),
        (quantile(name="sklearn.linear_model:QuantileRegressor", space=ALPHA), "no quantiles"),
        (quantile(name="lightgbm_ranker"), "predicts scores that have no unit"),
        (
            quantile(estimator={"name": HGB, "params": {"loss": "squared_error"}}),
            "'loss' is set to 'quantile' by objective quantile",
        ),
        (
            quantile(space={"quantile": {"type": "float", "low": 0.1, "high": 0.9}}),
            "'quantile' is set to 0.9 by .* and cannot be changed or searched",
        ),
        (RANKER, 'takes .* "spearman", got penalised_cv with metric = "rmse"'),
        (
            {**RANKER, "estimator": {"name": "lightgbm_ranker", "params": {"objective": "l2"}},
             **SPEARMAN},
            "objective must be lambdarank or rank_xendcg, got 'l2'",
        ),
        (
            {**RANKER, "estimator": {"name": "lightgbm_ranker", "params": {"grades": 1}},
             **SPEARMAN},
            "grades must be a whole number from 2 to 1000, got 1",
        ),
    ],
)  # fmt: skip
def test_estimators_that_cannot_what_is_asked_are_refused(table, changes, message):
    if "ranker" in str(changes):
        need("lightgbm")
    spec = make_spec(**changes)
    with pytest.raises(SpecError, match=message):
        check_estimator(spec, expected_columns(spec))


def test_a_study_is_refused_by_its_objective_too(table):
    with pytest.raises(SpecError, match="predicts no quantiles"):
        make_objective(make_spec(**quantile(name="ridge", space=ALPHA)), table)


def test_what_the_objective_sets_may_be_said_in_the_file(table):
    said = {"name": HGB, "params": {"loss": "quantile", "quantile": 0.9, "max_iter": 5}}
    spec = make_spec(**quantile(0.9, estimator=said))
    check_estimator(spec, expected_columns(spec))


# Rank correlation -----------------------------------------------------------------------------


def test_spearman_is_that_of_all_folds_together(table):
    objective = make_objective(make_spec(**SPEARMAN), table)
    assert isinstance(objective, SpearmanCv)
    parts, total = score_all_parts(objective, {"alpha": 1.0})
    y, predicted = [], []
    for fold, part in zip(objective.folds, parts, strict=True):
        model = make_estimator(EstimatorSpec(name="ridge"), {"alpha": 1.0}, 42)
        model.fit(table.train.X[fold.train], table.train.y[fold.train])
        y.append(table.train.y[fold.validation])
        predicted.append(model.predict(table.train.X[fold.validation]))
        assert part["score"] == pytest.approx(spearmanr(y[-1], predicted[-1]).statistic)
    pooled = spearmanr(np.concatenate(y), np.concatenate(predicted)).statistic
    assert total["score"] == pytest.approx(pooled, rel=1e-12)
    assert total["score"] != pytest.approx(total["spearman_val"], abs=1e-6)
    assert objective.direction == "maximize"


def test_a_trial_that_is_taken_over_scores_the_same(table):
    spec = make_spec(**SPEARMAN)
    whole, total = score_all_parts(make_objective(spec, table), {"alpha": 1.0})
    for taken_over_at in (1, 2):
        successor = make_objective(spec, table)
        successor.score_part({"alpha": 9.0}, 0)  # predictions of another trial are left behind
        parts = whole[:taken_over_at]
        parts += [successor.score_part({"alpha": 1.0}, k) for k in range(taken_over_at, 3)]
        assert parts == whole
        assert successor.combine(parts) == total


def test_a_fold_that_cannot_be_ranked_is_refused_before_any_trial(table):
    train = table.train
    y = train.y.copy()
    y[1::3] = 7.0
    folds = make_folds(InterleavedCv(scheme="interleaved", folds=3), train.groups)
    with pytest.raises(ObjectiveError, match="all 27 rows that fold 1 validates have one value"):
        SpearmanCv(train.X, y, folds, BoundEstimator(EstimatorSpec(name="ridge")))


@pytest.mark.parametrize("loss", ["lambdarank", "rank_xendcg"])
def test_a_ranker_ranks_and_stores_nothing_that_needs_a_unit(table, loss):
    need("lightgbm")
    params = {"objective": loss, **RANKER["estimator"]["params"]}
    changes = {**RANKER, **SPEARMAN, "estimator": {"name": "lightgbm_ranker", "params": params}}
    objective = make_objective(make_spec(**changes), table)
    parts, total = score_all_parts(objective, {"max_depth": 3})
    assert total["score"] > 0.6
    assert parts[0].keys() == {"score", "spearman_pooled", "spearman_val", "spearman_train"}
    metric = {"name": "penalised_cv", "metric": "spearman"}
    penalised = make_objective(make_spec(**{**changes, "objective": metric}), table)
    assert penalised.score_part({"max_depth": 3}, 0)["spearman_val"] == parts[0]["spearman_val"]


def test_grades_are_quantiles_and_ties_are_equal():
    assert grade(np.array([5.0, 1.0, 3.0, 2.0, 4.0]), 5).tolist() == [4, 0, 2, 1, 3]
    assert grade(np.array([1.0, 1.0, 1.0, 2.0]), 2).tolist() == [1, 1, 1, 1]
    assert np.bincount(grade(np.random.default_rng(0).normal(size=1000), 10)).tolist() == [100] * 10


def test_more_rows_than_a_query_takes_are_several():
    need("lightgbm")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(MAX_QUERY_ROWS + 1, 1))
    spec = EstimatorSpec(name="lightgbm_ranker", params={"n_estimators": 2})
    model = make_estimator(spec, {"lambdarank_truncation_level": 5}, 0).fit(X, X[:, 0])
    assert spearmanr(X[:, 0], model.predict(X)).statistic > 0.5


# Whole studies --------------------------------------------------------------------------------


@pytest.fixture
def finish(begin_study, monkeypatch):
    """Begin a study and score its trials in this process, then read it again."""
    few = functools.partial(bootstrap_intervals, n_resamples=50)
    monkeypatch.setattr(hpo.analysis.best_model, "bootstrap_intervals", few)

    def finish_with(*of_trials: Mapping[str, Any], **changes: Any) -> StudyRecord:
        record = begin_study(trials=len(of_trials), **changes)
        _, objective = record.open_objective()
        for params in of_trials:
            claim = record.ledger.claim("w1")
            assert isinstance(claim, Claim)
            record.ledger.save_params(claim, params, distributions(record.spec.space))
            parts = []
            for k in range(len(objective.parts)):
                parts.append({**objective.score_part(params, k), "wall_s": 0.1})
                record.ledger.save(claim, {k: parts[-1]})
            record.ledger.finish(claim, {**objective.combine(parts), "wall_s": 0.3})
        return find(record.storage, record.name)

    return finish_with


@pytest.mark.slow
def test_the_report_of_a_quantile_speaks_of_loss_and_coverage_alone(finish, tmp_path):
    record = finish({"max_depth": 2}, {"max_depth": 4}, **quantile(0.9))
    page = Page(write_report(record, tmp_path))
    assert page.row("Pinball loss (eV)")
    assert page.row("Coverage")
    assert "where 0.9 is asked for" in page.text
    assert "pinball loss at 0.9" in page.text
    assert "Predicted 0.9 quantile against actual" in page.text
    for claim in ("RMSE", "R²", "MAE", "perfect prediction"):
        assert claim not in page.text
    assert "gave the scores that the trial stored" in page.text


@pytest.mark.slow
def test_the_report_of_rank_correlation_leads_with_it(finish, tmp_path):
    record = finish({"alpha": 0.01}, {"alpha": 5.0}, **SPEARMAN)
    page = Page(write_report(record, tmp_path))
    best = record.optuna_study().best_trial
    evaluation = evaluate(take_snapshot(record), *record.open_objective())
    assert evaluation is not None
    assert evaluation.cv.scores["spearman"] == pytest.approx(best.value, rel=1e-12)
    assert page.row("all parts together")[-1] == f"{best.value:.3f}"
    assert f"Spearman ρ {best.value:.3f} (95 % interval" in page.text.replace("\xa0", " ")
    assert page.row("RMSE (eV)")
    assert "gave the scores that the trial stored" in page.text


@pytest.mark.slow
def test_the_report_of_a_ranker_has_nothing_that_needs_a_unit(finish, tmp_path):
    need("lightgbm")
    record = finish({"max_depth": 3}, **RANKER, **SPEARMAN)
    page = Page(write_report(record, tmp_path))
    assert page.row("Spearman ρ")
    assert page.plots["parity"] == 2
    for claim in ("RMSE", "R²", "MAE", "perfect prediction, "):
        assert claim not in page.text
    assert "gave the scores that the trial stored" in page.text
    assert record.optuna_study().best_trial.user_attrs[part_key(0)].keys() == {
        "score", "spearman_pooled", "spearman_val", "spearman_train", "wall_s",
    }  # fmt: skip


@pytest.mark.slow
def test_an_undefined_score_of_a_fold_does_not_break_the_report(finish, tmp_path, monkeypatch):
    def undefined(y, predicted):
        return float("nan")

    metrics = {**METRICS, "r2": undefined}
    monkeypatch.setattr("hpo.objectives.cross_validation.CrossValidation.metrics", metrics)
    page = Page(write_report(finish({"alpha": 1.0}), tmp_path))
    assert page.row("fold 0")[1] == "–"
    assert "gave the scores that the trial stored" in page.text


STUDY = """
trials = 3
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
[cv]
scheme = "kfold"
folds = 3
[estimator]
name = "hist_gradient_boosting"
params = {{ max_iter = 10 }}
[objective]
{objective}
[space]
learning_rate = {{ type = "float", low = 0.05, high = 0.3 }}
"""


@pytest.mark.slow
def test_studies_run_from_a_csv_file_to_their_reports(hpo, tmp_path):
    rng = np.random.default_rng(0)
    with (tmp_path / "mine.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("formula", "target"))
        for i in range(60):
            rows.writerow((f"Li{1 + i % 12}S{1 + i // 12}", i % 12 + rng.normal()))
    objectives = {"low": 'name = "quantile"\nlevel = 0.05', "rank": 'name = "spearman"'}
    for name, objective in objectives.items():
        (tmp_path / f"{name}.toml").write_text(STUDY.format(objective=objective))
        hpo("run", f"{name}.toml", "--workers", "2")
        assert '"finished": 3' in hpo("status", name, "--json").stdout
        assert (tmp_path / "reports" / name / "report.html").is_file()
