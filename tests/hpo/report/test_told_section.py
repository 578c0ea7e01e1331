"""What a page says of what an objective tells, and of what it tells wrongly."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from hpo.analysis.told_trial import part_differences
from hpo.objectives.told import PredictedRows
from hpo.records import WorkerRun
from hpo.report.study_page import write_report
from hpo.worker.worker import Worker
from tests.support import prepared
from tests.support.ledgers import begin_without_table
from tests.support.pages import Page
from tests.support.prepared import Prepared


@pytest.fixture
def page(storage, tmp_path, monkeypatch) -> Callable[..., Page]:
    """The page of a finished study of `Prepared`, some of whose members are others."""

    def write(**members: Any) -> Page:
        for name, member in members.items():
            monkeypatch.setattr(prepared.Prepared, name, member)
        named = {"name": "tests.support.prepared:Prepared"}
        record = begin_without_table(str(storage.engine.url), trials=3, objective=named)
        objective: Any = Prepared(None, seed=1)
        Worker(record, objective, "w", trial_dirs=tmp_path / "trials").run(WorkerRun("here", 1))
        return Page(write_report(record, tmp_path / "reports"))

    return write


def test_a_page_shows_totals_beside_the_baseline_predictions_and_figures(page, tmp_path):
    shown = page()
    rows = {row[0]: row[1:] for row in shown.rows if row}
    best, baseline, difference = rows["mean distance (m)"]
    assert baseline == "3.16"
    assert float(best) < 3.16
    assert difference.startswith("−")
    assert rows["share"][1] == "9%"
    # All parts differ by the same.
    paired = next(row for row in shown.rows if row[:1] == ["score"])
    low, _, high = paired[4].partition(" to ")
    assert low == high == paired[3]
    assert "outside of the budget: alpha = 4.0." in shown.text
    assert "width (m): R² 0.914, ρ 1, 6 rows" in shown.text
    assert shown.plots["parity"] == 2
    assert shown.plots["own_0_scores_in_a_row"] == shown.plots["own_1_a_map"] == 1
    assert "'A map' is on this page alone: a contour trace cannot be drawn" in shown.text
    folder = tmp_path / "reports" / "small"
    files = {path.name for path in (folder / "figures").iterdir()}
    assert {"parity_width_m.png", "parity_height_m.svg", "own_0_scores_in_a_row.svg"} <= files
    assert not any("map" in name for name in files)
    with (folder / "predictions.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 12
    assert lines[7] == {
        "set": "cv",
        "id": "row 1",
        "group": "at 0",
        "fold": "0",
        "target": "height (m)",
        "actual": "3.0",
        "predicted": lines[7]["predicted"],
    }


def test_one_target_has_the_columns_of_a_table(page, tmp_path):
    def predictions(self, params, parts):
        return PredictedRows(["a", "=b"], [0, 2], ["sigma"], np.zeros(2), np.ones(2))

    page(predictions=predictions)
    lines = (tmp_path / "reports" / "small" / "predictions.csv").read_text().splitlines()
    assert lines == [
        "set,id,group,fold,actual,predicted",
        "cv,a,at 0,0,0.0,1.0",
        "cv,'=b,at 2,2,0.0,1.0",
    ]


def raising(*_):
    raise KeyError("sigma")


def rows(**changes):
    given: dict[str, Any] = {
        "ids": ["a", "b"],
        "parts": [0, 1],
        "targets": ["y"],
        "observed": np.zeros((2, 1)),
        "predicted": np.zeros((2, 1)),
    }
    return lambda *_: PredictedRows(**given | changes)


@pytest.mark.parametrize(
    ("member", "given", "said"),
    [
        ("predictions", raising, "predictions: KeyError: 'sigma'"),
        ("predictions", lambda *_: exec("raise SystemExit"), "predictions: sys.exit()"),
        ("predictions", lambda *_: {"y": [1.0]}, "predictions: must return PredictedRows"),
        ("predictions", rows(ids=[]), "there are 0 ids and 2 parts"),
        ("predictions", rows(parts=[0, 7]), "parts must be positions of parts, 0 to 2"),
        ("predictions", rows(targets=["y", "y"]), "targets must be names, no two alike"),
        ("predictions", rows(observed=np.zeros((2, 3))), "observed must have the shape"),
        ("predictions", rows(predicted=[[math.nan], [1.0]]), "predicted must be finite"),
        ("predictions", rows(predicted=[["x"], ["y"]]), "predictions: ValueError"),
        ("figures", raising, "figures: KeyError: 'sigma'"),
        ("figures", lambda *_: [go.Figure()], "figures: must return a mapping of titles"),
        ("figures", lambda *_: {"a": 3}, "figures: 'a': must be a Plotly figure, is 3"),
        ("figures", lambda *_: {"\n": go.Figure()}, "a name must not be empty"),
    ],
)
def test_a_page_says_what_an_objective_tells_wrongly(page, member, given, said):
    shown = page(**{member: given})
    assert said in shown.text
    assert "mean distance (m)" in shown.text


def test_a_baseline_without_a_score_is_told(page):
    def score_part(self, params, part):
        if params["alpha"] == 4.0:
            raise ValueError("too far")
        return {"score": params["alpha"]}

    shown = page(score_part=score_part)
    assert "the baseline has no score: at 0: ValueError: too far" in shown.text


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ({"alpha": 9.9}, "The best trial has "),
        ({"alpha": 1.0}, "No trial is better than the baseline, which was not searched for: the"),
    ],
)
def test_a_page_says_whether_the_search_was_worth_it(page, baseline, said):
    assert said in page(baseline=baseline).text


def test_differences_are_paired_over_parts():
    same = {"rows": 7, "undefined": None}
    ours = [{"score": k + 1.0, "n": k, "wall_s": 1.0, "text": "a", **same} for k in range(20)]
    theirs = [{"score": float(k), "n": 0, "wall_s": 2.0, "text": "b", **same} for k in range(20)]
    score, n = part_differences(ours, theirs)
    assert (score.name, score.difference, score.interval, score.n_parts) == (
        "score",
        1.0,
        (1.0, 1.0),
        20,
    )
    assert (n.ours, n.theirs) == (9.5, 0.0)
    assert n.interval[0] < 9.5 < n.interval[1]
    assert not part_differences(ours, theirs[1:])
    assert not part_differences(ours[:1], theirs[:1])
    assert not part_differences([], [])
