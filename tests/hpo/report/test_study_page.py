"""The report page: what it says of a study in every state."""

from __future__ import annotations

import csv
import html
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.analysis.calibration import calibrate
from hpo.analysis.conformal import assess
from hpo.errors import HpoError
from hpo.records import WorkerRun, part_key
from hpo.report.figures.front import search_figures
from hpo.report.figures.search import MAX_CURVES
from hpo.report.formatting import METRIC_LABELS, number, percent
from hpo.report.freshness import STAMP_NAME
from hpo.report.study_page import write_report
from hpo.report.tables import param_rows
from hpo.spec.space import Dimension, FloatDimension, IntDimension
from hpo.study.record import StudyRecord
from hpo.study.trials import Search
from tests.support.pages import (
    FOREST,
    MODEL_FIGURES,
    SEARCH_FIGURES,
    Page,
    evaluated,
    flat,
    looks,
    stop_at,
    work,
)

# A finished study -----------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert beside == [".study", "figures", "predictions.csv", "report.html"]
    panels = [
        *("parity_cv", "parity_test", "errors", "calibration", "intervals_test"),
        *("importance_families", "importance_columns"),
    ]
    files = sorted(p.name for p in (path.parent / "figures").iterdir())
    assert files == sorted(f"{panel}.{kind}" for panel in panels for kind in ("pdf", "png", "svg"))


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_page_fetches_nothing(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    page = Page(write_report(run(trials=3, **FOREST), tmp_path))
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in page.styles
    assert "url(" not in page.styles
    assert "default-src 'none'" in page.source


@pytest.mark.slow
def test_the_test_set_is_looked_at_once_however_often_the_page_is_written(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    record = run(trials=2)
    write_report(record, tmp_path)
    page = Page(write_report(record, tmp_path))
    (look,) = looks(record)
    assert "One, on " in page.text
    assert f"after 2 trials, with trial {look['trial']} alone" in page.text


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_maximised_score_and_a_study_without_intervals_are_shown(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    objective = {"name": "penalised_cv", "metric": "r2", "penalty": 0.0}
    page = Page(write_report(run(trials=12, objective=objective, **FOREST), tmp_path))
    assert page.plots["parity"] == 2
    assert "A line that still rises" in page.text


# Studies that are not finished ----------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
def test_failed_trials_are_listed_with_their_reasons(
    run: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    def refuse(count: int) -> None:
        if count < 3:
            raise ValueError("the cell <burst>" if count < 2 else "it melted")

    page = Page(write_report(run(refuse, trials=2), tmp_path))
    assert "3 trials failed beside 2 finished" in page.text
    assert ["2", "0, 1", "fold 0: ValueError: the cell <burst>"] in page.rows
    assert ["1", "2", "fold 0: ValueError: it melted"] in page.rows
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_a_user_wrote_is_text(run: Callable[..., StudyRecord], tmp_path: Path) -> None:
    description = "<script>alert(1)</script> & </script><b>bold</b>"
    page = Page(write_report(run(trials=2, description=description), tmp_path))
    assert "<script>alert(1)" not in page.source
    assert html.escape(description, quote=False) in page.source
    assert description in page.text


# Folders and provenance -----------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(
    begin_study: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    blocked = tmp_path / "reports"
    blocked.write_text("a file")
    with pytest.raises(HpoError, match="cannot be written"):
        write_report(begin_study(), blocked)


@pytest.mark.slow
def test_provenance_names_the_study_and_no_place(
    run: Callable[..., StudyRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["hpo", "run", "small.toml", "--data", "/own/place"])
    record = run(trials=1)
    page = Page(write_report(record, tmp_path))
    for value in (record.fingerprint["table"], record.provenance["python"], "small.toml"):
        assert value in page.text
    assert record.provenance["command"] == "hpo run small.toml --data /own/place"
    for value in (str(tmp_path), "/own/place"):
        assert value not in page.source
    stored = html.unescape(page.source.partition("<pre>")[2].partition("</pre>")[0])
    assert json.loads(stored) == record.spec.model_dump(mode="json")


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


@pytest.mark.slow
def test_ten_thousand_trials_stay_a_page() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = many_trials(10_000)
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(finished, key=lambda trial: trial.values[0])
    search = Search("many", (StudyDirection.MINIMIZE,), trials, best, ("loss",), ())
    figures = {figure.key: figure for figure in search_figures(search)}
    assert sum(len(p.json) for figure in figures.values() for p in figure.panels) < 3_000_000
    assert "ballast" not in "".join(p.json for figure in figures.values() for p in figure.panels)
    assert f"The best {MAX_CURVES} of 9000 trials are drawn." in figures["parts"].caption
    assert "1000 of 9000 trials are drawn, good and bad alike." in figures["slices"].caption
    assert "The 12 most important of 15 parameters are drawn." in figures["slices"].caption
    assert "The last 2000 of 10000 trials are drawn." in figures["timeline"].caption
    assert "trials score far worse and lie outside the plot." in figures["history"].caption
