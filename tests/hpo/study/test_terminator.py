"""Studies that Optuna's terminator ends: refused, asked, and what is said of it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.terminator import BaseImprovementEvaluator
from optuna.trial import create_trial

from hpo.errors import SpecError
from hpo.records import part_key
from hpo.spec.search import TerminatorSpec
from hpo.study.search import check_search, make_terminator, should_terminate
from tests.support.studies import make_spec, write_study

STAGNATION = {"name": "BestValueStagnationEvaluator", "params": {"max_stagnation_trials": 5}}
NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the package torch"
)
CUSTOM = {
    **dict.fromkeys(("table", "cv", "estimator")),
    "objective": {"name": "tests.support.objectives:Parabola"},
    "trials": 40,
}


class Known(BaseImprovementEvaluator):
    """An evaluator of the user's own."""

    def __init__(self, left: float) -> None:
        self.left = left

    def evaluate(self, trials, study_direction):
        return self.left


def params(**given):
    return {"params": given}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (params(improvement_evaluator={"name": "Bad"}), "improvement_evaluator] name: unknown"),
        ({"name": "NopPruner"}, "unknown 'NopPruner'; valid: Terminator, module:Class"),
        (params(min_n_trials=0, improvement_evaluator=STAGNATION), "positive integer"),
        (params(improvement_evaluator=STAGNATION, min_trials=3), "no such parameter"),
        (params(improvement_evaluator=STAGNATION, min_n_trials=41), "nothing before 41 trials"),
        (
            params(improvement_evaluator=STAGNATION, error_evaluator={"name": "Terminator"}),
            "error_evaluator] name: unknown 'Terminator'",
        ),
    ],
)
def test_what_is_no_terminator_is_refused(section, said):
    spec = make_spec(**CUSTOM, terminator=section)
    with pytest.raises(SpecError, match=r"^\[terminator") as caught:
        check_search(spec, spec.trials)
    assert said in str(caught.value)


def test_one_objective_alone_has_a_terminator():
    section = params(improvement_evaluator=STAGNATION)
    spec = make_spec(**CUSTOM, terminator=section)
    check_search(spec, spec.trials)
    two = {"directions": {"score": "minimize", "wall_s": "minimize"}}
    several = {**CUSTOM, "objective": {"name": "tests.support.objectives:Parabola", **two}}
    with pytest.raises(SpecError, match="is for one objective, and the study has 2"):
        check_search(make_spec(**several, terminator=section), spec.trials)


def test_a_program_has_no_scores_of_a_cross_validation():
    own = {"name": f"{__name__}:Known", "params": {"left": 1.0}}
    program = {"command": ["echo", "{alpha}"], "score": {"regex": "(.+)"}}
    parts = {**CUSTOM, "objective": program}
    cv = {"name": "CrossValidationErrorEvaluator"}
    section = params(improvement_evaluator=own, error_evaluator=cv)
    with pytest.raises(SpecError, match="Cross-validation scores have not been reported"):
        check_search(make_spec(**parts, terminator=section), 40)
    section = params(
        improvement_evaluator=own,
        error_evaluator={"name": "StaticErrorEvaluator", "params": {"constant": 2.0}},
    )
    check_search(make_spec(**parts, terminator=section), 40)


@pytest.mark.parametrize("left", [0.5, 2.0])
def test_the_error_of_a_table_is_that_of_its_folds(left):
    section = TerminatorSpec(
        params={
            "improvement_evaluator": {"name": f"{__name__}:Known", "params": {"left": left}},
            "error_evaluator": {"name": "CrossValidationErrorEvaluator"},
            "min_n_trials": 1,
        }
    )
    scores = [1.0, 3.0, 2.0]
    parts = {part_key(at): {"score": score} for at, score in enumerate(scores)}
    trials = [create_trial(value=2.0, user_attrs=parts)]
    error = math.sqrt((1 / 3 + 1 / 2) * 2 / 3)
    made = make_terminator(section, 0)
    asked = should_terminate(made, "x", trials, StudyDirection.MINIMIZE)
    assert asked == (left < error)
    assert trials[0].system_attrs == {}


@NEEDS_TORCH
@pytest.mark.slow
def test_evaluators_that_need_torch_are_asked_where_it_is():
    for improvement, error in ((None, None), ("EMMREvaluator", "MedianErrorEvaluator")):
        given: dict[str, Any] = {"min_n_trials": 20}
        if improvement is not None:
            paired = {"paired_improvement_evaluator": {"name": improvement}}
            given |= {"improvement_evaluator": {"name": improvement}}
            given |= {"error_evaluator": {"name": error, "params": paired}}
        check_search(make_spec(**CUSTOM, terminator=params(**given)), 40)


@pytest.mark.slow
def test_without_torch_the_package_and_the_extra_are_named(hpo):
    file = write_study()
    Path("blocked").mkdir()
    Path("blocked/torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "blocked", prepend=":")
        stagnation = "terminator.params.improvement_evaluator.name=BestValueStagnationEvaluator"
        few = ("--set", "terminator.params.min_n_trials=3")
        assert "ok" in hpo("check", file, "--set", stagnation, *few).stdout
        said = hpo("check", file, *few, code=2).stderr
    assert "Terminator needs the package 'torch', which is missing: pip install torch" in said
    assert "extra 'gp'" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "function"])
def test_a_study_ends_where_its_terminator_says_so(kind, hpo):
    section = (
        "\n[terminator]\nparams = { min_n_trials = 6, improvement_evaluator = "
        '{ name = "BestValueStagnationEvaluator", params = { max_stagnation_trials = 5 } } }\n'
    )
    if kind == "table":
        write_study(trials=400, delay_s=0.05)
        Path("x.toml").write_text(Path("x.toml").read_text() + section)
    else:
        function = "tests.support.functions.plain:witnessed"
        Path("x.toml").write_text(f'trials = 400\n[objective]\nfunction = "{function}"\n{section}')
    done = hpo("run", "x.toml", "--workers", "2")
    assert "ended: [terminator] Terminator expects no better trial (after trial" in done.stderr
    assert "of 400 trials finished" in done.stderr
    shown = hpo("status", "x").stdout
    assert "stopped: [terminator] Terminator expects no better trial" in shown
    assert "[terminator] Terminator expects" in Path("reports/x/report.html").read_text()
    trials = optuna.load_study(study_name="x", storage="sqlite:///hpo.db").trials
    assert 6 <= len(trials) < 400
