"""Differences between studies: whose predictions count, on which rows, and the page of it all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hpo.analysis.best_model import Predictions
from hpo.analysis.bootstrap import paired_differences
from hpo.analysis.comparison.differences import (
    ScoredStudy,
    difference_cells,
    find_differences,
    read_study,
    remarks,
)
from hpo.analysis.comparison.studies import Row, compare_study
from hpo.analysis.discovery_metrics import auc, precision_at_top
from hpo.analysis.predictions_csv import read_predictions
from hpo.cli import main
from hpo.errors import HpoError
from hpo.objectives.metrics import METRICS, RANK_METRICS, score_all
from hpo.records import WorkerRun
from hpo.report.comparison_page import write_comparison
from hpo.report.figures.comparison import MAX_DRAWN, comparison_figures, styles, wrap
from hpo.report.study_page import write_report
from hpo.storage.events import EventKind
from hpo.worker.worker import Worker, new_worker_id
from tests.support.pages import Page

FIGURES = ("parity_cv", "parity_test", "overlay_cv", "overlay_test", "errors", "differences")


@pytest.fixture
def finish(begin_study, tmp_path):
    """Finish a study of one trial and write its report."""

    def finish_with(name, alpha=1.0, **fields):
        estimator = fields.pop("estimator", {"name": "ridge", "params": {"alpha": alpha}})
        record = begin_study(name=name, trials=1, space={}, estimator=estimator, **fields)
        Worker(record, record.open_objective()[1], new_worker_id()).run(WorkerRun("here", 1))
        write_report(record, tmp_path)
        return record

    return finish_with


def study(name, n_rows=30, seed=0, noise=1.0, ids="row", metrics=METRICS) -> ScoredStudy:
    """A study with made-up predictions of rows that do not depend on `noise`."""
    rows = {}
    for of, seed_of in (("cv", seed), ("test", seed + 1)):
        rng = np.random.default_rng(seed_of)
        y = rng.normal(size=n_rows)
        predicted = y + noise * rng.normal(size=n_rows)
        names = np.array([f"{ids} {of} {k}" for k in range(n_rows)])
        groups, fold = np.array([f"g{k // 3}" for k in range(n_rows)]), np.arange(n_rows) % 3
        scores = score_all(y, predicted, metrics)
        rows[of] = Predictions(names, y, predicted, groups, fold, scores, {}, {})
    scored = Row(name, "1 of 1 trials", cv=rows["cv"].scores, test=rows["test"].scores)
    return ScoredStudy(scored, rows)


# Predictions ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_predictions_are_taken_if_they_give_the_scores_of_the_look(finish, tmp_path):
    record = finish("one")
    row = compare_study(record)
    found = read_study(row, tmp_path / "one")
    assert found.remark == ""
    assert found.predicts_value
    for of, scores in (("cv", row.cv), ("test", row.test)):
        assert found.rows[of].scores == pytest.approx(dict(scores), rel=1e-12)
    assert found.rows["cv"].fold.min() == 0
    assert set(found.rows["test"].fold) == {-1}

    path = tmp_path / "one" / "predictions.csv"
    whole = path.read_text()
    lines = whole.splitlines()
    cells = lines[1].split(",")
    changed = ",".join([*cells[:-1], str(float(cells[-1]) + 1e-4)])
    for text, of in (
        (whole.replace(lines[1], changed), "CV"),
        ("\n".join(line for line in lines if not line.startswith("test")), "test"),
    ):
        path.write_text(text)
        found = read_study(row, tmp_path / "one")
        assert found.rows == {}
        assert found.remark.endswith(
            f"does not give the {of} scores that the study recorded; write it again: hpo report one"
        )
    for text in ("", "a,b\n1,2\n", whole.replace(",0,", ",x,", 1)):
        path.write_text(text)
        with pytest.raises(HpoError, match=r"predictions\.csv: no predictions of ours"):
            read_predictions(path)
        assert "write it again: hpo report one" in read_study(row, tmp_path / "one").remark
    path.unlink()
    assert read_study(row, tmp_path / "one").remark.startswith("no predictions.csv in ")


def test_scores_that_only_rank_are_compared_by_their_rank_alone():
    ranker, model = study("ranker", metrics=RANK_METRICS, noise=2.0), study("model")
    assert not ranker.predicts_value
    (cv, _) = find_differences([model, ranker], "model")
    assert [*cv.metrics] == ["spearman"]
    (line, by_group) = difference_cells([cv])[1:]
    assert line[4:10] == ["-", "", "-", "", "-", ""]
    assert line[10] == f"{cv.metrics['spearman'].value:+.3f}"
    assert by_group[:4] == ["", "", "", "by group"]
    figures = comparison_figures([model, ranker], [cv], "y", "eV")
    parity = next(figure for figure in figures if figure.key == "parity_cv")
    assert [panel.name for panel in parity.panels] == ["model"]
    assert [panel.name for panel in figures[-1].panels] == ["spearman"]


# Pairs ----------------------------------------------------------------------------------------


def test_differences_are_those_of_rows_that_both_predict_whatever_their_order():
    one, two = study("one"), study("two", noise=0.3)
    order = np.random.default_rng(0).permutation(30)[:25]
    cv = two.rows["cv"]
    ids, groups = cv.ids[order], cv.groups[order]
    y, predicted, fold = cv.y[order], cv.predicted[order], cv.fold[order]
    mixed = Predictions(ids, y, predicted, groups, fold, cv.scores, {}, {})
    two = replace(two, rows={**two.rows, "cv": mixed})
    pairs = find_differences([one, study("three", noise=0.5), two], "one")
    assert [(pair.name, pair.of, pair.n_rows) for pair in pairs] == [
        ("three", "cv", 30),
        ("three", "test", 30),
        ("two", "cv", 25),
        ("two", "test", 30),
    ]
    kept, y = np.sort(order), one.rows["cv"].y
    mine, theirs = one.rows["cv"].predicted[kept], cv.predicted[kept]
    (expected,) = paired_differences(y[kept], mine, [theirs], one.rows["cv"].groups[kept])
    assert dict(pairs[2].metrics) == expected
    for name, found in expected.items():
        assert found.value == pytest.approx(
            METRICS[name](y[kept], theirs) - METRICS[name](y[kept], mine)
        )
    with pytest.raises(HpoError, match=r"--against four: is not among .*: one, two"):
        find_differences([one, two], "four")


def test_rows_that_do_not_match_are_a_remark():
    one = study("one")
    longer, other = study("longer", n_rows=33), study("other", ids="sample")
    moved = study("moved", seed=5)
    silent = ScoredStudy(Row("silent", "", remark="no trial has finished"))
    pairs = find_differences([one, longer, other, moved, silent], "one")
    assert all(pair.metrics == {} for pair in pairs if pair.name != "longer")
    found = {(pair.name, pair.of): pair.remark for pair in pairs}
    assert found["other", "cv"] == "no rows that one validates, too"
    assert found["other", "test"] == "other held-out rows than one"
    assert found["longer", "test"] == "other held-out rows than one"
    assert found["moved", "cv"] == "other measured values than one for the same rows"
    assert found["silent", "cv"] == "no CV predictions of silent: no trial has finished"
    said = remarks([one, longer, other, moved, silent], pairs)
    assert "longer, test: other held-out rows than one" in said
    assert not [line for line in said if "silent" in line]


# Figures --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plots_of_all_studies_have_identical_axes_and_many_are_said_to_be_many():
    studies = [study(f"s{k}", noise=0.2 * (k + 1)) for k in range(MAX_DRAWN + 2)]
    pairs = find_differences(studies, "s0")
    figures = {figure.key: figure for figure in comparison_figures(studies, pairs, "y", "eV")}
    assert tuple(figures) == FIGURES
    axes = {
        (tuple(panel.figure.layout.xaxis.range), tuple(panel.figure.layout.yaxis.range))
        for key in FIGURES[:4]
        for panel in figures[key].panels
    }
    assert len(axes) == 1
    for key, n_panels in zip(FIGURES, (6, 6, 5, 5, 2, 4), strict=True):
        assert len(figures[key].panels) == n_panels, key
    assert "The first 6 of 8 studies are drawn." in figures["parity_cv"].caption
    assert "The first 6 of 8 studies are drawn." in figures["overlay_test"].caption
    for panel in figures["errors"].panels:
        looks = {(trace.line.color, trace.line.dash) for trace in panel.figure.data}
        assert len(looks) == len(panel.figure.data) == 8
    ends = {tuple(panel.figure.layout.xaxis.range) for panel in figures["errors"].panels}
    assert len(ends) == 1
    assert len({*styles(30)}) == 30


def test_the_forest_shows_every_difference_with_its_interval_by_group():
    studies = [study("one"), study("two", noise=0.5), study("three", noise=0.7)]
    pairs = find_differences(studies, "one")
    panels = comparison_figures(studies, pairs, "y", "eV")[-1].panels
    assert [panel.name for panel in panels] == ["r2", "rmse", "mae", "spearman"]
    _, cv, test = panels[1].figure.data
    for trace, of in ((cv, "cv"), (test, "test")):
        mine = [pair.metrics["rmse"] for pair in pairs if pair.of == of]
        assert list(trace.x) == [found.value for found in mine]
        ups = [x + up for x, up in zip(trace.x, trace.error_x.array, strict=True)]
        assert ups == pytest.approx([found.group[1] for found in mine])
        downs = [x - down for x, down in zip(trace.x, trace.error_x.arrayminus, strict=True)]
        assert downs == pytest.approx([found.group[0] for found in mine])
    assert panels[1].figure.layout.xaxis.title.text == "difference in RMSE (eV)"
    assert list(panels[1].figure.layout.yaxis.ticktext) == ["two", "three"]


def test_long_names_are_broken_where_their_words_end():
    assert wrap("short") == "short"
    lines = wrap("stage2_double_model_residual_geometry_fixed").split("<br>")
    assert lines == ["stage2_double_model_", "residual_geometry_", "fixed"]
    assert wrap("x" * 50) == "x" * 50


# The command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_differences_and_writes_a_page_without_a_look(
    finish, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    records = [finish(name, alpha) for name, alpha in (("a", 1.0), ("b", 300.0), ("c", 30.0))]
    looks = [record.ledger.events(EventKind.TEST_EVALUATION) for record in records]
    base = ("compare", "a", "b", "c", "--reports", ".")

    assert main(base) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "comparison: comparison.html"
    start = out.index("differences to a, with paired 95 % bootstrap intervals")
    table = [line.split() for line in out[start:].splitlines()[1:-1]]
    assert [line[:3] for line in table[1::2]] == [
        [name, of, n] for name in "bc" for of, n in (("CV", "80"), ("test", "20"))
    ]
    assert all(line[:2] == ["by", "group"] for line in table[2::2])
    page = Page(tmp_path / "comparison.html")
    assert tuple(page.plots) == FIGURES
    assert (page.plots["parity_cv"], page.plots["overlay_test"]) == (3, 2)
    assert page.row("b")[1] == "4"
    assert all(link.startswith("#") for link in page.links)
    files = {path.name for path in (tmp_path / "comparison_figures").iterdir()}
    assert files == {f"{key}.{kind}" for key in FIGURES for kind in ("pdf", "png", "svg")}

    assert main((*base, "--json", "--against", "b", "--output", "else/where.html")) == 0
    printed = capsys.readouterr()
    assert "else/where.html" in printed.err
    assert (tmp_path / "else" / "where_figures" / "parity_cv.svg").is_file()
    rows = {row["name"]: row for row in json.loads(printed.out)}
    assert rows["b"]["paired"] is None
    found = rows["a"]["paired"]["test"]
    assert (found["against"], found["n_rows"]) == ("b", 20)
    expected = rows["a"]["test"]["r2"] - rows["b"]["test"]["r2"]
    assert found["r2"]["value"] == pytest.approx(expected)
    for kind in ("row", "group"):
        low, high = found["r2"][kind]
        assert low <= found["r2"]["value"] <= high

    assert main((*base, "--against", "d")) == 2
    assert "--against d: is not among the studies" in capsys.readouterr().err
    assert [record.ledger.events(EventKind.TEST_EVALUATION) for record in records] == looks


@pytest.mark.slow
def test_studies_without_predictions_are_still_a_page(finish, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish("a")
    finish("b", 300.0)
    (tmp_path / "b" / "predictions.csv").unlink()
    assert main(("compare", "a", "b", "--reports", ".")) == 0
    out = capsys.readouterr().out
    assert "b: no predictions.csv in b; write it again: hpo report b" in out
    assert "differences to" not in out
    page = Page(tmp_path / "comparison.html")
    assert "b: no predictions.csv in b; write it again: hpo report b" in page.text
    assert "overlay_cv" not in page.plots
    assert page.plots["parity_cv"] == 1
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(HpoError, match="cannot be written"):
        write_comparison([study("one")], [], {}, blocked / "page.html", {})


# Ranking value ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_ranking_finds_above_a_threshold_is_told_of_both_sets(finish, tmp_path, capsys):
    good, _ = finish("good"), finish("flat", alpha=1e6)
    url = good.storage.engine.url.render_as_string(hide_password=False)
    shared = ("--storage", url, "--reports", str(tmp_path), "--threshold", "0.5")
    assert main(["compare", "good", "flat", "--json", *shared]) == 0
    told = {row["name"]: row["ranking_value"] for row in json.loads(capsys.readouterr().out)}
    rows = read_predictions(tmp_path / "good" / "predictions.csv")
    for of in ("cv", "test"):
        above = rows[of].y > 0.5
        value = told["good"][of]
        assert value["auc"] == auc(above, rows[of].predicted)
        assert value["chance"] == above.mean()
        assert value["precision_at_top_10_percent"] == precision_at_top(above, rows[of].predicted)
        low, high = value["by_group"]["auc"]
        assert low <= value["auc"] <= high
    assert told["good"]["cv"]["auc"] > 0.8

    assert main(["compare", "good", *shared]) == 0
    said = capsys.readouterr().out
    assert "how well values above 0.5 are found" in said
    assert "What the rankings find" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    # All on one side: there is nothing to find.
    assert main(["compare", "good", *shared[:-1], "99"]) == 0
    assert "are found" not in capsys.readouterr().out
