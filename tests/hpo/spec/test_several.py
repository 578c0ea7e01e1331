"""Several values of a trial, and constraints, as a study file says them."""

from __future__ import annotations

import itertools
import json
import tomllib

import pytest

from hpo.errors import ObjectiveError, SpecError
from hpo.objectives.values import Values
from hpo.spec.loading import canonical, validate
from hpo.spec.objectives import BoundSpec
from hpo.spec.writing import write_toml
from tests.support.studies import make_spec

NAMES = ("score", "wall_s", "r2_val")


def of_function(**keys):
    without = {"table": None, "cv": None, "estimator": None, "space": None}
    return make_spec(**without, objective={"function": "m:f", **keys})


@pytest.mark.parametrize("others", [*itertools.permutations(("wall_s", "r2_val", "a"))])
def test_the_order_of_values_is_that_of_the_file_wherever_it_is_kept(others):
    table = {"score": "minimize", **dict.fromkeys(others, "maximize")}
    for spec in (make_spec(objective={"directions": table}), of_function(directions=table)):
        stored = validate(json.loads(canonical(spec)), "stored")
        written = validate(tomllib.loads(write_toml(spec)), "written")
        for again in (spec, stored, written):
            assert list(again.objective.directions) == ["score", *others]
            assert again == spec
    assert of_function(directions=["minimize", "maximize"]).objective.all_directions == (
        "minimize",
        "maximize",
    )


@pytest.mark.parametrize(
    ("objective", "rule"),
    [
        ({"directions": {"score": "minimize"}}, "must name several values"),
        ({"directions": {"wall_s": "minimize", "score": "minimize"}}, "the first is 'score'"),
        ({"directions": {"score": "minimize", "a": "up"}}, "directions.a: unknown 'up'"),
        ({"directions": ["minimize", "maximize"]}, "directions"),
        ({"constraints": {"a": {}}}, "constraints.a: needs low, high or both"),
        ({"constraints": {"a": {"low": 2.0, "high": 1.0}}}, "low must not be above high, 1, got 2"),
        ({"constraints": {"a": {"most": 1.0}}}, "constraints.a.most: unknown key"),
        ({"constraints": {"a": 1.0}}, "constraints.a"),
        ({"function": "m:f", "constraints": {"a": {"low": 1.0}}}, "constraints: unknown key"),
        ({"function": "m:f", "directions": ["minimize"]}, "direction = 'minimize'"),
    ],
)
def test_what_is_wrong_is_named(objective, rule):
    whole = {"table": None, "cv": None, "estimator": None, "space": None}
    with pytest.raises(SpecError, match=rule):
        make_spec(objective=objective, **(whole if "function" in objective else {}))


@pytest.mark.parametrize("key", ["pruning", "pruner"])
def test_trials_of_several_values_are_not_pruned(key):
    section = {"pruning": True, "pruner": {"name": "MedianPruner"}}[key]
    two = {"directions": {"score": "minimize", "wall_s": "minimize"}}
    with pytest.raises(SpecError, match=rf"\[{key}\] trials of several values"):
        make_spec(objective=two, **{key: section})
    assert make_spec(objective=two).pruned_by is None
    assert make_spec(objective=two, pruning=False).pruned_by is None


def test_a_study_with_one_value_is_what_it_was_before_there_were_several():
    assert "directions" not in canonical(make_spec().objective)
    assert "constraints" not in canonical(make_spec().objective)


@pytest.mark.parametrize(
    ("bound", "value", "violation"),
    [
        ({"high": 1.0}, 3.0, 2.0),
        ({"high": 1.0}, 1.0, 0.0),
        ({"low": 1.0}, 3.0, -2.0),
        ({"low": 1.0, "high": 2.0}, 0.0, 1.0),
        ({"low": 1.0, "high": 2.0}, 1.25, -0.25),
    ],
)
def test_a_constraint_is_kept_at_zero_and_below(bound, value, violation):
    assert BoundSpec(**bound).violation(value) == violation
    values = Values(("score", "b"), {"a": BoundSpec(**bound)})
    judged = values.judge({"score": 1.0, "a": value, "b": 2.0, "c": 0.0})
    assert (judged.values, judged.violations) == ([1.0, 2.0], {"a": violation})


@pytest.mark.parametrize("of", ["directions", "constraints"])
def test_figures_that_are_not_there_or_undefined_are_refused(of):
    named = {
        "directions": Values(("score", "mae_val")),
        "constraints": Values(constraints={"mae_val": BoundSpec(low=0.0)}),
    }[of]
    with pytest.raises(ObjectiveError, match=rf"{of}: 'mae_val' .*did you mean 'rmae_val'"):
        named.judge({"score": 1.0, "rmae_val": 1.0})
    with pytest.raises(ObjectiveError, match=rf"{of}: 'mae_val' must be finite, is nan"):
        named.judge({"score": 1.0, "mae_val": float("nan")})
    with pytest.raises(ObjectiveError, match=rf"{of}: 'mae_val'"):
        named.check(["score"])
