"""Studies that Optuna began, and that go on by hpo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
import pytest

FUNCTION = """
import optuna

def objective(trial):
    x = trial.suggest_float("x", 0, 10)
    if trial.number % 5 == 4:
        raise optuna.TrialPruned
    return (x - 3) ** 2
"""

LARGER = ("--set", "objective.direction=maximize")


def objective(trial):
    if trial.number % 5 == 4:
        raise optuna.TrialPruned
    return (trial.suggest_float("x", 0, 10) - 3) ** 2


@pytest.fixture
def old(hpo):
    """A study of 12 spent, two failed, one running and two enqueued trials."""
    Path("train.py").write_text(FUNCTION)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name="old", storage="sqlite:///old.db")
    study.optimize(objective, n_trials=12)
    for _ in range(2):
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.ask()
    for x in (3.0, 4.0):
        study.enqueue_trial({"x": x})
    study._storage.remove_session()
    return hpo


def trials():
    return optuna.load_study(study_name="old", storage="sqlite:///old.db").trials


@pytest.mark.slow
def test_its_trials_count_and_what_it_enqueued_comes_first(old):
    before = [(t.number, t.params, t.value) for t in trials()]
    said = old("adopt", "sqlite:///old.db", "old", "train.py:objective").stdout
    assert "study 'old': 12 of 12 trials finished" in said
    assert "2 points enqueued, to be tried first" in said
    assert "2 trials failed, which do not count" in said
    assert "1 trial RUNNING, left to whoever runs them" in said
    assert [(t.number, t.params, t.value) for t in trials()] == before
    where = ("--storage", "sqlite:///old.db")
    old("resume", "old", "--trials", "18", "--workers", "2", *where)
    states = Counter(trial.state.name for trial in trials())
    assert states["COMPLETE"] + states["PRUNED"] == 18
    assert (states["FAIL"], states["RUNNING"], states["WAITING"]) == (2, 1, 0)
    assert [trial.params["x"] for trial in trials()[15:17]] == [3.0, 4.0]
    assert "old: finished, 18 of 18 trials" in old("status", "old", *where).stdout
    refused = old("adopt", "sqlite:///old.db", "old", "train.py:objective", code=2).stderr
    assert "study 'old' is one of hpo's already: hpo resume old" in refused


@pytest.mark.slow
def test_what_is_not_there_or_otherwise_is_refused_and_nothing_changes(old):
    for arguments, said in (
        (("old.db", "old", "train.py:objective"), "old.db"),
        (("sqlite:///none.db", "old", "train.py:objective"), "none.db"),
        (("sqlite:///old.db", "odl", "train.py:objective"), "did you mean 'old'?"),
        (("sqlite:///old.db", "old", "train.py:nothing"), "has no 'nothing'"),
        (
            ("sqlite:///old.db", "old", "train.py:objective", *LARGER),
            "its direction is minimize, and maximize is asked for",
        ),
    ):
        assert said in old("adopt", *arguments, code=2).stderr
    assert not Path("none.db").exists()
    assert len(trials()) == 17
