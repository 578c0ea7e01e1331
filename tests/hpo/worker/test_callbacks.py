"""Callbacks of the user's own after each trial, of tables, functions and programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import SpecError
from hpo.spec.loading import validate

CALLBACKS = """
import optuna, os
from pathlib import Path
from tests.support.objectives import Parabola

def objective(trial):
    alpha = trial.suggest_float("alpha", 0, 10)
    if trial.number == 1:
        raise ValueError("no")
    if trial.number == 2:
        raise optuna.TrialPruned
    return alpha

def note(study, trial):
    seen = [t for t in study.trials if t.state.is_finished()]
    assert trial in seen and study.direction.name == "MINIMIZE"
    best = "-" if all(t.value is None for t in seen) else study.best_trial.number
    with Path("journal.txt").open("a") as stream:
        stream.write(f"{trial.number} {trial.state.name} {len(seen)} {best} {os.getpid()}\\n")

def leaving(study, trial):
    if trial.number == 0:
        raise SystemExit(3)
    if trial.number == 1:
        os.chdir("/")
        raise KeyboardInterrupt
    raise RuntimeError(f"after {trial.number}")

def stop(study, trial):
    if trial.number >= 3:
        study.stop()

def nothing(study):
    pass

number = 3
"""
SPACE = '[space]\nalpha = { type = "float", low = 0.0, high = 10.0 }\n'
KINDS = {
    "table": f'[objective]\nname = "tests.support.objectives:Parabola"\n{SPACE}',
    "function": '[objective]\nfunction = "train.py:objective"\n',
    "program": f"""[objective]
shell = true
command = "if test {{number}} = 1; then exit 3; fi; echo {{alpha}}"
score = {{ regex = '^([0-9.e-]+)$' }}
{SPACE}""",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_see_each_trial_at_its_end_and_cost_it_nothing(kind, hpo):
    Path("train.py").write_text(CALLBACKS)
    named = ["train:leaving", "train.py:note", "train:stop"]
    Path("x.toml").write_text(f"trials = 9\ncallbacks = {named}\n{KINDS[kind]}")
    done = hpo("run", "x.toml", "--workers", "1")
    lines = [line.split() for line in Path("journal.txt").read_text().splitlines()]
    states = {
        "table": ["COMPLETE"] * 4,
        "function": ["COMPLETE", "FAIL", "PRUNED", "COMPLETE"],
        "program": ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"],
    }[kind]
    assert [line[:3] for line in lines] == [
        [str(n), state, str(n + 1)] for n, state in enumerate(states)
    ]
    assert len({line[4] for line in lines}) == 1
    n_done = sum(state != "FAIL" for state in states)
    why = "study.stop() in train:stop after trial 3"
    assert f"ended: {why}; {n_done} of 9 trials finished" in done.stderr
    assert Path("reports/x/report.html").is_file()
    assert f"stopped: {why}" in hpo("status", "x").stdout
    log = "".join(path.read_text() for path in Path("logs/x").rglob("*.log"))
    for said in ("train:leaving: sys.exit(3)", "KeyboardInterrupt", "RuntimeError: after 2"):
        assert said in log
    # A study goes on with other callbacks, or none.
    Path("x.toml").write_text(f"trials = 9\n{KINDS[kind]}")
    assert "finished, 9 of 9" in hpo("run", "x.toml", "--workers", "1").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train.py:nought", "callbacks 2: module 'train.py' has no 'nought'"),
        ("train.py:number", "callbacks 2: train.py:number must be a function callback(study"),
        ("train.py:nothing", "callbacks 2: train.py:nothing must be a function callback(study"),
        ("nowhere:f", "callbacks 2: cannot import 'nowhere'"),
    ],
)
def test_what_is_no_callback_is_refused(name, said, hpo):
    Path("train.py").write_text(CALLBACKS)
    setting = f"callbacks=['train.py:note', '{name}']"
    done = hpo("run", "train.py:objective", "--trials", "3", "--set", setting, code=2)
    assert said in done.stderr
    assert not Path("hpo.db").exists()


def test_a_name_without_a_function_is_refused_by_its_form():
    with pytest.raises(SpecError, match=r"callbacks\.0: string should match"):
        validate({"name": "x", "trials": 3, "callbacks": ["train.py"]}, "x.toml")
