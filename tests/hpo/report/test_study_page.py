"""The report page: what it says of a study in every state, and that a browser shows it."""

from __future__ import annotations

import csv
import functools
import html
import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

import features.table
import hpo.analysis.best_model
import hpo.estimators.factory
import hpo.report.study_page
import hpo.study.integrity
from features.table import Column, Target
from hpo.analysis.best_model import Evaluation, evaluate
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.analysis.calibration import calibrate
from hpo.analysis.conformal import assess
from hpo.commands.results.compare import print_comparison
from hpo.errors import HpoError
from hpo.estimators.factory import make_estimator
from hpo.records import WorkerRun, part_key
from hpo.report.figures.search import MAX_CURVES, search_figures
from hpo.report.formatting import METRIC_LABELS, number, percent
from hpo.report.freshness import STAMP_NAME
from hpo.report.study_page import write_report
from hpo.report.tables import param_rows
from hpo.report.validity import MAX_LISTED
from hpo.spec.space import Dimension, FloatDimension, IntDimension
from hpo.storage.events import EventKind
from hpo.storage.storage import StudyStorage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord, find
from hpo.study.snapshot import take_snapshot
from hpo.study.trials import Search
from tests.support.pages import Page, leaky_table, work
from tests.support.requirements import unavailable
from tests.support.studies import make_spec

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SPACE = {
    "max_depth": {"type": "int", "low": 1, "high": 6},
    "min_samples_leaf": {"type": "int", "low": 1, "high": 16, "log": True},
    "min_impurity_decrease": {"type": "float", "low": 1e-6, "high": 0.1, "log": True},
    "max_features": {"type": "categorical", "choices": ["sqrt", "log2"]},
    "bootstrap": {"type": "categorical", "choices": [True, False]},
}
FOREST: dict[str, Any] = {
    "estimator": {"name": "extra_trees", "params": {"n_estimators": 5}},
    "space": SPACE,
}
SEARCH_FIGURES = (
    "history",
    "importance",
    "slices",
    "contour",
    "parts",
    "parallel",
    "distribution",
    "timeline",
)
# Each group of the hand-made table has rows in every fold, which leaves no intervals of these.
MODEL_FIGURES = {
    "parity": 2,
    "errors": 1,
    "calibration": 1,
    "intervals": 1,
    "importance_families": 1,
    "importance_columns": 1,
}


class Flat:
    """An objective over nothing: always the same score, with a name that is not safe in HTML."""

    direction = "maximize"
    score_name = "flat <score>"
    parts = ("one", "two & a half")
    splits_hash = ""

    def __init__(self, table: object, *, seed: int, broken: bool = False) -> None:
        if broken:
            raise RuntimeError("no licence for this code")

    def score_part(self, params: object, part: int) -> Mapping[str, Any]:
        # A text beside the scores is for the objective alone.
        return {"score": 1.25, "note": "a text", "barrier": 0.5 + part}

    def combine(self, parts: object) -> Mapping[str, float]:
        return {"score": 2.5, "barrier": 1.0}


def flat(**params: Any) -> dict[str, Any]:
    """Return the fields of a study without a table."""
    objective = {"name": f"{__name__}:Flat", "params": params}
    return {"table": None, "cv": None, "estimator": None, "objective": objective}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every interval a tenth of its resamples: the code is the same, and the time is not."""
    few = functools.partial(bootstrap_intervals, n_resamples=200)
    monkeypatch.setattr(hpo.analysis.best_model, "bootstrap_intervals", few)


@pytest.fixture
def run(begin_study: Callable[..., StudyRecord]) -> Iterator[Callable[..., StudyRecord]]:
    """Run a study in this process, and give the process its signals back."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def run_with(meddle: Callable[[int], None] | None = None, **changes: Any) -> StudyRecord:
        record = begin_study(**changes)
        work(record, meddle)
        return find(record.storage, record.name)

    yield run_with
    for signal_number, handler in handlers.items():
        signal.signal(signal_number, handler)


