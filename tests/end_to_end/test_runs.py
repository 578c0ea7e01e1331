"""Whole runs with real processes on a real file: budgets, kills, Ctrl-C, resume, conflicts."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import optuna
import psutil
from optuna.trial import TrialState

from hpo.storage.events import EventKind
from tests.support.studies import ROOT, command, journal, run_hpo, wait_until, write_study
from tests.support.trials import claims, finished_trials


def states(name="x") -> Counter[TrialState]:
    study = optuna.load_study(study_name=name, storage="sqlite:///hpo.db")
    return Counter(trial.state for trial in study.trials)


def worker_processes(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children() if child.name() == "hpo-worker"]


def test_a_run_finishes_its_budget_and_a_second_run_does_nothing(hpo):
    path = write_study()
    first = hpo("run", path, "--workers", "3")
    assert states() == {TrialState.COMPLETE: 12}
    assert "x: finished, 12 of 12 trials, best" in first.stdout
    assert "report: " in first.stdout
    before = Path("journal.txt").read_text()
    second = hpo("run", path)
    assert "study 'x' is finished: 12 of 12 trials; nothing to do" in second.stderr
    assert Path("journal.txt").read_text() == before


def test_a_larger_budget_goes_on(hpo):
    path = write_study(trials=4)
    hpo("run", path)
    hpo("run", path, "--trials", "7", "--workers", "2")
    assert states() == {TrialState.COMPLETE: 7}
    hpo("resume", "x", "--trials", "9")
    assert states() == {TrialState.COMPLETE: 9}


def test_workers_never_draw_the_same_and_a_repeated_run_draws_the_same(hpo):
    path = write_study(trials=10)
    hpo("run", path, "--workers", "1", "--storage", "sqlite:///a.db")
    hpo("run", path, "--workers", "4", "--storage", "sqlite:///b.db")

    def drawn(file):
        study = optuna.load_study(study_name="x", storage=f"sqlite:///{file}")
        return [trial.params["alpha"] for trial in study.trials]

    # Ten start-up trials: alike whoever runs them, and no two alike.
    assert drawn("a.db") == drawn("b.db")
    assert len(set(drawn("b.db"))) == 10


def test_ctrl_c_keeps_everything_and_resume_goes_on(hpo):
    path = write_study(trials=12, delay_s=0.3)
    run = subprocess.Popen(
        command("run", path, "--workers", "2"), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: finished_trials() >= 2)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "nothing is lost; go on with: hpo resume x" in said
    assert "Traceback" not in said
    stopped = states()
    assert stopped[TrialState.RUNNING] == 0
    assert 2 <= stopped[TrialState.COMPLETE] < 12
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert status["state"] == "stopped"
    hpo("resume", "x", "--workers", "2")
    assert states() == {TrialState.COMPLETE: 12}
    # A trial released went on at the part it had come to.
    assert set(journal().values()) == {1}


def test_kills_of_workers_and_of_the_parent_lose_nothing_and_add_nothing(hpo):
    path = write_study(trials=60, delay_s=0.08)
    rng = random.Random(11)
    run = subprocess.Popen(command("run", path, "--workers", "4"), stderr=subprocess.DEVNULL)
    parent = psutil.Process(run.pid)
    for kills in range(5):
        wait_until(lambda at=4 + 6 * kills: finished_trials() >= at)
        wait_until(lambda: len(worker_processes(parent)) == 4)
        rng.choice(worker_processes(parent)).send_signal(signal.SIGKILL)
    wait_until(lambda: finished_trials() >= 34)
    orphans = worker_processes(parent)
    run.kill()
    run.wait()
    # Workers see that nobody looks after them any more, release and leave.
    psutil.wait_procs(orphans, timeout=20)
    assert not any(orphan.is_running() for orphan in orphans)
    assert states()[TrialState.COMPLETE] < 60
    hpo("resume", "x", "--workers", "4")
    assert states() == {TrialState.COMPLETE: 60}
    computed = journal()
    assert len(computed) == 180
    # A part in the making when its worker was killed may be made again; a stored one never.
    assert sum(computed.values()) - 180 <= 6
    study = optuna.load_study(study_name="x", storage="sqlite:///hpo.db")
    assert len({trial.params["alpha"] for trial in study.trials}) == 60


def test_a_worker_without_launcher_that_is_killed_is_reaped_by_its_lease(hpo):
    path = write_study(trials=3, delay_s=0.2)
    hpo("run", path, "--trials", "1")
    hpo("run", path, "--trials", "3", "--workers", "1")
    hpo("run", path, "--trials", "1")  # the budget goes down: done, nothing is deleted
    assert states() == {TrialState.COMPLETE: 3}
    slow = write_study(trials=2, delay_s=60, name="slow")
    run = subprocess.Popen(command("run", slow, "--workers", "1"), stderr=subprocess.DEVNULL)
    wait_until(lambda: claims("slow", "state = 'open'") == 1)
    children = worker_processes(psutil.Process(run.pid))
    run.kill()
    run.wait()
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=10)
    Path("slow.toml").write_text(Path("slow.toml").read_text().replace("60", "0.01"))
    hpo("run", "slow.toml", "--accept", "objective")
    assert states("slow") == {TrialState.COMPLETE: 2}


def test_bad_parameters_fail_deaths_are_counted_and_the_budget_is_still_exact(hpo):
    write_study(trials=20, delay_s=0.0, objective="Moody")
    settings = ("max_failures=50", "max_deaths=2", "sampler.name=random")
    set_all = (f"--set={setting}" for setting in settings)
    said = hpo("run", "x.toml", "--workers", "2", *set_all).stderr
    study = optuna.load_study(study_name="x", storage="sqlite:///hpo.db")
    by_state = states()
    assert by_state[TrialState.COMPLETE] == 20
    assert set(by_state) == {TrialState.COMPLETE, TrialState.FAIL}
    for trial in study.trials:
        alpha = trial.params["alpha"]
        if trial.state is TrialState.COMPLETE:
            assert 0.5 <= alpha <= 8.0
        elif alpha < 0.5:
            assert trial.user_attrs["failure"] == f"a: ValueError: alpha too small: {alpha:.3f}"
        elif alpha > 9.0:
            assert trial.user_attrs["failure"] == "a: 'score': must be finite, is nan"
        else:
            assert (
                "2 workers died on it; the last: killed by SIGKILL" in trial.user_attrs["failure"]
            )
    ended = said[said.index(f"\n{by_state[TrialState.FAIL]} trials failed:\n") :]
    reasons = " ".join(trial.user_attrs.get("failure", "") for trial in study.trials)
    for kind in ("alpha too small", "must be finite, is nan", "workers died on it"):
        assert (kind in ended) == (kind in reasons)


def test_an_objective_that_leaves_costs_its_trials_and_nothing_else(hpo):
    write_study(trials=10, delay_s=0.0, objective="Leaving")
    settings = ("max_failures=50", "max_deaths=2", "sampler.name=random")
    hpo("run", "x.toml", "--workers", "2", *(f"--set={setting}" for setting in settings))
    study = optuna.load_study(study_name="x", storage="sqlite:///hpo.db")
    assert states()[TrialState.COMPLETE] == 10
    reasons = set()
    for trial in study.trials:
        if trial.state is TrialState.FAIL:
            left = "workers died" if trial.params["alpha"] > 8.0 else "combine: sys.exit("
            assert left in trial.user_attrs["failure"]
            reasons.add(left)
    assert len(reasons) == 2


def test_too_many_failures_stop_the_study_and_say_why(hpo):
    write_study(trials=20, objective="Moody")
    said = hpo(
        *("run", "x.toml", "--workers", "2", "--set", "max_failures=2"),
        *("--set", "space.alpha.high=0.4"),
        code=2,
    ).stderr
    assert "trials failed, max_failures is 2" in said
    assert re.search(
        r"\n  [34]  a: ValueError: alpha too small: 0\.\d+ \(trial 0 and others\)", said
    )


def test_what_changed_is_named_and_can_be_accepted_knowingly(hpo):
    path = write_study(trials=3)
    hpo("run", path)
    text = Path(path).read_text()
    Path(path).write_text(text.replace("high = 10.0", "high = 5.0"))
    refused = hpo("run", path, "--trials", "5", code=3)
    assert "study 'x' was begun with something else" in refused.stderr
    assert "space: the search space changed" in refused.stderr
    assert "--accept space" in refused.stderr
    assert states() == {TrialState.COMPLETE: 3}
    hpo("resume", "x", "--trials", "5", code=3)
    hpo("run", path, "--trials", "5", "--accept", "space")
    assert states() == {TrialState.COMPLETE: 5}
    hpo("run", path, "--trials", "5")  # accepted once, known from now on
    Path(path).write_text(text.replace("seed", "seed").replace("delay_s = 0.02", "delay_s = 0.01"))
    both = hpo("run", path, "--accept", "space", code=3)
    assert "objective: the objective, the estimator or the seed changed" in both.stderr
    wrong = hpo("run", path, "--accept", "spcae", code=2)
    assert "did you mean 'space'" in wrong.stderr


def test_a_change_that_one_study_cannot_hold_is_refused_even_if_accepted(hpo):
    path = write_study(trials=2)
    hpo("run", path)
    text = Path(path).read_text()
    Path(path).write_text(
        text.replace(
            'type = "float", low = 0.0, high = 10.0', 'type = "categorical", choices = [1.0, 2.0]'
        )
    )
    said = hpo("run", path, "--trials", "4", "--accept", "space", code=3).stderr
    assert "[space.alpha] cannot change its type or its choices within a study" in said
    hpo("run", path, "--name", "y", "--trials", "4")
    assert states("y") == {TrialState.COMPLETE: 4}


def test_changed_code_is_a_conflict(hpo):
    Path("mine.py").write_text((ROOT / "tests" / "support" / "objectives.py").read_text())
    path = write_study(trials=2)
    Path(path).write_text(Path(path).read_text().replace("tests.support.objectives", "mine"))
    hpo("run", path)
    Path("mine.py").write_text(Path("mine.py").read_text().replace("- 1.0) ** 2", "- 2.0) ** 2"))
    said = hpo("run", path, "--trials", "3", code=3).stderr
    assert "code: the code that computes a score changed" in said
    assert "space" not in said.split("Undo")[0]


def test_a_worker_that_joins_by_hand_shares_the_budget(hpo):
    path = write_study(trials=30, delay_s=0.15)
    run = subprocess.Popen(command("run", path, "--workers", "1"), stderr=subprocess.DEVNULL)
    wait_until(lambda: finished_trials() >= 1)
    hpo("worker", "x")
    assert run.wait(timeout=60) == 0
    assert states() == {TrialState.COMPLETE: 30}
    study = optuna.load_study(study_name="x", storage="sqlite:///hpo.db")
    assert len({trial.user_attrs["worker"] for trial in study.trials}) == 2


def test_a_worker_has_one_thread_and_no_chemistry(hpo, monkeypatch):
    Path("probe.py").write_text(
        "import os, sys\n"
        "from tests.support.objectives import Parabola\n"
        "class Probe(Parabola):\n"
        "    def score_part(self, params, part):\n"
        "        import threadpoolctl, sklearn.ensemble\n"
        "        heavy = {'pymatgen', 'matminer', 'smact', 'elementembeddings'}\n"
        "        pools = [pool['num_threads'] for pool in threadpoolctl.threadpool_info()]\n"
        "        assert pools and set(pools) == {1}, pools\n"
        "        assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "        return super().score_part(params, part)\n"
    )
    path = write_study(trials=1)
    Path(path).write_text(
        Path(path).read_text().replace("tests.support.objectives:Parabola", "probe:Probe")
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run_hpo("run", path, "--set", "max_failures=0")
    assert states() == {TrialState.COMPLETE: 1}


TABLE_STUDY = """
trials = {trials}
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
test_fraction = 0.25
[cv]
scheme = "{scheme}"
folds = 3
[estimator]
name = "ridge"
[space]
alpha = {{ type = "float", low = 0.001, high = 10.0, log = true }}
"""


def write_table_study(trials=3, scheme="kfold") -> str:
    elements = ("Na", "K", "Rb", "Mg", "Ca", "Sr", "Zn", "Al", "Ga", "Ti", "Zr", "Sn")
    lines = [f"Li{n}{element}O{n},{n + len(element)}" for element in elements for n in (1, 2, 3)]
    Path("mine.csv").write_text("\n".join(["formula,target", *lines]) + "\n")
    Path("t.toml").write_text(TABLE_STUDY.format(trials=trials, scheme=scheme))
    return "t.toml"


def test_a_changed_table_or_split_is_refused_by_run_and_resume(hpo):
    path = write_table_study()
    hpo("run", path, "--workers", "1")
    rows = Path("mine.csv").read_text()
    Path("mine.csv").write_text(
        rows.replace("LiNaO1,", "LiNaO2,").replace("Li1NaO1,3", "Li1NaO1,4")
    )
    for arguments in (("run", path), ("resume", "t", "--trials", "5")):
        said = hpo(*arguments, code=3).stderr
        assert "table: the feature table: rows, features or target changed" in said
        assert "splits" not in said
    Path("mine.csv").write_text(rows)
    write_table_study(scheme="interleaved")
    said = hpo("resume", "t", "--trials", "5", code=3).stderr
    assert "splits: the division into cross-validation folds changed" in said
    assert "table:" not in said
    hpo("resume", "t", "--trials", "5", "--accept", "splits")
    assert states("t") == {TrialState.COMPLETE: 5}
    assert "accepted" in Path("reports/t/report.html").read_text()


def test_resume_needs_neither_study_file_nor_data_if_the_table_is_there(hpo):
    path = write_table_study()
    hpo("run", path, "--workers", "1")
    Path("mine.csv").unlink()
    said = hpo("resume", "t", "--trials", "4").stderr
    assert "the data are not here, the stored table is used" in said
    Path(path).unlink()
    hpo("resume", "t", "--trials", "5")
    assert states("t") == {TrialState.COMPLETE: 5}


def test_a_damaged_table_stops_the_study_with_a_message(hpo):
    path = write_table_study()
    hpo("run", path, "--workers", "1")
    (parquet,) = Path("tables").glob("csv-*/table.parquet")
    parquet.write_bytes(parquet.read_bytes()[:-100])
    Path("mine.csv").unlink()
    said = hpo("resume", "t", "--trials", "4", code=2).stderr
    assert "error: " in said
    assert "table.parquet" in said


def test_the_held_out_rows_are_looked_at_once_and_it_is_written_down(hpo):
    from hpo.records import Access
    from hpo.storage.backends import open_storage
    from hpo.study.record import find

    path = write_table_study(trials=4)
    hpo("run", path, "--workers", "1")
    hpo("report", "t")
    hpo("report", "t")
    record = find(open_storage("sqlite:///hpo.db", Access.WORK), "t")
    looks = [
        event for event in record.ledger.events() if event["kind"] == EventKind.TEST_EVALUATION
    ]
    assert len(looks) == 1
    assert looks[0]["finished"] == 4
    record.storage.engine.dispose()
