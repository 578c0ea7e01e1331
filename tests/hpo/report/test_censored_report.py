"""A study of a target with limits and ranges, from its file to its report and a ranking."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from hpo.analysis.predictions_csv import read_predictions
from hpo.cli import main
from tests.support.pages import Page

STUDY = """
trials = 2
[table]
dataset = "csv"
path = "mine.csv"
target = "sigma"
target_unit = "S/cm"
log10 = true
censored = "interval"
group = "paper"
columns = ["a", "b"]
[cv]
scheme = "group_kfold"
folds = 3
[estimator]
name = "{estimator}"
[space]
{space}
"""
STUDIES = {
    "ridge": {"estimator": "ridge", "space": 'alpha = { type = "float", low = 0.1, high = 1.0 }'},
    "lasso": {"estimator": "Lasso", "space": 'alpha = { type = "float", low = 0.01, high = 0.1 }'},
}
NOTE = "which takes no bounds, is fitted to the limit that is stated"


def write_rows():
    """Write 90 rows, of which those below 1e-7 are a limit, and every ninth is a range."""
    rng = np.random.default_rng(0)
    lines = ["sigma,a,b,paper"]
    for k in range(90):
        a, b = rng.normal(size=2)
        sigma = 10 ** (a + 0.3 * b - 6.5 + 0.1 * rng.normal())
        text = f"{sigma / 2:.4g}..{sigma * 2:.4g}" if k % 9 == 0 else f"{sigma:.4g}"
        lines.append(f"{text if sigma > 1e-7 else '<1e-7'},{a:.4f},{b:.4f},p{k // 3}")
    Path("mine.csv").write_text("\n".join(lines) + "\n")


def read_lines(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, warm):
    """Two finished studies of the same rows, with their reports."""
    folder = tmp_path_factory.mktemp("censored")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_rows()
        for name, fields in STUDIES.items():
            Path(f"{name}.toml").write_text(STUDY.format(**fields))
            warm.run("run", f"{name}.toml", "--workers", "1")
    return folder


@pytest.fixture
def study(folder, monkeypatch):
    """The studies' folder."""
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("study")
def test_what_becomes_of_intervals_is_said_once(capsys):
    assert main(["check", "ridge.toml"]) == 0
    assert capsys.readouterr().out.count(NOTE) == 1
    page = Page(Path("reports/ridge/report.html"))
    assert page.text.count(NOTE) == 1
    assert "Targets that are known as intervals" in page.text
    assert "half-widths and coverage are of measured rows" in page.text


@pytest.mark.usefixtures("study")
def test_predictions_have_the_bounds_that_scores_are_of():
    path = Path("reports/ridge/predictions.csv")
    lines = read_lines(path)
    open_ones = [line for line in lines if line["lower_bound"] == ""]
    assert open_ones
    assert {float(line["upper_bound"]) for line in open_ones} == {-7.0}
    assert {float(line["actual"]) for line in open_ones} == {-7.0}
    recorded = ("rmse", "mae", "r2", "spearman", "concordance")
    rows = read_predictions(path, recorded=recorded)["cv"]
    errors = [
        max(
            float(line["lower_bound"] or -math.inf) - float(line["predicted"]),
            float(line["predicted"]) - float(line["upper_bound"] or math.inf),
            0.0,
        )
        for line in lines
        if line["set"] == "cv"
    ]
    assert rows.scores["mae"] == pytest.approx(np.mean(errors))
    page = Page(Path("reports/ridge/report.html"))
    for metric, label in (("concordance", "Concordance"), ("mae", "MAE (decades)")):
        assert page.row(label)[1] == f"{rows.scores[metric]:.3f}"
    assert "triangle-left-open" in page.source
    assert "diamond-open" in page.source
    assert Path("reports/ridge/figures/parity_cv.pdf").exists()


@pytest.mark.usefixtures("study")
def test_studies_are_compared_on_what_is_known(capsys):
    assert main(["compare", "ridge", "lasso", "--json"]) == 0
    told = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    pair = told["lasso"]["paired"]["cv"]
    for name in ("rmse", "concordance"):
        assert pair[name]["value"] == pytest.approx(
            told["lasso"]["cv"][name] - told["ridge"]["cv"][name]
        )
    assert main(["compare", "ridge", "lasso"]) == 0
    out = capsys.readouterr().out
    assert f"{told['ridge']['cv']['concordance']:.3f}" in out
    assert out.count("C index") == 3  # of both sets of rows, and of the difference


@pytest.mark.usefixtures("study")
def test_a_ranking_has_intervals_of_measured_rows(capsys):
    Path("new.csv").write_text("a,b\n0.5,0.1\n-0.2,1\n")
    assert main(["rank", "ridge", "new.csv", "--coverage", "0.8"]) == 0
    rows = read_lines(Path("reports/ridge/predictions.csv"))
    measured = [
        line for line in rows if line["set"] == "cv" and line["lower_bound"] == line["upper_bound"]
    ]
    assert f"from {len(measured)} out-of-fold residuals" in capsys.readouterr().out
    card = next(Path("models").glob("ridge-*/model_card.md")).read_text()
    assert "the target is known as an interval" in card
    assert "| concordance |" in card
