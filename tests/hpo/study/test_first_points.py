"""What a study begins with: defaults of its estimator, points of its file, known studies."""

from __future__ import annotations

import pytest

from hpo.errors import SpecError
from hpo.spec.loading import validate
from hpo.study.points.first import first_points
from tests.support.studies import make_spec


def default_spec(estimator, **space):
    return make_spec(estimator=estimator, space=space, start_with_defaults=True)


def ints(low, high, **more):
    return {"type": "int", "low": low, "high": high, **more}


@pytest.mark.parametrize(
    ("name", "parameter", "default"),
    [
        ("hist_gradient_boosting", "max_leaf_nodes", 31),
        ("random_forest", "n_estimators", 100),
        ("lightgbm", "num_leaves", 31),
        ("lightgbm_ranker", "num_leaves", 31),
        ("lightgbm_ranker", "grades", 10),
        ("k_neighbors", "n_neighbors", 5),
        ("sklearn.ensemble:GradientBoostingRegressor", "max_depth", 3),
    ],
)
def test_the_defaults_are_the_estimators_own(name, parameter, default):
    found = first_points(default_spec({"name": name}, **{parameter: ints(1, 200)}))
    assert found == ([{parameter: default}], [])


def test_defaults_of_parts_are_named_by_part():
    estimator = {
        "name": "ensemble",
        "members": {"a": {"name": "random_forest"}, "b": {"name": "hist_gradient_boosting"}},
    }
    space = {"a.n_estimators": ints(10, 200), "b.max_iter": ints(10, 190, step=45)}
    assert first_points(default_spec(estimator, **space)).points == [
        {"a.n_estimators": 100, "b.max_iter": 100}
    ]


def test_what_is_not_in_the_space_is_drawn_and_said():
    spec = default_spec(
        {"name": "hist_gradient_boosting"},
        max_depth=ints(2, 9),
        max_leaf_nodes=ints(40, 90),
        max_iter={"type": "staged", "high": 200},
        max_bins=ints(10, 255),
        max_features={"type": "categorical", "choices": [0.3, 1.0]},
        l2_regularization={"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    )
    points, notes = first_points(spec)
    assert points == [{"max_bins": 255, "max_features": 1.0}]
    assert notes == [
        "start_with_defaults: max_depth is drawn, as its default None is not in [space]",
        "start_with_defaults: max_leaf_nodes is drawn, as its default 31 is not in [space]",
        "start_with_defaults: l2_regularization is drawn, as its default 0.0 is not in [space]",
    ]
    with pytest.raises(SpecError, match="no default is in"):
        first_points(default_spec({"name": "random_forest"}, max_depth=ints(2, 9)))


def test_defaults_come_before_the_points_of_the_file_and_once():
    spec = make_spec(start_with_defaults=True, enqueue=[{"alpha": 2.0}])
    assert first_points(spec).points == [{"alpha": 1.0}, {"alpha": 2.0}]
    assert first_points(spec, make_spec()).points == [{"alpha": 1.0}, {"alpha": 2.0}]
    assert first_points(spec, spec).points == [{"alpha": 2.0}]


def test_defaults_need_an_estimator():
    raw = {
        "name": "x",
        "trials": 3,
        "start_with_defaults": True,
        "objective": {"function": "tests.support.functions:quadratic"},
    }
    with pytest.raises(SpecError, match=r"start_with_defaults needs an \[estimator\]"):
        validate(raw, "x.toml")
