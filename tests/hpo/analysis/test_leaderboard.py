"""Scores from outside against those that studies search by."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress, t

from hpo.analysis.comparison.leaderboard import Point, describe_line, fit_line
from hpo.analysis.comparison.reported import read_reported_file
from hpo.analysis.comparison.studies import compare_study, find_outside
from hpo.cli import main
from hpo.errors import HpoError
from hpo.records import WorkerRun
from hpo.worker.worker import Worker

LOG = """
[external]
name = "leaderboard"
target = 7.0
measured = {{ {measured} }}
[[experiment]]
name = "first"
studies = ["one"]
source = "log"
scores = {{ score = 2.0, half = 1.5 }}
external = 5.1
[[experiment]]
name = "second"
source = "log"
scores = {{ score = 3.0 }}
external = 6.8
[[experiment]]
name = "third"
source = "log"
scores = {{ score = 4.0 }}
external = 9.2
[[experiment]]
name = "never submitted"
source = "log"
scores = {{ score = 9.0 }}
"""
STUDY = """
trials = 2
[objective]
name = "tests.support.objectives:Slope"
[space]
alpha = { type = "float", low = 1.0, high = 3.0 }
"""


def points_of(x, y):
    return [Point(f"p{k}", *pair) for k, pair in enumerate(zip(x, y, strict=True))]


def line_of(seed, n=8, noise=0.3):
    stream = np.random.default_rng(seed)
    x = stream.uniform(1.0, 2.0, n)
    y = 2.5 * x + 1.0 + noise * stream.normal(size=n)
    return x, y, fit_line(points_of(x.tolist(), y.tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_a_line_is_that_of_scipy(seed):
    x, y, line = line_of(seed)
    found = linregress(x, y)
    assert line.slope == pytest.approx(found.slope)
    assert line.intercept == pytest.approx(found.intercept)
    assert line.r2 == pytest.approx(found.rvalue**2)
    assert line.slope_error == pytest.approx(found.stderr)
    assert line.intercept_error == pytest.approx(found.intercept_stderr)
    low, high = line.slope_interval
    assert high - low == pytest.approx(2 * t.ppf(0.975, 6) * found.stderr)


def test_the_interval_of_a_prediction_holds_19_of_20_new_measurements():
    stream = np.random.default_rng(1)
    held = 0
    for seed in range(400):
        _, _, line = line_of(seed)
        new = stream.uniform(1.0, 2.0)
        low, high = line.predict(new)[1]
        held += low <= 2.5 * new + 1.0 + 0.3 * stream.normal() <= high
    assert 0.92 < held / 400 < 0.98


def test_the_score_for_a_target_is_where_the_line_and_its_band_reach_it():
    _, _, line = line_of(0)
    score, interval = line.invert(4.0)
    assert line.intercept + line.slope * score == pytest.approx(4.0)
    assert interval is not None
    assert interval[0] < score < interval[1]
    for end in interval:
        apart = (end - line.mean) ** 2 / line.squares
        half = t.ppf(0.975, 6) * line.residual * math.sqrt(1.0 / line.n + apart)
        assert abs(line.intercept + line.slope * end - 4.0) == pytest.approx(half)


def test_without_a_slope_no_score_is_known():
    line = fit_line(points_of([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 1.0, 2.5]))
    assert line.invert(5.0)[1] is None
    assert "without bounds: the slope may be 0" in describe_line(line, "outside", 5.0)[2]


def test_what_lies_beyond_the_fitted_scores_is_said():
    line = fit_line(points_of([1.0, 2.0, 3.0], [3.1, 5.0, 7.1]))
    within = describe_line(line, "outside", 5.0)
    assert len(within) == 3
    assert not any("extrapolation" in text for text in within)
    assert line.beyond(2.9) == 0.0
    assert line.beyond(0.0) == pytest.approx(0.5)
    assert line.beyond(5.0) == pytest.approx(1.0)
    beyond = describe_line(line, "outside", 9.0)
    assert "extrapolation" in beyond[-1]
    assert "another sign" in describe_line(line, "outside", 0.0)[-1]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least 3 experiments with both scores, there are 2"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "all of them are the same"),
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], "all of them are the same"),
    ],
)
def test_too_little_for_a_line_is_said(x, y, message):
    with pytest.raises(HpoError, match=message):
        fit_line(points_of(x, y))


def write_log(measured=""):
    Path("family").mkdir(exist_ok=True)
    path = Path("family/reported.toml")
    path.write_text(LOG.format(measured=measured))
    return path


def test_a_log_alone_has_a_line(hpo, capsys):
    path = write_log()
    assert main(["compare", "--reported", str(path)]) == 0
    told = capsys.readouterr().out
    assert "leaderboard = 2.05 * score + 0.8833 (R2 = 0.990, 3 experiments)" in told
    assert "for leaderboard = 7 the line needs a score of 2.983740" in told
    assert main(["compare", "--reported", str(path), "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["score_for_target"] == pytest.approx(6.1166666 / 2.05)
    assert line["n"] == 3
    path.write_text(path.read_text().replace("external = 9.2", ""))
    assert main(["compare", "--reported", str(path)]) == 2
    assert "no experiment has both scores" not in capsys.readouterr().out


@pytest.mark.slow
def test_studies_of_their_own_scores_are_compared_by_them(hpo, capsys):
    write_log()
    for name in ("one", "two"):
        Path(f"family/{name}.toml").write_text(STUDY)
    told = hpo("run", "family", "--workers", "1").stdout
    table = told[told.index("\nstudy") :].splitlines()
    assert table[1].split() == ["study", "score", "half"]
    ours, theirs, gap = [line.split() for line in table[2:5]]
    assert (ours[0], theirs) == ("one", ["reported", "2", "1.5"])
    assert float(gap[1]) == pytest.approx(float(ours[1]) - 2.0, abs=1e-3)
    assert float(ours[2]) == pytest.approx(float(ours[1]) / 2, abs=1e-3)
    page = Path("reports/comparison.html").read_text()
    assert "Leaderboard against the score, reported experiments" in page
    assert "Best trials, by what their objectives tell" in page
    assert main(["compare", "one", "two", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert one["scores"]["half"] == pytest.approx(one["score"] / 2)
    assert one["reported"]["external"] == 5.1
    (known,) = two["external"]
    assert known["predicted"] == pytest.approx(0.88333 + 2.05 * two["score"], rel=1e-4)
    assert known["measured"] is None


def test_studies_that_were_measured_outside_have_a_line_of_their_own(begin_study, hpo):
    path = write_log("a = 5.0, b = 6.0, c = 8.0")
    rows = []
    for name, alpha in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        record = begin_study(
            name=name,
            trials=1,
            objective={"name": "tests.support.objectives:Slope"},
            space={"alpha": {"type": "float", "low": alpha, "high": alpha + 1e-9}},
            table=None,
            cv=None,
            estimator=None,
        )
        Worker(record, record.open_objective()[1], name).run(WorkerRun("here", 1))
        rows.append(compare_study(record))
    reported, own = find_outside([read_reported_file(path)], rows)
    assert reported.line.n == own.line.n == 3
    assert own.line.slope == pytest.approx(1.5)
    assert own.scores == pytest.approx({"a": 1.0, "b": 2.0, "c": 3.0})
    assert len(find_outside([read_reported_file(path)], rows[:2])) == 1
