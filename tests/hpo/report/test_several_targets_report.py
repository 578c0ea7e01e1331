"""A study of several targets from its file to its report, comparison and ranking."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hpo.analysis.nested_cv import pool
from hpo.analysis.predictions_csv import read_predictions
from hpo.cli import main
from hpo.objectives.metrics import METRICS
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.study.record import find
from tests.support.pages import Page
from tests.support.rankings import read_rows, write_csv

STUDY = """
trials = 2
[table]
dataset = "csv"
path = "mine.csv"
target = ["gap", "sigma, cold"]
target_unit = ["eV", "S/cm"]
log10 = [false, true]
group = "doi"
columns = ["x1", "x2"]
[cv]
scheme = "group_kfold"
folds = 3
[estimator]
name = "{name}"
[objective]
metric = "rmse"
[space]
{space}
"""
STUDIES = {
    "linear": 'alpha = { type = "float", low = 0.1, high = 10.0 }',
    "boosted": 'max_iter = { type = "int", low = 3, high = 6 }',
}
NAMES = {"linear": "ridge", "boosted": "hist_gradient_boosting"}
TARGETS = ("gap", "sigma, cold")


def row_of(rng, k):
    x1, x2 = rng.normal(size=2)
    gap, sigma = x1 + 0.1 * rng.normal(), 10 ** (x2 - x1 + 0.1 * rng.normal())
    return [
        f"{x1:.4f}",
        f"{x2:.4f}",
        f"doi {k // 3}",
        "" if k == 4 else f"{gap:.4f}",
        f"{sigma:.5g}",
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, warm):
    """Two finished studies of the same rows, with their reports."""
    folder = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        header = ["x1", "x2", "doi", *TARGETS]
        write_csv(Path("mine.csv"), header, [row_of(rng, k) for k in range(75)])
        for name, space in STUDIES.items():
            Path(f"{name}.toml").write_text(STUDY.format(name=NAMES[name], space=space))
            warm.run("run", f"{name}.toml", "--workers", "1")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_check_says_what_is_put_around_an_estimator(capsys):
    for name in STUDIES:
        assert main(["check", f"{name}.toml"]) == 0
        said = "MultiOutputRegressor is put around" in capsys.readouterr().out
        assert said == (name == "boosted")


def test_the_report_tells_of_all_and_of_each():
    page = Page(Path("reports/boosted/report.html"))
    rows = read_predictions(Path("reports/boosted/predictions.csv"), recorded=["r2", "r2_gap"])
    assert page.row("Mean: R²")[1] == f"{rows['cv'].scores['r2']:.3f}"
    assert page.row("gap (eV): R²")[1] == f"{rows['cv'].scores['r2_gap']:.3f}"
    assert page.row("Mean: RMSE (standard deviations)")
    assert page.row("log₁₀ sigma, cold (S/cm): RMSE (decades)")
    for position in (1, 2):
        for key in ("parity", "errors", "calibration", "intervals"):
            assert page.plots[f"{key}-{position}"] > 0
    assert page.plots["importance_families"] == 1
    for target in TARGETS:
        assert f"{target}: Intervals of 90 % nominal coverage" in page.text
    assert "target 'gap' '': it is missing" in page.text
    assert "MultiOutputRegressor is put around" in page.text
    assert "every fold gave the scores that the trial stored" in page.text


def test_predictions_have_two_columns_for_each_target():
    with Path("reports/linear/predictions.csv").open() as stream:
        header, *lines = csv.reader(stream)
    each = [f"{what} {name}" for name in TARGETS for what in ("actual", "predicted")]
    assert header == ["set", "id", "group", "fold", *each]
    rows = read_predictions(Path("reports/linear/predictions.csv"))
    assert rows["cv"].targets == TARGETS
    assert sum(len(of.y) for of in rows.values()) == len(lines) == 74
    assert rows["test"].y.shape == (len(rows["test"].ids), 2)


def test_studies_are_compared_target_by_target(capsys):
    assert main(["compare", "linear", "boosted", "--json"]) == 0
    told = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    pair = told["boosted"]["paired"]["cv"]
    for target in TARGETS:
        both = [told[name]["cv"][f"r2_{target}"] for name in ("boosted", "linear")]
        assert pair[f"r2_{target}"]["value"] == pytest.approx(both[0] - both[1])
    assert main(["compare", "linear", "boosted"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # No table has errors in two units: the means over targets, and each of them.
    of_each = ["gap (eV): RMSE and MAE in eV", "log₁₀ sigma, cold (S/cm): RMSE and MAE in decades"]
    of_all = "means over gap (eV), log₁₀ sigma, cold (S/cm): RMSE and MAE in standard deviations"
    assert [line for line in lines if ": RMSE and MAE in" in line] == [of_all, *of_each, *of_each]
    for title, target in zip(of_each, TARGETS, strict=True):
        row = lines[lines.index(title) + 2].split()
        assert (row[0], row[3]) == ("linear", f"{told['linear']['cv'][f'rmse_{target}']:.3f}")
    page = Page(Path("reports/comparison.html"))
    for position in (1, 2):
        for key in ("parity_cv", "errors", "differences"):
            assert page.plots[f"{key}-{position}"] > 0
    assert main(["compare", "linear", "boosted", "--threshold", "1"]) == 2
    assert "hpo rank --by" in capsys.readouterr().err


def test_candidates_have_an_interval_for_each_and_are_ranked_by_one(capsys):
    write_csv(Path("new.csv"), ["x1", "x2"], [[0.5, -0.5], [-0.5, 0.5], [0.0, "x"]])
    best = {}
    for by in (None, *TARGETS):
        options = [] if by is None else ["--by", by]
        assert main(["rank", "linear", "new.csv", *options, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["target"]["name"] == (by or "gap")
        assert set(told["calibration_of_targets"]) == {*TARGETS}
        lines = read_rows(Path("linear_ranked.csv"))
        best[by] = lines[0]["line"]
        for line in lines[:2]:
            for target in TARGETS:
                ends = [float(line[f"{n}_{target}"]) for n in ("lower", "prediction", "upper")]
                assert ends == sorted(ends)
        assert lines[2]["prediction_gap"] == ""
    assert best == {None: "2", "gap": "2", "sigma, cold": "3"}
    assert main(["rank", "linear", "new.csv", "--by", "density"]) == 2
    assert "--by density: is no target" in capsys.readouterr().err
    (card,) = Path("models").glob("linear-*/model_card.md")
    for target in ("gap in eV", "log10 of sigma, cold in S/cm"):
        assert f"- Predicts: {target}" in card.read_text()


def test_nested_cross_validation_pools_each_target():
    storage = open_storage("sqlite:///hpo.db", Access.READ)
    pooled = pool([find(storage, "linear")])
    assert {*pooled.scores} == {
        *METRICS,
        *(f"{name}_{target}" for name in METRICS for target in TARGETS),
    }
    assert pooled.scores["r2"] == pytest.approx(
        np.mean([pooled.of_target(k).scores["r2"] for k in range(2)])
    )
    scaled = [pooled.of_target(k).scores["rmse"] / pooled.y[:, k].std() for k in range(2)]
    assert pooled.scores["rmse"] == pytest.approx(np.mean(scaled))
