"""The number of trees read off a curve: the same score as a trial with that number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

import features.table
from hpo.analysis.best_model import evaluate
from hpo.errors import SpecError
from hpo.estimators.checks import expected_columns
from hpo.estimators.factory import prepare
from hpo.estimators.staged_trees import CURVE_KEY
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.records import WALL_KEY, WorkerRun, part_key
from hpo.report.study_page import write_report
from hpo.spec.space import StagedDimension, distributions
from hpo.study.export import trials_frame
from hpo.study.snapshot import take_snapshot
from hpo.worker.worker import Worker
from tests.support.studies import make_spec
from tests.support.trials import need

RATE = {"type": "float", "low": 0.02, "high": 0.3, "log": True}
ESTIMATORS = {
    "hist_gradient_boosting": ("max_iter", {"min_samples_leaf": 4, "max_leaf_nodes": 6}),
    "lightgbm": ("n_estimators", {"min_child_samples": 4, "subsample": 0.7, "subsample_freq": 1}),
    "sklearn.ensemble:GradientBoostingRegressor": ("n_estimators", {"subsample": 0.8}),
    "stopping": ("max_iter", {"early_stopping": True, "n_iter_no_change": 2, "tol": 0.1}),
}


def make_staged(estimator="hist_gradient_boosting", high=30, step=5, **changes):
    """Return a study over the hand-made table whose number of trees is read off."""
    trees, params = ESTIMATORS[estimator]
    name = "hist_gradient_boosting" if estimator == "stopping" else estimator
    return {
        "estimator": {"name": name, "params": params},
        "space": {"learning_rate": RATE, trees: {"type": "staged", "high": high, "step": step}},
        "trials": 8,
        **changes,
    }


RMSE = {"metric": "rmse", "penalty": 0.2}
RHO = {"metric": "spearman"}
QUANTILE = {"name": "quantile", "level": 0.8}


@pytest.mark.parametrize(
    ("estimator", "objective", "better"),
    [
        *((estimator, RMSE, min) for estimator in ESTIMATORS),
        ("hist_gradient_boosting", RHO, max),
        ("hist_gradient_boosting", QUANTILE, min),
        ("lightgbm", QUANTILE, min),
    ],
)
def test_the_chosen_number_scores_what_a_trial_with_it_scores(
    hand_table, estimator, objective, better
):
    need(estimator)
    spec = make_spec(**make_staged(estimator, objective=objective))
    scored = make_objective(spec, features.table.read(hand_table))
    assert isinstance(scored, CrossValidation)
    trees = ESTIMATORS[estimator][0]
    params = {"learning_rate": 0.25}
    settled = scored.settle([scored.score_part(params, k) for k in range(3)], pruned=False)
    assert settled is not None
    plain = {}
    for number in range(5, 31, 5):
        parts = [scored.score_part({**params, trees: number}, k) for k in range(3)]
        plain[number] = (scored.combine(parts), parts)
    best = better(plain, key=lambda number: plain[number][0]["score"])
    assert settled.params == {trees: best}
    # Bit for bit: totals, and what every part keeps.
    assert scored.combine(settled.parts) == plain[best][0]
    assert settled.parts == plain[best][1]


@pytest.fixture
def worked(begin_study):
    def work(**changes):
        record = begin_study(**make_staged(**changes))
        _, objective = record.open_objective()
        Worker(record, objective, "w").run(WorkerRun("host", 1))
        return record

    return work


@pytest.mark.slow
def test_a_study_keeps_the_number_as_a_parameter_and_refits_with_it(worked, tmp_path):
    record = worked(trials=16, pruning={"startup_trials": 3, "percentile": 50})
    counts = record.ledger.counts()
    assert (counts.finished, counts.pruned > 0) == (16, True)
    study = record.optuna_study()
    for trial in study.get_trials(deepcopy=False):
        parts = [trial.user_attrs[part_key(step)] for step in sorted(trial.intermediate_values)]
        assert not any(CURVE_KEY in part for part in parts)
        complete = trial.state is TrialState.COMPLETE
        assert ("max_iter" in trial.params) == complete
        if complete:
            assert trial.params["max_iter"] in range(5, 31, 5)
            assert list(trial.intermediate_values.values()) == [part["score"] for part in parts]
            assert np.isclose(np.mean([part["score"] for part in parts]), trial.value, rtol=1e-12)
    table, objective = record.open_objective()
    evaluation = evaluate(take_snapshot(record), table, objective)
    assert evaluation is not None
    assert evaluation.params == study.best_trial.params
    assert evaluation.fold_models[0].n_iter_ == study.best_trial.params["max_iter"]
    page = write_report(record, tmp_path / "reports").read_text()
    assert "every fold gave the scores that the trial stored" in page
    assert "5 to 30, step 5, read off the curve" in page
    frame = trials_frame(record)
    assert not any("curve" in name for name in frame.columns)
    assert pd.notna(frame["param.max_iter"]).sum() == 16 - counts.pruned


@pytest.mark.slow
def test_a_trial_goes_on_at_its_next_part_with_the_stored_curves(worked, begin_study):
    whole = worked(name="whole", trials=1).optuna_study().best_trial
    record = begin_study(**make_staged(name="broken", trials=1))
    _, objective = record.open_objective()
    claim = record.ledger.claim("first")
    params = {"learning_rate": whole.params["learning_rate"]}
    record.ledger.save_params(claim, params, {"learning_rate": distribution()})
    for part in range(2):
        scores = {**objective.score_part(params, part), WALL_KEY: 0.1}
        record.ledger.save(claim, {part: scores})
    record.ledger.reap("first", "killed by SIGKILL")
    asked, plain = [], objective.score_part

    def score_part(params, part):
        asked.append(part)
        return plain(params, part)

    objective.score_part = score_part
    Worker(record, objective, "second").run(WorkerRun("host", 1))
    trial = record.optuna_study().best_trial
    assert asked == [2]
    assert (trial.value, trial.params) == (whole.value, whole.params)
    assert trial.intermediate_values == whole.intermediate_values


def distribution():
    return FloatDistribution(0.02, 0.3, log=True)


def test_the_number_is_not_drawn():
    spec = make_spec(**make_staged())
    assert list(distributions(spec.space)) == ["learning_rate"]
    dimension = spec.space["max_iter"]
    assert isinstance(dimension, StagedDimension)
    assert dimension.numbers == (5, 10, 15, 20, 25, 30)
    assert StagedDimension(type="staged", high=40).numbers == (10, 20, 30, 40)
    assert StagedDimension(type="staged", low=2, high=4, step=1).numbers == (2, 3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": {"name": "ridge"}}, "max_iter: a staged dimension is a number of boosted"),
        ({"space": {"max_depth": {"type": "staged", "high": 20}}, "trials": 1}, "'max_iter' alone"),
        ({"objective": {"name": "spearman"}}, "objective spearman ranks the rows of all folds"),
        (
            {
                "estimator": {
                    "name": "ensemble",
                    "members": {
                        "a": {"name": "hist_gradient_boosting"},
                        "b": {"name": "extra_trees"},
                    },
                },
                "space": {"a.max_iter": {"type": "staged", "high": 20}},
                "trials": 1,
            },
            "of no model within another",
        ),
    ],
)
def test_what_has_no_curve_is_refused(changes, message):
    spec = make_spec(**{**make_staged(), **changes})
    with pytest.raises(SpecError, match=message):
        prepare(spec, expected_columns(spec))


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"high": 400, "step": 1}, "400 numbers of trees are more than 100: raise step"),
        ({"high": 25}, "high - low must be a multiple of step"),
        ({"low": 0, "high": 20}, "low must be 1 at least"),
        ({"high": 20, "log": True}, "log"),
    ],
)
def test_numbers_that_make_no_curve_are_refused(dimension, message):
    space = {"learning_rate": RATE, "max_iter": {"type": "staged", **dimension}}
    with pytest.raises(SpecError, match=message):
        make_spec(**make_staged(space=space))


def test_a_space_of_nothing_to_draw_is_one_trial():
    only = {"max_iter": {"type": "staged", "high": 20}}
    with pytest.raises(SpecError, match="every trial of an empty"):
        make_spec(**make_staged(space=only, trials=2))
    assert make_spec(**make_staged(space=only, trials=1)).trials == 1
