"""The benchmarks run, are the same for everybody, and show what is promised of this engine."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter

import psutil
import pytest

import features.table
from hpo.cli import main as hpo
from hpo.commands.tools import bench
from tests.benchmarks import peers
from tests.benchmarks.compare_budgets import (
    Row,
    compare_one,
    fault_script,
    format_table,
    main,
)
from tests.benchmarks.contestants import CONTESTANTS, Setting
from tests.benchmarks.journalled import parse
from tests.benchmarks.trial_loops import binned, compiled, usual
from tests.benchmarks.trial_rate import BASE, STEPS, Run, format_ladder
from tests.support.studies import ROOT, make_spec

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


def test_all_loops_score_alike(hand_table):
    space = {"max_iter": {"type": "int", "low": 5, "high": 20}}
    spec = make_spec(estimator={"name": "hist_gradient_boosting"}, space=space)
    table = features.table.read(hand_table)
    for max_iter in (5, 12):
        params = {"max_iter": max_iter, "min_samples_leaf": 5}
        ours = compiled(spec, table)(params)
        assert binned(spec, table)(params) == ours
        assert usual(spec, table)(params) == pytest.approx(ours, rel=1e-12)


def test_the_ladder_compares_runs_of_the_same_round():
    def run(finished, cpu_s, scores):
        return Run(finished, 60.0, 70.0, cpu_s, min(scores), tuple(enumerate(scores)))

    usual_runs = [run(4, 40.0, [3.0, 2.0]), run(8, 40.0, [3.0, 1.0])]
    base_runs = [run(8, 40.0, [3.0, 1.7]), run(8, 40.0, [3.0, 1.4])]
    fast_runs = [run(12, 30.0, [2.5, 2.0, 1.5]), run(16, 16.0, [2.0, 1.5])]
    runs = {step.what: [*fast_runs] for step in STEPS}
    runs |= {STEPS[0].what: usual_runs, BASE: base_runs}
    lines = format_ladder(runs)[2:]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert cells[0][4] == "1.00 (1.00 to 1.00)"
    assert cells[1][5:7] == ["1.00 (1.00 to 1.00)"] * 2
    assert cells[2][2] == "14.00 (12.00 to 16.00)"
    assert cells[2][4:7] == [
        "2.50 (2.00 to 3.00)",
        "1.75 (1.50 to 2.00)",
        "3.50 (2.00 to 5.00)",
    ]
    assert cells[2][8:10] == ["2, never", "70.0 (70.0 to 70.0)"]


# hpo bench --------------------------------------------------------------------------------------


def test_every_benchmark_is_listed_and_described(capsys):
    assert hpo(["bench"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"store_cost", "trial_rate", "peers"} <= set(listed)
    # What they share is none.
    assert not {"side_by_side", "contestants", "peer_programs", "datasets"} & set(listed)
    text = (ROOT / "tests" / "benchmarks" / "README.md").read_text()
    for name, question in listed.items():
        assert question.endswith(("?", ".")), name
        assert f"\n## {name}: " in text
        assert f"hpo bench {name}" in text


def test_a_benchmark_runs_by_its_name_with_its_own_arguments(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert hpo(["bench", "restart_time", "--deaths", "x"]) == 2
    assert "argument --deaths: invalid int value: 'x'" in capfd.readouterr().err
    assert hpo(["bench", "restart_tim"]) == 2
    assert "did you mean 'restart_time'?" in capfd.readouterr().err


def test_all_benchmarks_run_and_those_that_fail_are_named(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    for name, code in (("a", 0), ("b", 1), ("c", 0)):
        (folder / f"{name}.py").write_text(
            f'"""Is it {name}?"""\nimport sys\ndef main(arguments=None):\n'
            f"    print('here is {name}')\n    return {code}\nsys.exit(main())\n"
        )
    monkeypatch.setattr(bench, "FOLDER", folder)
    assert hpo(["bench", "all"]) == 2
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if line.startswith("here")] == [
        f"here is {name}" for name in "abc"
    ]
    assert "1 of 3 did not end well: b" in err
    assert hpo(["bench", "all", "--deaths"]) == 2
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert hpo(["bench"]) == 2
    assert "no benchmarks in" in capfd.readouterr().err


def test_the_peers_are_seen_with_a_worker_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "BUDGETS", {peers.KILLED: 4})
    # Optuna is installed here, too: the program of its environment runs by our Python.
    runs = {}
    for name in ("optuna", "hpo"):
        where = tmp_path / name
        where.mkdir()
        options = Namespace(limit_s=60.0)
        runs[name] = peers.run_one(name, sys.executable, peers.KILLED, where, None, options)
    plain, ours = runs["optuna"], runs["hpo"]
    assert sorted(map(abs, plain.exit_codes)) == [0, 9]
    assert plain.finished == plain.evaluated == 3
    assert plain.again == 0
    assert ours.exit_codes == [0]
    assert ours.finished == ours.evaluated == 4
    assert ours.again == 1
    assert ours.cpu_s > 0.5
    lines = peers.format_table(peers.KILLED, {name: [run] for name, run in runs.items()})
    assert lines[2].startswith("| plain Optuna, SQLite (5.0.0) |")
    assert lines[3].endswith("| 4 | 1 | 4 | 0 |")
