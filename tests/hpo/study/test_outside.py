"""Trials that somebody adds to a study of ours by Optuna alone: counted where they are shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import optuna
import pytest

from hpo.records import Counts, WorkerRun
from tests.support.ledgers import begin_without_table
from tests.support.studies import write_study
from tests.support.trials import finish_trials


def optimize(url, name, n_trials, alpha):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=name, storage=url)
    for number in range(n_trials):
        trial = study.ask({"alpha": optuna.distributions.FloatDistribution(0.0, 10.0)})
        study.tell(trial, alpha + number)
    study._storage.remove_session()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_they_spend_nothing_of_the_budget(kind, request, tmp_path):
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url")
    record = begin_without_table(url, trials=3)
    record.ledger.register("w1", WorkerRun("here", 1))
    finish_trials(record.ledger, [1.0, 2.0])
    assert record.ledger.counts() == Counts(3, finished=2)
    study = record.optuna_study()
    study.tell(study.ask(), 0.5)
    study.tell(study.ask(), state=optuna.trial.TrialState.PRUNED)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.ask()
    counts = record.ledger.counts()
    assert counts == Counts(3, finished=2, outside=2)
    assert str(counts) == "2 of 3 trials and 2 from outside"
    finish_trials(record.ledger, [3.0])
    assert record.ledger.counts() == Counts(3, finished=3, outside=2)
    record.storage.remove_session()
    record.storage.engine.dispose()


@pytest.mark.slow
def test_all_that_shows_a_study_counts_them_and_knows_the_best(hpo):
    hpo("run", write_study(trials=4), "--workers", "1")
    optimize("sqlite:///hpo.db", "x", 2, alpha=-5.0)
    said = "4 of 4 trials and 2 from outside"
    assert f"x: finished, {said}, best -5 (trial 4)" in hpo("status", "x").stdout
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert (status["counts"]["outside"], status["counts"]["finished"]) == (2, 4)
    hpo("report", "x")
    page = Path("reports/x/report.html").read_text()
    assert f"finished, {said}" in page
    assert "The best of 6 trials is trial 4" in page
    said += "; the best trial was chosen among all of them"
    assert said in hpo("compare", "x").stdout
    hpo("export", "x", "--output", "x.csv")
    with Path("x.csv").open() as stream:
        assert [row["number"] for row in csv.DictReader(stream)] == ["0", "1", "2", "3", "4", "5"]
    again = hpo("run", "x.toml", "--trials", "6", "--workers", "1")
    assert "0/" not in again.stderr
    assert "2 from outside" in again.stderr
    assert "6 of 6 trials and 2 from outside, best -5" in again.stdout