def stop_at(part: int) -> Callable[[int], None]:
    """Return what sends the worker away after so many parts."""
    return lambda count: signal.raise_signal(signal.SIGTERM) if count == part else None


def evaluated(record: StudyRecord) -> Evaluation:
    """Evaluate a study as its report does."""
    table, objective = record.open_objective()
    evaluation = evaluate(take_snapshot(record), table, objective)
    assert evaluation is not None
    return evaluation


def looks(record: StudyRecord) -> list[dict[str, Any]]:
    """Return the looks at the test set."""
    return [event for event in record.ledger.events() if event["kind"] == EventKind.TEST_EVALUATION]


# A finished study -----------------------------------------------------------------------------


def test_a_finished_study_shows_the_scores_of_its_evaluation(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=12, **FOREST)
    path = write_report(record, tmp_path / "reports")
    page, evaluation = Page(path), evaluated(record)
    assert path == tmp_path / "reports" / "small" / "report.html"
    assert evaluation.test is not None
    units = {"rmse": " (eV)", "mae": " (eV)"}
    for metric, label in METRIC_LABELS.items():
        expected = []
        for rows in (evaluation.cv, evaluation.test):
            expected.append(number(rows.scores[metric]))
            for low, high in (rows.row_intervals[metric], rows.group_intervals[metric]):
                expected.append(f"{number(low)} to {number(high)}")
        assert page.row(f"{label}{units.get(metric, '')}")[1:] == expected
    assert "finished, 12 of 12 trials" in page.text
    assert f"trial {evaluation.trial}, reaches R²" in page.text
    assert number(evaluation.test.scores["r2"]) in page.text.partition("Scores")[0]
    assert page.plots == {
        **MODEL_FIGURES,
        **dict.fromkeys(SEARCH_FIGURES, 1),
        "slices": len(record.spec.space),
    }


def test_the_best_trial_is_shown_part_by_part(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=3, **FOREST)
    page = Page(write_report(record, tmp_path))
    best = record.optuna_study().best_trial
    names = [f"{metric}_{side}" for metric in METRIC_LABELS for side in ("val", "train")]
    parts = [best.user_attrs[part_key(k)] for k in range(3)]
    for k, part in enumerate(parts):
        assert page.row(f"fold {k}")[1:] == [number(part[name]) for name in [*names, "score"]]
    scores = [part["score"] for part in parts]
    assert page.row("mean")[-1] == number(best.value)
    assert page.row("std. dev.")[-1] == number(float(np.std(scores, ddof=1)))
    for name, value in best.params.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        assert page.row(name)[1] == shown
    assert "n_estimators = 5" in page.text


