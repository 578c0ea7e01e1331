"""scikit-learn's scorers over numbers and classes: each gives its value, or is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer

import features.table
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator
from hpo.estimators.registry import REGISTRY
from hpo.objectives.class_metrics import CLASS_METRICS, LABEL_METRICS
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.objectives.scoring import find_scoring
from hpo.spec.loading import canonical
from hpo.spec.objectives import PenalisedCvSpec
from tests.support.studies import make_spec
from tests.support.tables.class_tables import OWN, class_table
from tests.support.trials import need

FOLDS = {"scheme": "kfold", "folds": 3}
TREE = {"name": "sklearn.tree:DecisionTreeRegressor", "params": {"max_depth": 3}}
LOGISTIC = {"name": "LogisticRegression"}
SPACE = {"C": {"type": "float", "low": 0.01, "high": 10.0, "log": True}}
# Of one class of two; others of their kind tell of several.
OF_TWO = {
    "f1",
    "jaccard",
    "neg_negative_likelihood_ratio",
    "positive_likelihood_ratio",
    "precision",
    "recall",
    "roc_auc",
}


@pytest.fixture(scope="module")
def numbers(hand_table):
    """The hand-made table, with a target above 0, as some scorers ask for."""
    table = features.table.read(hand_table)
    object.__setattr__(table, "y", np.exp(table.y / 4.0))
    return table


def folds_of(spec, table) -> CrossValidation:
    made = make_objective(spec, table)
    assert isinstance(made, CrossValidation)
    return made


def study(n_classes=0, **changes):
    fields = {
        "cv": FOLDS,
        "space": SPACE if n_classes else {"max_depth": {"type": "int", "low": 1, "high": 5}},
        "estimator": LOGISTIC if n_classes else {"name": TREE["name"]},
    }
    if n_classes:
        fields["table"] = {**OWN, "params": {"n_classes": n_classes}}
    return make_spec(**{**fields, **changes})


def scored(name, n_classes, numbers, params, penalty=0.0, **changes):
    """The objective, its first part, and its model as it would be fitted by hand."""
    table = class_table(n_classes=n_classes) if n_classes else numbers
    objective = {"scoring": name, "penalty": penalty}
    made = folds_of(study(n_classes, objective=objective, **changes), table)
    return made, made.score_part(params, 0), made.fit(params, made.folds[0].train)


def why_refused(name, n_classes):
    """What is to be said of a scorer of another kind of target, or that these classes are not for.

    None of one that works.
    """
    if _is_for_numbers(name) == bool(n_classes):
        kinds = ("numbers", "classes") if n_classes else ("classes", "numbers")
        return f"scores {kinds[0]}, and the target has {kinds[1]}; for these there are"
    if name.endswith("_samples") or (n_classes == 3 and name in OF_TWO):
        return f"scoring {name}: (cannot score|is undefined)"
    return None


def _is_for_numbers(name):
    return name in ("r2", "explained_variance", "d2_absolute_error_score") or (
        name.startswith("neg_") and name.endswith(("_error", "_deviance"))
    )


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("name", get_scorer_names())
def test_every_scorer_gives_its_value_or_is_refused_with_a_reason(name, n_classes, numbers):
    params = {"C": 0.5} if n_classes else {"max_depth": 3}
    reason = why_refused(name, n_classes)
    if reason is not None:
        with pytest.raises((SpecError, ObjectiveError), match=reason):
            scored(name, n_classes, numbers, params)
        return
    made, part, model = scored(name, n_classes, numbers, params)
    fold = made.folds[0]
    for side, rows in (("val", fold.validation), ("train", fold.train)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = get_scorer(name)(model, made.X[rows], made.y_fitted[rows])
        assert part[f"scoring_{side}"] == pytest.approx(expected, rel=1e-12)
    assert part["score"] == part["scoring_val"]
    assert (made.direction, made.score_name) == ("maximize", name)
    assert {*part} >= {*made.score_names}


def test_a_scorer_is_penalised_for_its_gap_like_a_metric(numbers):
    _, part, _ = scored("neg_mean_absolute_error", 0, numbers, {"max_depth": 9}, penalty=0.5)
    gap = part["scoring_train"] - part["scoring_val"]
    assert gap > 0
    assert part["score"] == pytest.approx(part["scoring_val"] - 0.5 * gap)
    assert part["scoring_val"] == pytest.approx(-part["mae_val"])


# What a user may name in the file beside the study.
def ask_the_model(estimator, X, y):
    """A scorer that asks a fitted model for what no prediction says."""
    return float(estimator.get_depth()) - 0.001 * len(X)


def _within_a_tenth(y, predicted):
    return float(np.mean(np.abs(y - predicted) < 0.1))


within_a_tenth = make_scorer(_within_a_tenth)
no_scorer = 3


def test_scorers_of_ones_own(numbers):
    _, part, model = scored(f"{__name__}:ask_the_model", 0, numbers, {"max_depth": 2})
    assert part["scoring_train"] == model.get_depth() - 0.001 * 53
    made, part, model = scored(f"{__name__}:within_a_tenth", 0, numbers, {"max_depth": 2})
    rows = made.folds[0].validation
    assert part["score"] == _within_a_tenth(made.y[rows], model.predict(made.X[rows]))
    assert "[objective] scoring" in study(objective={"scoring": "mine.py:f"}).named_modules


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ({"scoring": "neg_mean_absolut_error"}, "did you mean 'neg_mean_absolute_error'"),
        ({"scoring": f"{__name__}:no_scorer"}, "must be called as"),
        ({"scoring": f"{__name__}:absent"}, "has no 'absent'"),
        ({"scoring": "roc_auc"}, "scores classes, and the target has numbers"),
        ({"scoring": "a b:c d"}, "is no module:function"),
        ({"scoring": "r2", "metric": "r2"}, "metric and scoring say the same thing"),
    ],
)
def test_what_is_no_scorer_is_refused(objective, reason, numbers):
    with pytest.raises(SpecError, match=reason):
        make_objective(study(objective=objective), numbers)


def test_a_file_without_scoring_means_what_it_always_meant():
    before = '{"metric":"rmse","name":"penalised_cv","penalty":0.2}'
    assert canonical(study().objective) == before
    named = study(objective={"scoring": "max_error"})
    again = type(named).model_validate_json(named.model_dump_json())
    assert canonical(again.objective) == canonical(named.objective)
    assert '"scoring":"max_error"' in canonical(named.objective)
    assert "metric" not in canonical(named.objective)


# Classes ------------------------------------------------------------------------------------------


SHORT = [name for name, entry in REGISTRY.items() if entry.classifier] + ["LogisticRegression"]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", SHORT)
def test_short_names_stand_for_classifiers_which_take_missing_values(name, n_classes):
    need(name)
    small = {"n_estimators": 5} if name in ("random_forest", "extra_trees", "lightgbm") else {}
    spec = study(n_classes, estimator={"name": name, "params": small}, space={}, trials=1)
    spec = spec.model_copy(update={"objective": PenalisedCvSpec(scoring="accuracy")})
    table = class_table(n_classes=n_classes, gaps=True)
    check_estimator(spec, table.columns, classifies=True)
    made = folds_of(spec, table)
    part = made.score_part({}, 1)
    fold = made.folds[1]
    predicted = made.predict(made.fit({}, fold.train), made.X[fold.validation])
    assert predicted.shape == (len(fold.validation), n_classes)
    assert predicted.sum(axis=1) == pytest.approx(1.0)
    assert part["accuracy_val"] > 0.4
    for metric, function in CLASS_METRICS.items():
        assert part[f"{metric}_val"] == function(made.y[fold.validation], predicted)


def test_a_classifier_without_probabilities_has_metrics_of_labels_and_refuses_others():
    svc = {"estimator": {"name": "sklearn.svm:LinearSVC"}}
    made, part, model = scored("roc_auc", 2, None, {"C": 1.0}, **svc)
    assert made.metrics is LABEL_METRICS
    rows = made.folds[0].validation
    expected = get_scorer("roc_auc")(model, made.X[rows], made.y[rows])
    assert part["score"] == pytest.approx(expected)  # by its decision function
    with pytest.raises(ObjectiveError, match="neg_log_loss: scores probabilities, and LinearSVC"):
        scored("neg_log_loss", 2, None, {"C": 1.0}, **svc)


def test_folds_that_lack_a_class_are_refused():
    spec = study(3, cv={"scheme": "interleaved", "folds": 3}, objective={"scoring": "accuracy"})
    with pytest.raises(ObjectiveError, match="fold 1 trains on no row of class 'glass'"):
        make_objective(spec, class_table(n_classes=3, rare=True))


def test_scorers_that_need_every_class_say_which_fold_lacks_one():
    table = class_table(n_classes=2, n_rows=60)
    y = np.zeros(60)
    y[[0, 3, 6, 9, 12, 1, 4]] = 1.0  # none of them in the last third
    object.__setattr__(table, "y", y)
    shared = {"cv": {"scheme": "interleaved", "folds": 3}}
    with pytest.raises(ObjectiveError, match="fold 2 validates, which are of 1 of the 2 classes"):
        make_objective(study(2, objective={"scoring": "roc_auc"}, **shared), table)
    made = folds_of(study(2, objective={"scoring": "accuracy"}, **shared), table)
    part = made.score_part({"C": 1.0}, 2)
    assert np.isnan(part["roc_auc_val"])
    assert 0 <= part["score"] <= 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": {"name": "spearman"}}, "is for numbers, and the target has classes"),
        ({"objective": {"name": "quantile", "level": 0.5}}, "is for numbers"),
        ({"objective": {"metric": "rmse"}}, 'write scoring, such as "neg_log_loss"'),
        ({"objective": {"scoring": "r2"}}, "scores numbers, and the target has classes"),
        ({"estimator": {"name": "ridge"}}, "predicts numbers, and the target has classes"),
        (
            {"estimator": {"name": "sklearn.svm:SVR"}},
            "predicts numbers, and the target has classes",
        ),
    ],
)
def test_what_is_for_numbers_is_refused_of_classes(changes, reason):
    fields = {"objective": {"scoring": "accuracy"}, "space": {}, "trials": 1, **changes}
    spec, table = study(2, **fields), class_table()
    with pytest.raises(SpecError, match=reason):
        _check(spec, table)


def _check(spec, table):
    check_estimator(spec, table.columns, classifies=True)
    make_objective(spec, table)


def test_a_classifier_of_numbers_is_refused(numbers):
    with pytest.raises(SpecError, match=r'they are classes, \[table\] task = "classification"'):
        check_estimator(study(estimator=LOGISTIC, space=SPACE), numbers.columns)


def test_classes_are_scored_by_their_log_loss_unless_the_file_says_otherwise():
    table = {"dataset": "band_gap", "target": "is_metal", "families": ["ratios"]}
    assert study(table=table).objective.scoring == "neg_log_loss"
    assert study(table=table, objective={"penalty": 0.0}).objective.scoring == "neg_log_loss"
    assert study(table=table, objective={"scoring": "f1"}).objective.scoring == "f1"
    assert study(table={**table, "target": "gap"}).objective.scoring is None


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "lightgbm"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_staged_trees_of_classes_are_those_of_a_fit_with_so_many(name, n_classes):
    number = "max_iter" if name == "hist_gradient_boosting" else "n_estimators"
    staged = {number: {"type": "staged", "low": 5, "high": 15, "step": 5}}
    shared = {"estimator": {"name": name}, "trials": 1, "objective": {"scoring": "neg_log_loss"}}
    table = class_table(n_classes=n_classes)
    made = folds_of(study(n_classes, space=staged, **shared), table)
    parts = [made.score_part({}, k) for k in range(3)]
    resolved = made.settle(parts, pruned=False)
    assert resolved is not None
    best = resolved.params[number]
    plain = folds_of(study(n_classes, space={}, **shared), table)
    for k in range(3):
        again = plain.score_part({number: best}, k)
        assert resolved.parts[k] == pytest.approx(again, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sklearn.metrics:mean_absolute_error", "takes y_true and predictions"),
        ("RMSE", r'in \[objective\], metric = "rmse" stands for it'),
    ],
)
def test_metrics_that_are_no_scorers_are_told_apart(name, reason):
    with pytest.raises(SpecError, match=reason):
        find_scoring(name, 0)


def test_scorers_of_two_classes_name_those_of_several():
    with pytest.raises(ObjectiveError, match="of 3 classes: f1_macro, f1_micro, f1_weighted"):
        folds_of(study(3, objective={"scoring": "f1"}), class_table(n_classes=3))
