"""Trials that fail and are worked on again: of tables, functions and programs."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

OBJECTIVES = """
from collections import Counter
from pathlib import Path
import hpo
from tests.support.objectives import Parabola

class Failing(Parabola):
    def score_part(self, params, part):
        seen = Path(f"{params['alpha']!r}.{part}")
        if part == 1 and not seen.exists():
            seen.touch()
            raise OSError("no licence")
        return super().score_part(params, part)

def objective(trial):
    alpha = trial.suggest_float("alpha", 0, 10)
    seen = hpo.trial_dir(trial) / "seen"
    if not seen.exists():
        seen.touch()
        trial.set_user_attr("told", alpha)
        raise OSError("no licence")
    return alpha

def never(trial):
    raise OSError("no licence")
"""
SPACE = '[space]\nalpha = { type = "float", low = 0.0, high = 10.0 }\n'
KINDS = {
    "table": f'[objective]\nname = "train:Failing"\n{SPACE}',
    "function": '[objective]\nfunction = "train.py:objective"\n',
    "program": f"""[objective]
shell = true
command = "if mkdir {{trial_dir}}/seen; then echo no licence; exit 3; fi; echo {{alpha}}"
score = {{ regex = '^([0-9.e-]+)$' }}
{SPACE}""",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_that_fails_once_is_worked_on_again_with_its_number_and_draws(kind, hpo):
    Path("train.py").write_text(OBJECTIVES)
    Path("x.toml").write_text(f"trials = 4\nmax_retry = 1\nmax_failures = 0\n{KINDS[kind]}")
    hpo("run", "x.toml", "--workers", "2")
    trials = optuna.load_study(study_name="x", storage="sqlite:///hpo.db").trials
    assert [(t.number, t.state.name) for t in trials] == [(n, "COMPLETE") for n in range(4)]
    if kind == "function":
        assert all(t.user_attrs["told"] == t.params["alpha"] == t.value for t in trials)
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert sum(status["retries"].values()) == 4
    assert status["counts"]["failed"] == 0
    shown = hpo("status", "x").stdout
    assert "tried again: " in shown
    assert "no licence" in shown
    assert hpo("provenance", "x").stdout.count("retry: trial=") == 4


@pytest.mark.slow
def test_what_fails_whenever_it_is_tried_counts_as_failed_once(hpo):
    Path("train.py").write_text(OBJECTIVES)
    setting = ("--set", "max_retry=2", "--set", "max_failures=1")
    said = hpo("run", "train.py:never", "--trials", "3", *setting, "--workers", "1", code=2).stderr
    assert "2 trials failed, max_failures is 1" in said
    assert "3 attempts failed; the last: " in said
    trials = optuna.load_study(study_name="train.never", storage="sqlite:///hpo.db").trials
    assert [t.state.name for t in trials] == ["FAIL", "FAIL"]
