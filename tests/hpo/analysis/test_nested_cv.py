"""Nested cross-validation: outer folds as studies, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import features.table
from hpo.analysis.nested_cv import count_outer
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.factory import make_estimator
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.folds import hold_out, make_folds
from hpo.objectives.metrics import r2
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.study.record import find
from tests.support.studies import make_spec

CV = {"scheme": "group_kfold", "folds": 3}
ALPHA = {"alpha": {"type": "float", "low": 1e-3, "high": 1e3, "log": True}}
STUDY = """
trials = 3
[table]
dataset = "csv"
path = "data.csv"
split = "split"
families = ["ratios", "magpie"]
[cv]
scheme = "group_kfold"
folds = 3
[estimator]
name = "ridge"
[space]
alpha = { type = "float", low = 0.001, high = 1000.0, log = true }
"""


def test_an_outer_fold_takes_the_place_of_the_held_out_rows(hand_table):
    table = features.table.read(hand_table)
    spec = make_spec(cv={**CV, "outer": 1})
    outer = hold_out(spec, table)
    plain = make_spec(cv=CV)
    assert plain.cv is not None
    fold = make_folds(plain.cv, table.train.groups)[1]
    assert set(outer.ids) == set(table.train.ids)
    assert list(outer.test.ids) == list(table.train.ids[fold.validation])
    np.testing.assert_array_equal(outer.train.X, table.train.X[fold.train])
    assert set(outer.train.groups).isdisjoint(outer.test.groups)
    assert not outer.X.flags.writeable
    hashes = {hold_out(make_spec(cv={**CV, "outer": k}), table).hash for k in range(3)}
    assert len({*hashes, table.hash}) == 4
    assert hold_out(plain, table) is table


def test_what_cannot_be_an_outer_fold_is_named(hand_table):
    with pytest.raises(SpecError, match="outer must be below folds, 3, got 3"):
        make_spec(cv={**CV, "outer": 3})
    with pytest.raises(SpecError, match=r"cv\.outer is set, so it is one step"):
        count_outer(make_spec(cv={**CV, "outer": 0}), pytest.fail)
    custom = {"name": "tests.support.objectives:Parabola"}
    with pytest.raises(SpecError, match=r"needs \[cv\]"):
        count_outer(make_spec(cv=None, estimator=None, table=None, objective=custom), pytest.fail)
    too_many = make_spec(cv={"scheme": "group_kfold", "folds": 30, "outer": 0})
    with pytest.raises(ObjectiveError, match="30 folds need at least 30 groups"):
        hold_out(too_many, features.table.read(hand_table))


def write_data():
    rng = np.random.default_rng(0)
    lines = ["formula,target,split"]
    for i in range(1, 8):
        for j in range(1, 8):
            split = "test" if i == 7 else "train"
            lines.append(f"Li{i}O{j},{i / (i + j) + 0.05 * rng.normal():.6f},{split}")
    Path("data.csv").write_text("\n".join(lines) + "\n")
    Path("n.toml").write_text(STUDY)


@pytest.mark.slow
def test_the_search_is_repeated_for_every_fold_and_pooled(hpo):
    write_data()
    hpo("run", "n.toml", "--workers", "1")
    said = hpo("nested", "n.toml", "--workers", "1", "--json")
    pooled = json.loads(said.stdout[said.stdout.index("{") :])

    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    y: list[float] = []
    predicted: list[float] = []
    ids: list[str] = []
    for fold in range(3):
        record = find(storage, f"n.outer{fold}")
        assert record.ledger.counts().finished == 3
        table, objective = record.open_objective()
        assert table is not None
        assert isinstance(objective, CrossValidation)
        best = record.optuna_study().best_trial.params
        model = make_estimator(objective.estimator, best, record.spec.seed)
        model.fit(table.train.X, table.train.y)
        y.extend(table.test.y)
        predicted.extend(model.predict(table.test.X))
        ids.extend(table.test.ids)
    whole = find(storage, "n")
    table = whole.read_table()
    assert table is not None
    assert sorted(ids) == sorted(table.train.ids)
    assert pooled["rows"] == 42
    assert pooled["scores"]["r2"] == pytest.approx(r2(np.array(y), np.array(predicted)))
    low, high = pooled["intervals"]["group"]["r2"]
    assert low < pooled["scores"]["r2"] < high
    assert pooled["cv"]["r2"] > 0.5
    (event,) = [e for e in whole.ledger.events() if e["kind"] == EventKind.NESTED]
    assert event["scores"] == pooled["scores"]

    # Again, nothing is computed anew, and the report of the whole study tells of it.
    text = hpo("nested", "n.toml", "--workers", "1").stdout
    assert "n: 3 searches of 3 trials, 42 rows predicted" in text
    assert f"R²             {pooled['scores']['r2']:7.3f}" in text
    assert "best trial's own folds" in text
    hpo("report", "n")
    assert "Nested cross-validation, in which each of 3 folds" in Path(
        "reports/n/report.html"
    ).read_text(encoding="utf-8")
    storage.engine.dispose()
