"""A study of classes from its file to its report, a nested search, a comparison and a ranking."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hpo.analysis.predictions_csv import read_predictions
from hpo.cli import main
from tests.support.pages import Page

STUDY = """
trials = 3
[table]
dataset = "csv"
path = "mine.csv"
target = "phase"
task = "classification"
families = ["ratios"]
[cv]
scheme = "group_kfold"
folds = 3
[estimator]
name = "{estimator}"
[objective]
{objective}
[space]
{space}
"""
TREES = {
    "estimator": "extra_trees",
    "objective": 'scoring = "balanced_accuracy"',
    "space": 'n_estimators = { type = "int", low = 5, high = 9 }',
}
LOGISTIC = {
    "estimator": "LogisticRegression",
    "objective": "penalty = 0.0",
    "space": 'C = { type = "float", low = 0.1, high = 10.0, log = true }',
}
ELEMENTS = ("Na", "K", "Rb", "Mg", "Ca", "Al", "Ga")
LABELS = {2: ("glass", "melt"), 3: ("crystal", "glass", "melt")}


def write_rows(n_classes):
    """Write 105 formulas whose share of lithium says their phase, one in seven wrongly."""
    rng = np.random.default_rng(0)
    lines = ["formula,phase"]
    for k in range(105):
        share = rng.integers(1, 9)
        place = min(n_classes - 1, (share - 1) * n_classes // 8)
        if k % 7 == 0:
            place = rng.integers(n_classes)
        lines.append(f"Li{share}{ELEMENTS[k % 7]}O{k // 7 + 1},{LABELS[n_classes][place]}")
    Path("mine.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module", params=[2, 3])
def folder(request, tmp_path_factory, warm):
    """Two finished studies of the same rows, with their reports."""
    folder = tmp_path_factory.mktemp("classes")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_rows(request.param)
        for name, fields in (("trees", TREES), ("logistic", LOGISTIC)):
            Path(f"{name}.toml").write_text(STUDY.format(**fields))
            warm.run("run", f"{name}.toml", "--workers", "1")
    return folder, LABELS[request.param]


@pytest.fixture
def labels(folder, monkeypatch):
    """The classes, in the studies' folder."""
    monkeypatch.chdir(folder[0])
    return folder[1]


def test_the_report_has_scores_figures_and_sets_of_classes(labels):
    page = Page(Path("reports/trees/report.html"))
    rows = read_predictions(Path("reports/trees/predictions.csv"), recorded=["roc_auc"])
    assert page.row("ROC AUC")[1] == f"{rows['cv'].scores['roc_auc']:.3f}"
    assert page.row("ROC AUC")[4] == "0.500"  # the shares of the classes alone
    wanted = ("roc", "precision_recall", "confusion", "reliability")
    assert [page.plots[key] for key in wanted] == [2] * 4
    assert page.plots["importance_families"] == 1
    for label in labels:
        assert page.row(label)[0] == label
    assert "prediction sets of 90 % nominal coverage" in page.text
    assert "Brier score" in page.text
    files = {path.name for path in Path("reports/trees/figures").iterdir()}
    assert {
        f"{key}_cv{suffix}" for key in ("roc", "confusion") for suffix in (".png", ".pdf")
    } < files
    said = page.text
    assert ("above 0.5, the threshold" if len(labels) == 2 else "the most probable class") in said


def test_predictions_are_labels_with_the_probability_of_each(labels):
    with Path("reports/trees/predictions.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    for line in lines:
        probabilities = [float(line[f"probability {label}"]) for label in labels]
        assert sum(probabilities) == pytest.approx(1.0)
        assert line["predicted"] == labels[int(np.argmax(probabilities))]
        assert line["actual"] in labels
    rows = read_predictions(Path("reports/trees/predictions.csv"), recorded=["roc_auc"])["cv"]
    binary = len(labels) == 2
    expected = np.mean(
        [roc_auc_score(rows.y == k, rows.predicted[:, k]) for k in ([1] if binary else range(3))]
    )
    assert rows.scores["roc_auc"] == pytest.approx(expected)


@pytest.mark.parametrize("folder", [2], indirect=True)
def test_an_unsaid_scoring_is_the_log_loss_and_is_stored(labels, capsys, warm):
    assert main(["show", "logistic"]) == 0
    assert 'scoring = "neg_log_loss"' in capsys.readouterr().out
    resumed = warm.run("resume", "logistic", "--trials", "4", "--workers", "1")
    assert "4 of 4 trials" in resumed.stdout


def test_studies_of_classes_are_compared_on_the_same_rows(labels, capsys):
    assert main(["compare", "trees", "logistic", "--json"]) == 0
    told = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    pair = told["logistic"]["paired"]["cv"]
    assert pair["roc_auc"]["value"] == pytest.approx(
        told["logistic"]["cv"]["roc_auc"] - told["trees"]["cv"]["roc_auc"]
    )
    low, high = pair["roc_auc"]["group"]
    assert low <= pair["roc_auc"]["value"] <= high
    assert main(["compare", "trees", "logistic"]) == 0
    text = capsys.readouterr().out
    assert "CV bal. acc." in text
    assert "CV R2" not in text
    page = Page(Path("reports/comparison.html"))
    assert "Matthews correlation" in page.source


@pytest.mark.parametrize("wanted", [None, "glass"])
def test_candidates_are_ranked_by_the_probability_of_a_class(labels, capsys, wanted):
    Path("new.csv").write_text("formula\nLi8NaO2\nLi1KO4\nLi4CaO3\nQq\n")
    options = [] if wanted is None else ["--class", wanted]
    assert main(["rank", "trees", "new.csv", *options, "--coverage", "0.8"]) == 0
    shown = wanted or labels[-1]
    assert f"ranked by the probability of phase '{shown}'" in capsys.readouterr().out
    with Path("trees_ranked.csv").open() as stream:
        *ranked, unread = list(csv.DictReader(stream))
    probabilities = [float(line[f"probability {shown}"]) for line in ranked]
    assert probabilities == sorted(probabilities, reverse=True)
    for line in ranked:
        each = np.array([float(line[f"probability {label}"]) for label in labels])
        assert line["class"] == labels[each.argmax()]
        logs = np.log2(each, where=each > 0, out=np.zeros_like(each))
        assert float(line["entropy_bits"]) == pytest.approx(-(each * logs).sum(), abs=1e-9)
        assert set(filter(None, line["set"].split(" | "))) <= {*labels}
    assert unread["rank"] == unread["set"] == ""
    card = next(Path("models").glob("trees-*/model_card.md")).read_text()
    assert all(f"{place}: {label}" in card for place, label in enumerate(labels))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--class", "gas"], "no class of the target"),
        (["--threshold", "1"], "is for numbers, and the target has classes"),
    ],
)
def test_what_a_ranking_of_classes_refuses(labels, capsys, options, reason):
    Path("new.csv").write_text("formula\nLi8NaO2\n")
    assert main(["rank", "trees", "new.csv", *options]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("folder", [2], indirect=True)
def test_a_nested_search_scores_classes(labels, warm):
    said = warm.run("nested", "logistic.toml", "--trials", "1", "--workers", "1").stdout
    assert "Balanced accuracy" in said
