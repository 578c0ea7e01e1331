"""Several targets at once: what they score together, and each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from features.records import TableRows
from features.table import Column, FeatureTable, Target
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.objectives.metrics import METRICS, target_metrics
from hpo.spec.loading import validate
from hpo.spec.sections import StudySpec

N_ROWS = 36
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N_ROWS, 4))
Y = np.column_stack([X[:, 0], 300.0 * X[:, 1] + 90.0 * X[:, 2] ** 2, X[:, 3] ** 3])
Y += RNG.normal(scale=0.1, size=Y.shape) * Y.std(axis=0)

# One that takes several targets, and one that takes one alone.
ESTIMATORS: list[dict[str, Any]] = [
    {"name": "ridge"},
    {"name": "hist_gradient_boosting", "params": {"max_iter": 5}},
]


def spec_of(**sections: Any) -> StudySpec:
    raw = {
        "name": "several",
        "trials": 1,
        "table": {"dataset": "csv", "path": "my.csv", "columns": ["x"]},
        "cv": {"scheme": "group_kfold", "folds": 3},
        "estimator": ESTIMATORS[0],
        "objective": {"metric": "r2"},
    }
    return validate({**raw, **sections}, "several")


def table_of(y: np.ndarray, weights: np.ndarray | None = None) -> FeatureTable:
    targets = tuple(Target(f"t{k}") for k in range(y.shape[1] if y.ndim == 2 else 1))
    names = tuple(f"row {k}" for k in range(len(y)))
    rows = TableRows(
        dataset="own",
        ids=names,
        formulas=("",) * len(y),
        groups=tuple(f"group {k // 3}" for k in range(len(y))),
        y=y,
        is_train=np.ones(len(y), dtype=bool),
        columns=tuple(Column(f"x{k}", "own") for k in range(X.shape[1])),
        target=targets[0],
        more_targets=targets[1:],
        weights=weights,
    )
    return rows.with_features(X)


def objective_of(
    y: np.ndarray, weights: np.ndarray | None = None, **sections: Any
) -> CrossValidation:
    made = make_objective(spec_of(**sections), table_of(y, weights))
    assert isinstance(made, CrossValidation)
    return made


def scores_of(y: np.ndarray, **sections: Any) -> dict[str, float]:
    objective = objective_of(y, **sections)
    parts = [objective.score_part({}, part) for part in range(len(objective.parts))]
    return dict(objective.combine(parts))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: one["name"])
@pytest.mark.parametrize("objective", [{"metric": "r2"}, {"name": "spearman"}, {"scoring": "r2"}])
def test_equal_copies_of_a_target_score_what_one_does(
    estimator: dict[str, Any], objective: dict[str, Any]
) -> None:
    sections = {"estimator": estimator, "objective": objective}
    alone = scores_of(Y[:, 1], **sections)
    for n_copies in (2, 3):
        copies = scores_of(np.column_stack([Y[:, 1]] * n_copies), **sections)
        assert copies["score"] == pytest.approx(alone["score"])
        for name in METRICS:
            scale = Y[:, 1].std() if name in ("rmse", "mae") else 1.0
            assert copies[f"{name}_val"] * scale == pytest.approx(alone[f"{name}_val"])
            for k in range(n_copies):
                assert copies[f"{name}_t{k}_val"] == pytest.approx(alone[f"{name}_val"])


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: one["name"])
@pytest.mark.parametrize("metric", METRICS)
def test_permuted_and_scaled_targets_score_alike(estimator: dict[str, Any], metric: str) -> None:
    sections = {"estimator": estimator, "objective": {"metric": metric}}
    order, scale = [2, 0, 1], np.array([1e3, 1.0, 1e-3])
    first, second = scores_of(Y, **sections), scores_of(Y[:, order] * scale, **sections)
    assert second["score"] == pytest.approx(first["score"])
    for new, (old, factor) in enumerate(zip(order, scale, strict=True)):
        unit = factor if metric in ("rmse", "mae") else 1.0
        found = second[f"{metric}_t{new}_val"]
        assert found == pytest.approx(unit * first[f"{metric}_t{old}_val"])


def test_means_are_of_targets_in_units_of_their_standard_deviations() -> None:
    predicted = Y + RNG.normal(size=Y.shape)
    metrics = target_metrics(["a", "b", "c"], Y)
    s = Y.std(axis=0)
    for name, theirs in (("rmse", root_mean_squared_error), ("mae", mean_absolute_error)):
        assert metrics[name](Y, predicted) == pytest.approx(theirs(Y / s, predicted / s))
        assert metrics[f"{name}_b"](Y, predicted) == pytest.approx(theirs(Y[:, 1], predicted[:, 1]))
    assert metrics["r2"](Y, predicted) == pytest.approx(r2_score(Y, predicted))


def test_intervals_of_a_target_are_those_it_has_alone() -> None:
    predicted = Y + RNG.normal(size=Y.shape) * Y.std(axis=0)
    names = ["a", "b", "c"]
    found = bootstrap_intervals(Y, predicted, metrics=target_metrics(names, Y), n_resamples=50)
    for k, target in enumerate(names):
        alone = bootstrap_intervals(Y[:, k], predicted[:, k], n_resamples=50)
        assert {name: found[f"{name}_{target}"] for name in METRICS} == alone
    copies = np.column_stack([Y[:, 0]] * 2), np.column_stack([predicted[:, 0]] * 2)
    mean = bootstrap_intervals(*copies, metrics=target_metrics("ab", copies[0]), n_resamples=50)
    assert mean["r2"] == pytest.approx(mean["r2_a"])


@pytest.mark.parametrize(
    "estimator",
    [
        {"name": "hist_gradient_boosting", "params": {"max_iter": 5}},
        {"steps": [{"name": "StandardScaler"}, {"name": "SVR", "step": "svr"}]},
        {
            "name": "ensemble",
            "members": {"a": {"name": "ridge"}, "b": {"name": "ridge", "params": {"alpha": 9.0}}},
            "combiner": {"name": "ridge"},
        },
    ],
    ids=["one", "steps", "ensemble"],
)
def test_an_estimator_of_one_target_is_fitted_to_each_with_its_weights_and_groups(
    estimator: dict[str, Any],
) -> None:
    weights = np.where(np.arange(N_ROWS) % 2, 1.0, 5.0)
    together = objective_of(Y, weights, estimator=estimator)
    assert "MultiOutputRegressor is put around" in together.bound.put_around[0]
    predicted = together.predict(together.fit({}), X)
    for k in range(Y.shape[1]):
        alone = objective_of(Y[:, k], weights, estimator=estimator)
        assert alone.bound.put_around == []
        np.testing.assert_allclose(predicted[:, k], alone.fit({}).predict(X))


def test_nothing_is_put_around_what_takes_several() -> None:
    assert objective_of(Y).bound.put_around == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"objective": {"name": "quantile", "level": 0.1}, "estimator": ESTIMATORS[1]},
            "takes one target, and there are 3",
        ),
        (
            {
                "estimator": ESTIMATORS[1] | {"params": {}},
                "space": {"max_iter": {"type": "staged", "high": 20, "step": 10}},
            },
            "a staged dimension is of one target, and there are 3",
        ),
        ({"objective": {"scoring": "neg_max_error"}}, "(?s)cannot score the rows.*[Mm]ultioutput"),
        ({"objective": {"scoring": "roc_auc"}}, "scores classes, and the target has numbers"),
    ],
)
def test_what_is_of_one_target_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises((SpecError, ObjectiveError), match=message):
        objective_of(Y, **sections)


def test_a_target_without_spread_is_refused_by_its_name() -> None:
    with pytest.raises(ObjectiveError, match=r"target 't1' is 4 in all 36 training rows"):
        objective_of(np.column_stack([Y[:, 0], np.full(N_ROWS, 4.0)]))


def test_check_knows_of_them_before_any_row_is_read() -> None:
    spec = spec_of(
        table={"dataset": "csv", "path": "my.csv", "columns": ["x"], "target": ["a", "b"]},
        estimator=ESTIMATORS[1],
        objective={"name": "quantile", "level": 0.1},
    )
    assert spec.table is not None
    with pytest.raises(SpecError, match="takes one target"):
        check_estimator(spec, spec.table.declared_columns, n_targets=spec.table.n_targets)
