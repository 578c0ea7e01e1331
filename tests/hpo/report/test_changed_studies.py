"""Pages of studies that are not what they were begun as."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import hpo.study.integrity
from hpo.report.formatting import number
from hpo.report.study_page import write_report
from hpo.storage.storage import StudyStorage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from tests.support.pages import Page, flat, leaky_table, looks, work
from tests.support.studies import make_spec


def test_a_conflict_leaves_predictions_out_and_names_what_changed(
    run: Callable[..., StudyRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(trials=2)
    changed = {**record.fingerprint, "packages": "numpy=9.9.9"}
    monkeypatch.setattr(hpo.study.integrity, "fingerprint", lambda *_: changed)
    path = write_report(record, tmp_path)
    page = Page(path)
    assert "This page is written from stored results alone" in page.text
    assert "the versions of the packages that compute a score" in page.text
    assert "numpy=9.9.9" in page.text
    assert "parity" not in page.plots
    assert page.plots["history"] == 1
    assert page.row("mean")[-1] == number(record.optuna_study().best_value)
    # The folds are the same ones, so what they share can still be told.
    assert "100 % of the validated rows have a row of the same group" in page.text
    assert "every fold gave the scores" not in page.text
    assert not path.with_name("predictions.csv").exists()
    assert looks(record) == []


@pytest.mark.slow
def test_predictions_of_an_earlier_page_are_not_taken_for_this_one(
    run: Callable[..., StudyRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(trials=2)
    write_report(record, tmp_path)
    monkeypatch.setattr(
        hpo.study.integrity, "fingerprint", lambda *_: {**record.fingerprint, "code": "x"}
    )
    page = Page(write_report(record, tmp_path))
    assert "predictions.csv and figures, is from an earlier report" in page.text
    # The stored look still has its scores.
    (look,) = looks(record)
    assert number(look["scores"]["r2"]) in [row for row in page.rows if len(row) == 7][-1]


def test_another_table_is_not_described_as_the_studys(
    storage: StudyStorage, hand_table: Path, tmp_path: Path, run: Callable[..., StudyRecord]
) -> None:
    record = run(trials=2)
    other = leaky_table(tmp_path / "tables", 1)
    page = Page(write_report(replace(record, table_path=other), tmp_path))
    assert "table: the feature table: rows, features or target" in page.text
    assert "is_high" not in page.text
    assert "of the validated rows" not in page.text
    assert "parity" not in page.plots


def test_a_table_that_is_gone_is_said_to_be(
    storage: StudyStorage, hand_table: Path, tmp_path: Path, run: Callable[..., StudyRecord]
) -> None:
    path = tmp_path / "tables" / hand_table.name
    shutil.copytree(hand_table, path)
    record = begin(storage, make_spec(trials=2), Source("gone.toml", (), None), path)
    work(record)
    shutil.rmtree(path)
    page = Page(write_report(record, tmp_path))
    assert "there is none; build it first" in page.text
    assert page.plots["history"] == 1


def test_an_objective_that_cannot_be_built_is_said_to_be(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=2, **flat())
    objective = record.spec.objective.model_copy(update={"params": {"broken": True}})
    spec = record.spec.model_copy(update={"objective": objective})
    page = Page(write_report(replace(record, spec=spec), tmp_path))
    assert "RuntimeError: no licence for this code" in page.text
    assert page.row("part 0") == ["part 0", "0.500", "1.250"]
