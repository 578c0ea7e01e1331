"""The benchmarks run, are the same for everybody, and show what is promised of this engine."""

from __future__ import annotations

from collections import Counter

import psutil
import pytest

import features.table
from tests.benchmarks.compare_budgets import (
    Row,
    compare_one,
    fault_script,
    format_table,
    main,
)
from tests.benchmarks.contestants import CONTESTANTS, Setting
from tests.benchmarks.journalled import parse
from tests.benchmarks.trial_loops import short, usual
from tests.benchmarks.trial_rate import STEPS, Run, format_ladder
from tests.conftest import make_spec

TINY = Setting(workers=3, trials=8, part_s=0.2)


def contestant(key):
    return next(contestant for contestant in CONTESTANTS if contestant.key == key)


def test_the_faults_are_the_same_for_the_same_seed_and_of_every_kind():
    script = fault_script(1, 20, Setting(8, 60, 0.1))
    assert script == fault_script(1, 20, Setting(8, 60, 0.1))
    assert script != fault_script(2, 20, Setting(8, 60, 0.1))
    # Not of how long a part takes: faults come at places of the work.
    assert script == fault_script(1, 20, Setting(8, 60, 9.0))
    assert Counter(f.kind for f in script) == {"kill": 8, "terminate": 6, "stop": 4, "kill all": 2}
    places = [fault.after for fault in script]
    assert places == sorted(set(places))
    assert places[0] >= 8
    assert places[-1] < 180
    few = fault_script(5, 4, TINY)
    assert {fault.kind for fault in few} == {"kill", "terminate", "stop", "kill all"}


def test_hpo_keeps_its_budget_under_every_kind_of_fault(tmp_path):
    script = fault_script(1, 4, TINY)
    row = compare_one(contestant("hpo"), TINY, script, tmp_path, limit_s=100)
    assert row.met == script
    assert row.done, row
    assert row.complete == 8, row
    assert (row.running, row.waiting, row.twice, row.again, row.errors) == (0, 0, 0, 0, 0), row
    # What was in the making when its worker was hit is made again, and nothing else; a trial that
    # three of the faults hit is given up for another one.
    assert 0 < row.begun - TINY.parts <= 3 + 3 + 3 * row.fail, row
    lines = parse((tmp_path / "journal.txt").read_text())
    assert not [line.pid for line in lines if psutil.pid_exists(line.pid)]


def test_plain_optuna_is_seen_to_miss_its_budget(tmp_path):
    # The instrument is not blind: a killed worker starts with all of its share again.
    setting = Setting(workers=2, trials=4, part_s=0.2)
    script = fault_script(1, 1, setting)
    assert script[0].kind == "kill"
    row = compare_one(contestant("optimize"), setting, script, tmp_path, limit_s=60)
    assert row.done
    assert row.met == script
    assert row.running == 1
    assert row.complete >= 4
    assert row.begun > setting.parts


def test_the_table_is_printed_and_written(tmp_path, capsys):
    small = ("--workers", "1", "--trials", "1", "--faults", "0", "--part-s", "0.05")
    assert main([*small, "--only", "callback", "--json", str(tmp_path / "x.json")]) == 0
    printed = capsys.readouterr().out
    assert "optuna: MaxTrialsCallback" in printed
    assert "re-implementation" in printed
    assert '"complete": 1' in (tmp_path / "x.json").read_text()


def test_a_missed_budget_is_written_with_its_sign():
    row = Row(
        *("x", "x", False, 6, 1, 0, 0, 0, 30, 2, 3, 1, 0, 1, 9.0, 3.0),
        met=(),
        messages={},
    )
    table = format_table([row], TINY, 4)
    assert "x (not done)" in table
    assert "6 (-2)" in table
    assert "30 (+6)" in table
    assert "0/4" in table


def test_the_usual_loop_and_the_short_one_score_alike(hand_table):
    space = {"max_iter": {"type": "int", "low": 5, "high": 20}}
    spec = make_spec(estimator={"name": "hist_gradient_boosting"}, space=space)
    table = features.table.read(hand_table)
    for max_iter in (5, 12):
        params = {"max_iter": max_iter, "min_samples_leaf": 5}
        assert usual(spec, table)(params) == pytest.approx(short(spec, table)(params), rel=1e-12)


def test_the_ladder_compares_runs_of_the_same_round():
    def run(finished, cpu_s, scores):
        return Run(finished, 60.0, cpu_s, min(scores), tuple(enumerate(scores)))

    usual_runs = [run(4, 40.0, [3.0, 2.0]), run(8, 40.0, [3.0, 1.0])]
    fast_runs = [run(12, 30.0, [2.5, 2.0, 1.5]), run(16, 16.0, [2.0, 1.5])]
    runs = {step.what: [*fast_runs] for step in STEPS} | {STEPS[0].what: usual_runs}
    first, second = format_ladder(runs)[2:4]
    assert first.split("|")[4:7] == [" 1.00 (1.00 to 1.00) "] * 3
    cells = [cell.strip() for cell in second.split("|")]
    assert cells[2] == "14.00 (12.00 to 16.00)"
    assert cells[4:7] == ["2.50 (2.00 to 3.00)", *["4.50 (4.00 to 5.00)"] * 2]
    assert cells[8] == "2, never"
