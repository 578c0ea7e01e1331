"""Intervals from three quantile studies, as a user gets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpo.analysis.conformal import calibrate_quantiles, cross_calibrate_quantiles, join_predictions
from hpo.analysis.quantile_studies import join_studies
from hpo.cli import main
from hpo.errors import HpoError
from hpo.records import WorkerRun
from hpo.report.intervals_page import write_intervals
from hpo.report.study_page import write_report
from hpo.worker.worker import Worker

GROUPED = {"scheme": "group_kfold", "folds": 4}
SMALL = {"name": "hist_gradient_boosting", "params": {"max_iter": 15, "min_samples_leaf": 5}}


@pytest.fixture
def quantile_study(begin_study, tmp_path):
    """Run a study of one quantile, with its report."""

    def run(level, name=None, reports=tmp_path, **changes):
        settings = {"cv": GROUPED, "estimator": SMALL, "space": {}, "trials": 1, **changes}
        objective = {"name": "quantile", "level": level}
        record = begin_study(name=name or f"q{level}", objective=objective, **settings)
        Worker(record, record.open_objective()[1], f"of {record.name}").run(WorkerRun("here", 1))
        write_report(record, reports)
        return record

    return run


@pytest.mark.slow
def test_three_studies_are_one_interval(quantile_study, tmp_path):
    low, high, median = (quantile_study(level) for level in (0.05, 0.95, 0.5))
    three = join_studies([median, high, low], tmp_path)
    assert three.names == ("q0.05", "q0.5", "q0.95")
    assert three.coverage == 0.9
    held_out = join_predictions(*three.rows["cv"])
    made = three.calibrated()
    assert made.cv is not None
    assert made.test is not None
    np.testing.assert_array_equal(made.cv.upper, cross_calibrate_quantiles(held_out, 0.9).upper)
    new = join_predictions(*three.rows["test"]).predicted
    np.testing.assert_array_equal(made.test.lower, calibrate_quantiles(held_out, new, 0.9).lower)
    raw = three.raw()
    assert raw.test is not None
    np.testing.assert_array_equal(raw.test.lower, np.sort(new, axis=1)[:, 0])
    assert three.crossed("test") == np.mean((np.diff(new, axis=1) < 0).any(axis=1))
    by_group = join_studies([low, median, high], tmp_path, by_group=True).calibrated()
    assert by_group.test is not None
    assert not np.array_equal(by_group.test.lower, made.test.lower)

    page = write_intervals(three, median.read_table(), tmp_path / "intervals.html")
    text = page.read_text(encoding="utf-8")
    assert "q0.05 (0.05), q0.5 (0.5), q0.95 (0.95)" in text
    assert "conformalised" in text
    assert {path.name for path in (tmp_path / "intervals_figures").glob("*.png")} == {
        "intervals_cv.png",
        "intervals_test.png",
        "calibration.png",
    }


@pytest.mark.slow
def test_what_makes_no_interval_is_said(quantile_study, begin_study, tmp_path):
    low, median, high = (quantile_study(level) for level in (0.05, 0.5, 0.95))
    value = begin_study(name="value", trials=1)
    with pytest.raises(HpoError, match="'value': its objective is penalised_cv; intervals are"):
        join_studies([low, value, high], tmp_path)
    with pytest.raises(HpoError, match="of 3 studies two predict the same quantile"):
        join_studies([low, low, high], tmp_path)
    narrow = [quantile_study(level) for level in (0.4, 0.6)]
    with pytest.raises(HpoError, match=r"levels 0\.4 and 0\.6: .* would hold 0\.2 of the rows"):
        join_studies([narrow[0], median, narrow[1]], tmp_path)
    other = quantile_study(0.95, "other-folds", cv={**GROUPED, "folds": 5})
    with pytest.raises(HpoError, match="differ in their fold: studies of several quantiles"):
        join_studies([low, median, other], tmp_path).calibrated()
    (tmp_path / "q0.5" / "predictions.csv").unlink()
    with pytest.raises(HpoError, match=r"'q0\.5': no predictions\.csv .* hpo report q0\.5"):
        join_studies([low, median, high], tmp_path)
    unfinished = begin_study(
        name="unfinished", objective={"name": "quantile", "level": 0.5}, estimator=SMALL
    )
    with pytest.raises(HpoError, match="'unfinished': 0 of 6 trials finished; go on with"):
        join_studies([low, unfinished, high], tmp_path)


@pytest.mark.slow
def test_the_command_prints_coverage_and_width(quantile_study, tmp_path, capsys, monkeypatch):
    records = [quantile_study(level) for level in (0.05, 0.5, 0.95)]
    url = records[0].storage.engine.url.render_as_string(hide_password=False)
    monkeypatch.chdir(tmp_path)
    names = [record.name for record in records]
    shared = ("--storage", url, "--reports", str(tmp_path))
    assert main(["intervals", *names, *shared]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == [
        "rows",
        "of",
        "intervals",
        "rows",
        "coverage",
        "mean",
        "width",
        "(eV)",
    ]
    assert [line.split()[-3] for line in said[1:5]] == ["80", "80", "20", "20"]
    assert said[5] == f"intervals: {tmp_path / 'intervals.html'}"
    assert Path(tmp_path / "intervals.html").is_file()
    assert main(["intervals", *names, *shared, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["coverage"] == 0.9
    assert told["cv"]["calibrated"]["n_rows"] == 80
    assert set(told["test"]["calibrated"]["families"]) == {"oxide"}
    assert told["test"]["calibrated"]["mean_width"] == pytest.approx(
        float(said[4].split()[-1]), abs=5e-4
    )
