"""Studies whose objectives tell no predictions: their totals, baselines, and parts in pairs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpo.analysis.comparison.parts import pair_parts, part_cells, part_remarks
from hpo.analysis.comparison.studies import compare_study
from hpo.commands.results.compare import print_comparison
from hpo.records import WorkerRun
from hpo.report.comparison_tables import score_cells
from hpo.study.status import take_status
from hpo.tracking.rows import told_rows
from hpo.worker.worker import Worker
from tests.support.ledgers import begin_without_table


@pytest.fixture
def run(storage, tmp_path):
    """Run a study of `Prepared` that tries one value of alpha."""

    def run(name: str, alpha: float, objective="tests.support.prepared:Prepared", **params: Any):
        record = begin_without_table(
            str(storage.engine.url),
            name=name,
            trials=1,
            objective={"name": objective, "params": params},
            space={"alpha": {"type": "categorical", "choices": [alpha]}},
        )
        made = record.open_objective()[1]
        Worker(record, made, name, trial_dirs=tmp_path / name / "trials").run(WorkerRun("here", 1))
        return record

    return run


def test_totals_stand_beside_the_baseline_and_parts_are_paired(run, tmp_path, capsys):
    records = [run("near", 2.0), run("far", 6.0)]
    rows = [compare_study(record) for record in records]
    table = score_cells(rows, {})
    assert table[0] == ["study", "score", "mean distance (m)", "share"]
    assert table[1:4] == [
        ["near", "2", "1.41", "33%"],
        ["  baseline", "10", "3.16", "9%"],
        ["  difference", "-8", "-1.75", "+24%"],
    ]
    (pair,) = pair_parts(records, rows, "near")
    (score,) = pair.scores
    assert (score.name, score.n_parts) == ("score", 3)
    assert score.difference == pytest.approx(24.0)
    assert score.interval == pytest.approx((24.0, 24.0))
    assert part_cells([pair])[1] == ["far", "3", "score", "+24", "24 to 24"]
    print_comparison(records, reports_dir=tmp_path, as_json=True)
    near, far = json.loads(capsys.readouterr().out)
    assert near["parts"] is None
    assert near["baseline"]["score"] == 10.0
    assert near["totals"]["mean"] == {"label": "mean distance", "unit": "m", "format": ".2f"}
    assert far["parts"]["scores"][0]["difference"] == pytest.approx(24.0)
    print_comparison(records, reports_dir=tmp_path)
    assert "means over parts less those of near" in capsys.readouterr().out
    assert "Differences over parts" in (tmp_path / "comparison.html").read_text()


def test_studies_with_other_parts_are_not_paired(run):
    records = [run("one", 2.0), run("other", 2.0, "tests.support.objectives:Parabola")]
    rows = [compare_study(record) for record in records]
    pairs = pair_parts(records, rows, "one")
    assert part_remarks(pairs) == ["other: other parts than one"]
    assert part_cells(pairs) == []
    assert pair_parts(records, rows, "none") == []


def test_the_summary_of_a_run_has_totals_and_baseline(run):
    rows = told_rows(take_status(run("near", 2.0)))
    assert rows == {
        "best/mean distance (m)": pytest.approx(2.0**0.5),
        "best/share": pytest.approx(1 / 3),
        "baseline/hparams/alpha": 4.0,
        "baseline/score": 10.0,
        "baseline/mean distance (m)": pytest.approx(10.0**0.5),
        "baseline/share": pytest.approx(1 / 11),
    }
