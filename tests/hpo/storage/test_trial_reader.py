"""Trials read by plain SQL are those that Optuna reads."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState

from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.schema import TRIALS
from hpo.storage.trial_reader import read_rows, read_trials


@pytest.fixture
def messy(url):
    """Two studies side by side, with everything that Optuna can store of a trial."""
    storage = open_storage(url, Access.CREATE)
    one = optuna.create_study(study_name="one", storage=storage, directions=["minimize"] * 2)
    two = optuna.create_study(study_name="two", storage=storage)
    for i in range(25):
        study = (one, two)[i % 2]
        trial = study.ask()
        trial.suggest_float("x", 0.1, 10.0, log=True)
        trial.suggest_categorical("kind", ["a", None, 3, True])
        if i % 3:
            trial.suggest_int("n", 0, 100, step=5)
        trial.set_user_attr("note", {"text": "ü", "list": [1, None]})
        if study is two:
            for step, value in ((5, 1.5), (1, math.nan), (2, math.inf), (3, -math.inf)):
                trial.report(value, step)
        if i % 7 == 6:
            study.tell(trial, state=TrialState.FAIL)
        elif i % 5 == 4:
            study.tell(trial, state=TrialState.PRUNED)
        elif i % 11 != 10:
            study.tell(trial, [float(i), math.inf] if study is one else -math.inf)
    two.enqueue_trial({"x": 1.0})
    yield storage, (one._study_id, two._study_id)
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_trials_are_those_that_optuna_reads(messy, batch):
    storage, studies = messy
    for study_id in studies:
        with storage.read() as c:
            found = list(read_trials(c, study_id, batch=batch))
        expected = storage.get_all_trials(study_id)
        for trial in expected:
            trial.intermediate_values = dict(sorted(trial.intermediate_values.items()))
        assert repr(found) == repr(expected), "NaN is not equal to itself, but its text is"
        assert len(found) >= 12


@pytest.mark.slow
def test_conditions_and_limits_choose(messy):
    storage, (_, study_id) = messy
    with storage.read() as c:
        everything = read_rows(c, study_id)
        pruned = read_rows(c, study_id, TRIALS.c.state == TrialState.PRUNED)
        first = read_rows(c, study_id, limit=3)
        trials = list(read_trials(c, study_id, TRIALS.c.state == TrialState.WAITING))
    assert pruned == [row for row in everything if row.state is TrialState.PRUNED] != []
    assert first == everything[:3]
    assert [trial.system_attrs for trial in trials] == [{"fixed_params": {"x": 1.0}}]
