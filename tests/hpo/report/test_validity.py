"""What a page says of threats to the validity of its scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features.table
import hpo.study.integrity
from features.table import Column, Target
from hpo.estimators.factory import make_estimator
from hpo.report.formatting import number, percent
from hpo.report.study_page import write_report
from hpo.report.validity import MAX_LISTED
from hpo.storage.storage import StudyStorage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from tests.support.pages import Page, evaluated, leaky_table, work
from tests.support.studies import make_spec


@pytest.mark.slow
def test_the_page_says_why_scores_may_not_be_real(
    storage: StudyStorage, tmp_path: Path, run: Callable[..., StudyRecord]
) -> None:
    n_skipped = MAX_LISTED + 30
    path = leaky_table(tmp_path / "tables", n_skipped)
    spec = make_spec(trials=2, allow_target_derived=["is_high"])
    record = begin(storage, spec, Source("leaky.toml", (), None), path)
    work(record)
    page, evaluation = Page(write_report(record, tmp_path)), evaluated(record)
    assert evaluation.derived_columns == ("is_high",)
    assert "1 of 2 features is made from the target: is_high (family flags)" in page.text
    assert 0 < evaluation.shared_groups < 1
    assert f"{percent(evaluation.shared_groups)} of the validated rows have a row" in page.text
    assert "20 % of the held-out rows have a row of their group in training" in page.text
    assert f"{n_skipped} of {60 + n_skipped} rows of the source are not in the table" in page.text
    assert [str(n_skipped), "no target"] in page.rows
    assert ["raw.csv", "7", "row-7", "bonds", "no parameters for Te6+"] in page.rows
    assert "lost-0 " in f"{page.text} "
    assert f"lost-{n_skipped - 1}" not in page.text
    assert f"30 more, shown by: hpo features show {path}" in page.text
    assert page.row("RMSE (decades)")
    assert "log₁₀ conductivity (S/cm)" in page.text
    assert "A. Author, Journal 1 (2025)" in page.text
    assert "4 reasons for caution" not in page.text
    assert "2 reasons for caution" in page.text


@pytest.mark.slow
def test_what_is_in_order_is_said_to_be(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    cv = {"scheme": "group_kfold", "folds": 3}
    page = Page(write_report(run(trials=2, cv=cv), tmp_path))
    assert "None of the 4 features is marked" in page.text
    assert "has rows on both sides of a fold" in page.text
    assert "every fold gave the scores that the trial stored" in page.text
    assert "None: every trial had the same data" in page.text
    # The hand-made table shares its groups with its held-out rows.
    assert "100 % of the held-out rows have a row of their group in training" in page.text
    assert "1 reason for caution" in page.text


@pytest.mark.slow
def test_rows_that_are_validated_several_times_are_counted_once(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    cv = {"splitter": "RepeatedKFold", "params": {"n_splits": 3, "n_repeats": 2}}
    record = run(trials=1, cv=cv)
    page, cv_rows = Page(write_report(record, tmp_path)), evaluated(record).cv
    assert len(cv_rows.y) == 2 * cv_rows.n_rows
    assert f"Cross-validation, out of fold, {cv_rows.n_rows} rows" in page.text
    assert "Rows are validated 2 times" in page.text


@pytest.mark.slow
def test_accepted_changes_are_told(
    run: Callable[..., StudyRecord], begin_study: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    run(trials=2)
    space = {"alpha": {"type": "float", "low": 1e-3, "high": 1.0, "log": True}}
    record = begin_study(accept=("space",), trials=2, space=space)
    page = Page(write_report(record, tmp_path))
    assert "1 change accepted on the way" in page.text
    assert "the search space: " in page.text


@pytest.mark.slow
def test_a_table_that_holds_nothing_out_and_knows_no_groups_says_so(
    storage: StudyStorage, tmp_path: Path, run: Callable[..., StudyRecord]
) -> None:
    rng = np.random.default_rng(0)
    path = features.table.write(
        tmp_path / "tables",
        dataset="plain",
        ids=[f"row {i}" for i in range(30)],
        formulas=["Li2O"] * 30,
        X=rng.normal(size=(30, 2)),
        y=rng.normal(size=30),
        groups=[f"group {i}" for i in range(30)],
        is_train=np.ones(30, dtype=bool),
        columns=[Column("a", "made"), Column("b", "made")],
        target=Target("y"),
    )
    record = begin(storage, make_spec(trials=2), Source("plain.toml", (), None), path)
    work(record)
    page = Page(write_report(record, tmp_path))
    assert "The table holds no rows out, so there is no test set." in page.text
    assert "The engine holds nothing out in this study" in page.text
    assert "Every row is a group of its own" in page.text
    assert page.plots["parity"] == 1
    assert page.row("RMSE")


@pytest.mark.slow
def test_a_refit_that_scores_otherwise_is_a_reason_for_caution(
    run: Callable[..., StudyRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(trials=2)

    def make_other(spec: Any, params: Mapping[str, Any], *known: Any) -> Any:
        return make_estimator(spec, {**params, "alpha": 500.0}, *known)

    monkeypatch.setattr(hpo.estimators.factory, "make_estimator", make_other)
    page = Page(write_report(record, tmp_path))
    assert "Fitted again for this page, a fold scored up to" in page.text


@pytest.mark.slow
def test_trials_that_the_folds_cannot_tell_apart_are_counted(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=6)
    page = Page(write_report(record, tmp_path))
    best = record.optuna_study().best_trial
    error = float(np.std(list(best.intermediate_values.values()), ddof=1)) / math.sqrt(3)
    near = sum(abs(t.values[0] - best.values[0]) <= error for t in record.optuna_study().trials)
    assert near > 1
    assert (
        f"{near} of them score within one standard error over folds ({number(error)})" in page.text
    )
