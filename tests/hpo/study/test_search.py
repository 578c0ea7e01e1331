"""Samplers and pruners that a study cannot run with are refused, and say why."""

from __future__ import annotations

import importlib
import sys

import pytest

from hpo.errors import SpecError
from hpo.study.search import check_budget, check_search
from tests.support.samplers import GRID, SPACE, need_package
from tests.support.studies import make_spec

OWN = {"objective": {"name": "tests.support.objectives:Parabola"}} | dict.fromkeys(
    ("table", "cv", "estimator")
)
TWO = {name: SPACE[name] for name in ("x", "kind")}


@pytest.mark.parametrize(
    ("spec", "space", "message"),
    [
        ({"name": "TPESampler2"}, SPACE, r"\[sampler\] name: unknown 'TPESampler2'; did you mean"),
        (
            {"name": "TPESampler", "params": {"multivariat": True}},
            SPACE,
            r"params.multivariat: TPESampler has no such parameter; did you mean 'multivariate'",
        ),
        (
            {"name": "RandomSampler", "params": {"seed": 3}},
            SPACE,
            r"params.seed: seed is the study's",
        ),
        (
            {"name": "NSGAIISampler", "params": {"population_size": 1}},
            SPACE,
            r"\[sampler\]: NSGAIISampler: .*population_size.* greater than or equal to 2",
        ),
        (
            {"name": "TPESampler", "params": {"n_startup_trials": "ten"}},
            SPACE,
            r"\[sampler\]: TPESampler: '<' not supported",
        ),
        ({"name": "GridSampler"}, SPACE, r"\[space.x\]: a grid needs a step, and -2 to 2 has none"),
        ({"name": "GridSampler"}, GRID, r"the grid has 90 points, and trials is 91"),
        ({"name": "BruteForceSampler"}, GRID, r"the grid has 90 points, and trials is 91"),
        (
            {"name": "GridSampler", "params": {"search_space": {"x": [0.0], "q": [1]}}},
            SPACE,
            r"search_space\] q: no such dimension of \[space\]",
        ),
        (
            {"name": "GridSampler", "params": {"search_space": {"x": [3.0]}}},
            TWO,
            r"search_space\] x: 3.0 is not in \[space.x\]",
        ),
        (
            {"name": "GridSampler", "params": {"search_space": {"x": [0.0]}}},
            TWO,
            r"search_space: lacks kind of \[space\]",
        ),
        (
            {"name": "GridSampler"},
            {"n": {"type": "int", "low": 1, "high": 10**9}},
            r"\[space.n\]: a grid of 1000000000 points is larger than 1000000",
        ),
        ({"name": "CmaEsSampler"}, TWO, r"needs two dimensions of numbers .* has one, x; use tpe"),
        (
            {"name": "CmaEsSampler"},
            {"kind": SPACE["kind"]},
            r"needs two dimensions of numbers .* has choices alone",
        ),
        (
            {
                "name": "PartialFixedSampler",
                "params": {"fixed_params": {"n": 3}, "base_sampler": {"name": "CmaEsSample"}},
            },
            SPACE,
            r"\[sampler.params.base_sampler\] name: unknown 'CmaEsSample'; did you mean 'CmaEs",
        ),
        (
            {
                "name": "PartialFixedSampler",
                "params": {"fixed_params": {"n": 30}, "base_sampler": {"name": "TPESampler"}},
            },
            SPACE,
            r"fixed_params\] n: 30 is not in \[space.n\]",
        ),
        ({"name": "PartialFixedSampler"}, SPACE, r"needs params.fixed_params and base_sampler"),
        (
            {"name": "tests.support.samplers:Broken"},
            SPACE,
            r"\[sampler\]: tests.support.samplers:Broken: no more",
        ),
        (
            {"name": "tests.support.objectives:Parabola"},
            SPACE,
            r"'tests.support.objectives:Parabola' is no subclass of optuna's BaseSampler",
        ),
        ({"name": "random", "params": {"x": 1}}, SPACE, r"params are for a class of Optuna's"),
        (
            {"name": "TPESampler", "startup_trials": 5},
            SPACE,
            r"startup_trials belongs to name = 'tpe', got 'TPESampler'",
        ),
        (
            {"name": "CmaEsSampler", "max_history": 300},
            SPACE,
            r"max_history belongs to TPE alone, got 'CmaEsSampler'",
        ),
    ],
)
def test_what_cannot_be_is_refused(spec, space, message):
    with pytest.raises(SpecError, match=message):
        check_search(make_spec(sampler=spec, space=space), 91)


def test_a_budget_beyond_the_grid_is_refused_later_too(begin_study):
    changes = {"space": GRID, "sampler": {"name": "GridSampler"}, "trials": 90}
    spec = begin_study(**OWN, **changes).spec
    with pytest.raises(SpecError, match="the grid has 90 points, and trials is 91"):
        check_budget(spec, 91)
    check_budget(spec, 90)
    with pytest.raises(SpecError, match="the grid has 90 points, and trials is 91"):
        begin_study(**OWN, **(changes | {"trials": 91}))


def test_another_sampler_or_pruner_needs_no_acceptance(begin_study):
    begin_study(**OWN, space=SPACE)
    own = {"name": "tests.support.samplers:Nearby", "params": {"width": 0.5}}
    for change in ({"sampler": own}, {"sampler": {"name": "NSGAIISampler"}}):
        begin_study(**OWN, space=SPACE, **change)
    record = begin_study(**OWN, space=SPACE, pruner={"name": "MedianPruner"})
    assert record.spec.sampler.name == "tpe"
    nested = {"fixed_params": {"n": 3}, "base_sampler": own}
    spec = make_spec(sampler={"name": "PartialFixedSampler", "params": nested}, space=SPACE)
    where = "[sampler.params.base_sampler] name"
    assert spec.named_modules[where] == "tests.support.samplers:Nearby"


def test_a_sampler_of_one_objective_is_refused_with_two():
    need_package("cmaes")
    two = {"directions": {"score": "minimize", "wall_s": "minimize"}}
    check_search(make_spec(space=SPACE, objective=two, sampler={"name": "NSGAIISampler"}), 6)
    spec = make_spec(space=SPACE, objective=two, sampler={"name": "CmaEsSampler"})
    with pytest.raises(SpecError, match=r"CmaEsSampler: .*multi-objective"):
        check_search(spec, 6)


@pytest.mark.parametrize("name", ["BruteForceSampler", "QMCSampler", "NSGAIIISampler"])
def test_a_function_whose_space_is_not_known_may_have_any_sampler(name):
    without = {"table": None, "cv": None, "estimator": None, "space": None}
    function = {"objective": {"function": "tests.support.functions.plain:quadratic"}}
    check_search(make_spec(**without, **function, sampler={"name": name}), 6)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    spec = make_spec(space=SPACE, sampler={"name": "CmaEsSampler"})
    monkeypatch.setattr(importlib.import_module("optuna.samplers._cmaes"), "cmaes", _Missing())
    hint = r"needs the package 'cmaes', .* pip install cmaes"
    with pytest.raises(SpecError, match=hint):
        check_search(spec, 6)


class _Missing:
    def __getattr__(self, name):
        return getattr(importlib.import_module("cmaes"), name)