def test_predictions_lie_beside_the_page(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    record = run(trials=2)
    path = write_report(record, tmp_path)
    evaluation = evaluated(record)
    assert evaluation.test is not None
    with path.with_name("predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["set", "id", "group", "fold", "actual", "predicted"]
    for name, part in (("cv", evaluation.cv), ("test", evaluation.test)):
        mine = [row for row in rows if row["set"] == name]
        assert [row["id"] for row in mine] == part.ids.tolist()
        assert [row["group"] for row in mine] == part.groups.tolist()
        assert [float(row["actual"]) for row in mine] == part.y.tolist()
        assert [float(row["predicted"]) for row in mine] == part.predicted.tolist()
        folds = [str(fold) if fold >= 0 else "" for fold in part.fold]
        assert [row["fold"] for row in mine] == folds
    beside = sorted(p.name for p in path.parent.iterdir() if p.name != STAMP_NAME)
    assert beside == ["figures", "predictions.csv", "report.html"]
    panels = [
        *("parity_cv", "parity_test", "errors", "calibration", "intervals_test"),
        *("importance_families", "importance_columns"),
    ]
    files = sorted(p.name for p in (path.parent / "figures").iterdir())
    assert files == sorted(f"{panel}.{kind}" for panel in panels for kind in ("png", "svg"))


def test_intervals_are_told_with_their_coverage_and_width(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=2, cv={"scheme": "group_kfold", "folds": 4})
    page, evaluation = Page(write_report(record, tmp_path)), evaluated(record)
    made = calibrate(evaluation.cv, evaluation.test)
    assert made.cv is not None
    assert made.test is not None
    assert evaluation.test is not None
    expected = []
    for intervals, rows in ((made.cv, evaluation.cv), (made.test, evaluation.test)):
        found = assess(intervals, rows.y)
        expected += [str(found.n_rows), number(found.coverage), number(found.mean_width)]
    assert page.row("all rows")[1:] == expected
    assert page.row("oxide")[1:] == expected
    assert "Some intervals are missing" not in page.text
    assert page.plots["intervals"] == 2
    page = Page(write_report(run(name="interleaved", trials=1), tmp_path))
    assert "Some intervals are missing: fold 0 leaves no row of another fold" in page.text
    # Of a quantile, or of scores without a unit, there are none.
    forest = {"name": "hist_gradient_boosting", "params": {"max_iter": 5}}
    record = run(
        name="q", trials=1, space={}, estimator=forest, objective={"name": "quantile", "level": 0.9}
    )
    page = Page(write_report(record, tmp_path))
    assert {"parity", "importance_families", "importance_columns"} <= {*page.plots}
    assert not {"errors", "calibration", "intervals"} & {*page.plots}
    assert page.text.count("not drawn; the model predicts the 0.9 quantile, not the value.") == 3


def test_a_page_fetches_nothing(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    page = Page(write_report(run(trials=3, **FOREST), tmp_path))
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in page.styles
    assert "url(" not in page.styles
    assert "default-src 'none'" in page.source


def test_the_test_set_is_looked_at_once_however_often_the_page_is_written(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=2)
    write_report(record, tmp_path)
    page = Page(write_report(record, tmp_path))
    (look,) = looks(record)
    assert "One, on " in page.text
    assert f"after 2 trials, with trial {look['trial']} alone" in page.text


def test_a_second_look_is_a_reason_for_caution(
    run: Callable[..., StudyRecord], begin_study: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=2, **FOREST)
    write_report(record, tmp_path)
    longer = begin_study(trials=12, **FOREST)
    page = Page(write_report(longer, tmp_path))
    assert "has been evaluated once. Whoever goes on with a study" in page.text
    assert "budget: 2 → 12 trials" in page.text
    assert page.plots["parity"] == 1
    work(longer)
    page = Page(write_report(longer, tmp_path))
    assert len(looks(longer)) == 2
    assert "has been evaluated 2 times" in page.text


def test_a_maximised_score_and_a_study_without_intervals_are_shown(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    objective = {"name": "penalised_cv", "metric": "r2", "penalty": 0.0}
    page = Page(write_report(run(trials=12, objective=objective, **FOREST), tmp_path))
    assert page.plots["parity"] == 2
    assert "A line that still rises" in page.text


# Studies that are not finished ----------------------------------------------------------------


def test_an_unfinished_study_has_no_test_figures(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(stop_at(10), trials=6, **FOREST)
    path = write_report(record, tmp_path)
    page = Page(path)
    assert "stopped, 3 of 6 trials" in page.text
    assert "The test set is evaluated once, when the budget is finished" in page.text
    assert "None yet. The test set is evaluated once" in page.text
    assert "Held-out test set" not in page.text
    assert page.plots["parity"] == 1
    assert len(page.row("R²")) == 4
    assert looks(record) == []
    assert "\ntest," not in path.with_name("predictions.csv").read_text()


@pytest.mark.parametrize("fields", [FOREST, flat() | {"trials": 1, "space": {}}])
def test_a_study_without_a_finished_trial_has_no_figures(
    begin_study: Callable[..., StudyRecord], tmp_path: Path, fields: dict[str, Any]
) -> None:
    page = Page(write_report(begin_study(**fields), tmp_path))
    assert "No trial has finished yet" in page.text
    assert page.plots == {}
    assert page.text.count("not drawn; ") == len(SEARCH_FIGURES)
    assert not (tmp_path / "small" / "predictions.csv").exists()


def test_failed_trials_are_listed_with_their_reasons(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    def refuse(count: int) -> None:
        if count < 3:
            raise ValueError("the cell <burst>" if count < 2 else "it melted")

    page = Page(write_report(run(refuse, trials=2), tmp_path))
    assert "3 trials failed beside 2 finished" in page.text
    assert ["2", "0, 1", "ValueError: the cell <burst>"] in page.rows
    assert ["1", "2", "ValueError: it melted"] in page.rows
    assert page.plots["timeline"] == 1


def test_a_study_whose_trials_all_failed_is_shown(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    def refuse(count: int) -> None:
        if count == 2:
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("no")

    page = Page(write_report(run(refuse, trials=2), tmp_path))
    assert "No trial has finished yet; 2 failed." in page.text
    assert page.plots == {"timeline": 1}


def test_deaths_are_told(begin_study: Callable[..., StudyRecord], tmp_path: Path) -> None:
    record = begin_study(trials=2)
    record.ledger.register("ghost", WorkerRun("node7", 1))
    record.ledger.claim("ghost")
    record.ledger.reap("ghost", "ended by signal 9")
    page = Page(write_report(record, tmp_path))
    assert "1 worker died" in page.text
    assert next(row for row in page.rows if "ghost" in row)[1:] == [
        "0",
        "ghost",
        "ended by signal 9",
    ]


# Small and other studies ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"estimator": {"name": "ridge", "params": {"alpha": 1.0}}}, flat()]
)
def test_an_empty_space_has_one_trial_and_says_so(
    run: Callable[..., StudyRecord], tmp_path: Path, fields: dict[str, Any]
) -> None:
    page = Page(write_report(run(trials=1, space={}, **fields), tmp_path))
    assert "The one finished trial" in page.text
    assert "The study searches no parameters." in page.text
    assert {*page.plots} - {*MODEL_FIGURES} == {"timeline", "parts"}
    assert "One trial has finished: nothing was selected." in page.text


def test_one_parameter_has_nothing_to_be_compared_with(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    page = Page(write_report(run(trials=12), tmp_path))
    assert page.text.count("not drawn; it compares parameters, and the study searches one.") == 3
    search = {"history", "slices", "parts", "distribution", "timeline"}
    assert {*page.plots} - {*MODEL_FIGURES} == search


def test_an_objective_of_the_users_own_has_scores_but_no_predictions(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    space = {name: {"type": "int", "low": 0, "high": 99} for name in ("a", "b<b>")}
    record = run(trials=12, space=space, **flat())
    path = write_report(record, tmp_path)
    page = Page(path)
    assert "with flat <score> 2.500" in page.text
    assert "is the study's own" in page.text
    assert page.row("two & a half") == ["two & a half", "1.500", "1.250"]
    assert page.row("whole trial") == ["whole trial", "1", "2.500"]
    assert "every finished trial has the same score" in page.text
    assert "The engine holds nothing out" in page.text
    assert "parity" not in page.plots
    assert not path.with_name("predictions.csv").exists()
    assert "flat <score>" not in page.source.partition("<script>")[0]


def test_what_a_user_wrote_is_text(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    description = "<script>alert(1)</script> & </script><b>bold</b>"
    page = Page(write_report(run(trials=2, description=description), tmp_path))
    assert "<script>alert(1)" not in page.source
    assert html.escape(description, quote=False) in page.source
    assert description in page.text


# What speaks against the scores ---------------------------------------------------------------


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


def test_accepted_changes_are_told(
    run: Callable[..., StudyRecord], begin_study: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    run(trials=2)
    space = {"alpha": {"type": "float", "low": 1e-3, "high": 1.0, "log": True}}
    record = begin_study(accept=("space",), trials=2, space=space)
    page = Page(write_report(record, tmp_path))
    assert "1 change accepted on the way" in page.text
    assert "the search space: " in page.text


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


def test_a_refit_that_scores_otherwise_is_a_reason_for_caution(
    run: Callable[..., StudyRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(trials=2)

    def make_other(spec: Any, params: Mapping[str, Any], seed: int) -> Any:
        return make_estimator(spec, {**params, "alpha": 500.0}, seed)

    monkeypatch.setattr(hpo.estimators.factory, "make_estimator", make_other)
    page = Page(write_report(record, tmp_path))
    assert "Fitted again for this page, a fold scored up to" in page.text


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


# What is not as it was ------------------------------------------------------------------------


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


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(
    begin_study: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    blocked = tmp_path / "reports"
    blocked.write_text("a file")
    with pytest.raises(HpoError, match="cannot be written"):
        write_report(begin_study(), blocked)


def test_provenance_hides_passwords(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    record = run(trials=1)
    page = Page(write_report(record, tmp_path))
    for value in (record.fingerprint["table"], record.provenance["python"], "sqlite:///"):
        assert value in page.text
    stored = html.unescape(page.source.partition("<pre>")[2].partition("</pre>")[0])
    assert json.loads(stored) == record.spec.model_dump(mode="json")
    url = sa.make_url("postgresql://me:secret@host/db?password=secret&sslmode=require")
    remote: Any = SimpleNamespace(storage=SimpleNamespace(engine=SimpleNamespace(url=url)))
    shown = hpo.report.study_page._storage_url(remote)
    assert "secret" not in shown
    assert "sslmode=require" in shown


# Pieces ---------------------------------------------------------------------------------------


def test_a_parameter_at_the_edge_of_its_range_is_flagged() -> None:
    space: dict[str, Dimension] = {
        "rate": FloatDimension(type="float", low=1e-4, high=1.0, log=True),
        "depth": IntDimension(type="int", low=2, high=5),
        "width": FloatDimension(type="float", low=0.0, high=100.0),
    }
    params = {"rate": 1.05e-4, "depth": 5, "width": 2.0, "gone": 3}
    best: Any = SimpleNamespace(params=params)
    rows = {row["name"]: row for row in param_rows(space, best)}
    assert rows["rate"]["edge"] == "at the lower end: consider widening"
    assert rows["depth"]["edge"] == "at the upper end: consider widening"
    assert rows["width"]["edge"] == ""
    assert rows["rate"]["range"] == "0.0001 to 1, log scale"
    assert rows["gone"]["range"] == "not in the present space"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.75149, "0.751"),
        (-1.5, "−1.500"),
        (0.0, "0"),
        (36.0, "36"),
        (-1_234_567.0, "−1234567"),
        (2e-5, "2e−05"),
        (0.0074716, "0.00747"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_short_and_never_rounded_away(value: float, shown: str) -> None:
    assert number(value) == shown


def test_shares_are_never_rounded_to_none_or_all() -> None:
    shares = [percent(share) for share in (0.0, 0.001, 0.79, 0.999, 1.0)]
    assert shares == ["0 %", "Under 1 %", "79 %", "Over 99 %", "100 %"]


def many_trials(n_trials: int) -> tuple[FrozenTrial, ...]:
    """Return finished trials of a made-up search, a few of them very bad, every tenth failed."""
    rng = np.random.default_rng(0)
    space = {
        **{f"p{k}": FloatDistribution(1e-4, 1.0, log=bool(k % 2)) for k in range(14)},
        "kind": CategoricalDistribution(("a", "b", None)),
    }
    trials = []
    for number_ in range(n_trials):
        params: dict[str, Any] = {f"p{k}": float(10 ** rng.uniform(-4, 0)) for k in range(14)}
        params["kind"] = ("a", "b", None)[int(rng.integers(3))]
        value = float(rng.random() + params["p0"] + (1e6 if number_ % 500 == 1 else 0))
        failed = number_ % 10 == 0
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            value=None if failed else value,
            params=params,
            distributions=space,
            intermediate_values=dict.fromkeys(range(5), value),
            user_attrs={"part 0": {"score": value, "ballast": "x" * 500}},
        )
        trial.number = number_
        trials.append(trial)
    return tuple(trials)


def test_ten_thousand_trials_stay_a_page() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = many_trials(10_000)
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(finished, key=lambda trial: trial.values[0])
    search = Search("many", StudyDirection.MINIMIZE, trials, best, "loss", ())
    figures = {figure.key: figure for figure in search_figures(search)}
    assert sum(len(p.json) for figure in figures.values() for p in figure.panels) < 3_000_000
    assert "ballast" not in "".join(p.json for figure in figures.values() for p in figure.panels)
    assert f"The best {MAX_CURVES} of 9000 trials are drawn." in figures["parts"].caption
    assert "1000 of 9000 trials are drawn, good and bad alike." in figures["slices"].caption
    assert "The 12 most important of 15 parameters are drawn." in figures["slices"].caption
    assert "The last 2000 of 10000 trials are drawn." in figures["timeline"].caption
    assert "trials score far worse and lie outside the plot." in figures["history"].caption


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A headless Chromium with a profile of its own."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        unavailable("browser", "install chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def open_page(browser: Chrome, path: Path, width: int) -> None:
    """Open a page in a window of some width; a console message of an error fails the test."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


RENDERED = """
return [...document.querySelectorAll(".plot")].map(plot => {
  const svg = plot.querySelector("svg.main-svg"), box = svg?.getBoundingClientRect();
  const marks = plot.querySelectorAll(".point, .js-line, .contour, .bars path").length;
  return [plot.closest("figure").id, box?.width ?? 0, box?.height ?? 0, marks];
});
"""


@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_every_figure(
    run: Callable[..., StudyRecord], tmp_path: Path, browser: Chrome, width: int
) -> None:
    description = "A long word: " + "conductivity" * 12
    path = write_report(run(trials=12, description=description, **FOREST), tmp_path)
    open_page(browser, path, width)
    assert browser.title == "small – study report"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    rendered = browser.execute_script(RENDERED)
    assert len(rendered) == sum(MODEL_FIGURES.values()) + len(SEARCH_FIGURES) - 1 + len(SPACE)
    for figure, plot_width, plot_height, marks in rendered:
        assert plot_width > 200, figure
        assert plot_height > 150, figure
        assert marks > 0, figure
    sizes = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, window = browser.execute_script(sizes)
    assert content <= window


def test_a_browser_shows_a_comparison(
    run: Callable[..., StudyRecord], tmp_path: Path, browser: Chrome
) -> None:
    records = [run(name=name, trials=1) for name in ("a_first_study", "a_second_study" * 3)]
    for record in records:
        write_report(record, tmp_path)
    print_comparison(records, reports_dir=tmp_path)
    for width in (1280, 420):
        open_page(browser, tmp_path / "comparison.html", width)
        rendered = browser.execute_script(RENDERED)
        assert len(rendered) == 2 + 2 + 1 + 1 + 2 + 4
        for figure, plot_width, plot_height, marks in rendered:
            assert min(plot_width, plot_height) > 150, figure
            assert marks > 0, figure
        sizes = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
        content, window = browser.execute_script(sizes)
        assert content <= window


def test_printed_figures_fit_the_paper(
    run: Callable[..., StudyRecord], tmp_path: Path, browser: Chrome
) -> None:
    open_page(browser, write_report(run(trials=12, **FOREST), tmp_path), 1280)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    paper = browser.execute_script("return document.querySelector('main').clientWidth")
    widths = {figure: width for figure, width, _, _ in browser.execute_script(RENDERED)}
    assert paper < 700
    assert max(widths.values()) <= paper
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    after = {figure: width for figure, width, _, _ in browser.execute_script(RENDERED)}
    assert after["parallel"] > paper


@pytest.mark.parametrize("fields", [flat() | {"trials": 1, "space": {}}, FOREST])
def test_a_browser_shows_a_study_without_trials(
    begin_study: Callable[..., StudyRecord],
    tmp_path: Path,
    browser: Chrome,
    fields: dict[str, Any],
) -> None:
    open_page(browser, write_report(begin_study(**fields), tmp_path), 420)
    assert browser.execute_script("return document.querySelectorAll('.plot').length") == 0
