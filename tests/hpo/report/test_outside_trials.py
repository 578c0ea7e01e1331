"""Pages of studies to which somebody has added trials by Optuna alone."""

from __future__ import annotations

import pytest

from hpo.analysis.comparison.studies import compare_study
from hpo.report.study_page import write_report


@pytest.mark.slow
@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize(
    ("name", "page_says", "remark"),
    [
        ("alpha", "stored no scores of folds", "the best trial was chosen among all of them"),
        ("zeta", "not in [space] (zeta), and was not fitted again", "is from outside, with zeta"),
    ],
)
def test_the_best_trial_may_be_from_outside(name, page_says, remark, reports, run, tmp_path):
    record = run(trials=3)
    study = record.optuna_study()
    trial = study.ask()
    trial.suggest_float(name, 1e-3, 10.0, log=True)
    if reports:
        trial.report(0.5, 0)
        trial.report(0.6, 1)
    study.tell(trial, -1.0)
    page = write_report(record, tmp_path / "reports").read_text()
    assert "3 of 3 trials and 1 from outside" in page
    assert page_says in page
    row = compare_study(record)
    assert row.state == "3 of 3 trials and 1 from outside"
    assert (row.trial, row.score) == (3, -1.0)
    assert remark in row.remark
