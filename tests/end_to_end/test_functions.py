"""Functions written for Optuna, run unchanged by real workers, some of which are killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.schema import CLAIMS, WORKERS
from tests.support.chaos.processes import MARK, wait_until_gone
from tests.support.functions import plain as functions
from tests.support.samplers import need_package
from tests.support.studies import command, wait_until

BUDGET = 12
# The storages take turns: whatever is asked of one is asked of both by the tests of the storage.
TURNS = [*zip(functions.EXAMPLES, itertools.cycle(("sqlite", "postgresql")), strict=False)]


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, hpo, monkeypatch):
    """The storage of the commands, opened as Optuna opens it."""
    url = "sqlite:///hpo.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("HPO_STORAGE", url)
    opened = open_storage(url, Access.CREATE)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


def trials_of(storage, name):
    return optuna.load_study(study_name=name, storage=storage).trials


def spent(storage):
    """How many trials of the one study are finished, pruned ones among them."""
    with storage.read() as c:
        query = sa.select(sa.func.count()).where(CLAIMS.c.state.in_(("finished", "pruned")))
        return c.execute(query).scalar_one()


def workers_of(run):
    return [p for p in psutil.Process(run.pid).children() if p.name() == "hpo-worker"]


def kill_a_holder(storage, run, rng, killed):
    """Kill a worker in the middle of a trial that has drawn; keep by its pid what that had told."""
    query = sa.select(CLAIMS.c.trial_id, WORKERS.c.pid).where(
        CLAIMS.c.worker_id == WORKERS.c.worker_id, CLAIMS.c.state == "open"
    )
    found: list[tuple[FrozenTrial, int]] = []

    def look():
        with storage.read() as c:
            held = c.execute(query).all()
        trials = [(storage.get_trial(trial_id), pid) for trial_id, pid in held]
        met = {trial.number for trial in killed.values()}
        found[:] = [
            (trial, pid)
            for trial, pid in trials
            if trial.params and trial.number not in met and pid not in killed
        ]
        return found or run.poll() is not None

    wait_until(look)
    if found:
        trial, pid = rng.choice(found)
        os.kill(pid, signal.SIGKILL)
        killed[pid] = trial


@pytest.mark.parametrize(("kind", "storage"), TURNS, indirect=["storage"])
def test_an_example_runs_unchanged_though_workers_are_killed(hpo, storage, kind):
    settings, package = functions.EXAMPLES[kind]
    need_package(package)
    source = Path(functions.__file__) if kind in vars(functions) else functions.FITTED
    Path("mine.py").write_text(source.read_text())
    options = ["--trials", str(BUDGET), "--workers", "4"]
    for setting in ("checkpoint_s=0", "max_deaths=9", *settings):
        options += ["--set", setting]
    run = subprocess.Popen(
        command("run", f"mine.py:{kind}", *options), stderr=subprocess.PIPE, text=True
    )
    name, rng, killed = f"mine.{kind}", random.Random(kind), dict[int, FrozenTrial]()
    for at in (0, 2, 5):
        wait_until(lambda at=at: spent(storage) >= at)
        kill_a_holder(storage, run, rng, killed)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    found = trials_of(storage, name)
    states = Counter(trial.state for trial in found)
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == BUDGET, said
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.number for trial in found] == list(range(BUDGET))
    for trial in found:
        assert trial.state is TrialState.PRUNED or trial.values is not None
    if kind != "surrogate":  # which may ask for a corner of the space again
        assert len({tuple(trial.params.items()) for trial in found}) == BUDGET
    assert killed
    # What a trial told before its worker was killed is kept.
    for before in killed.values():
        for kept in ("params", "intermediate_values", "constraints"):
            then, now = getattr(before, kept), getattr(found[before.number], kept)
            assert {key: now.get(key) for key in then} == then


def test_attempts_of_a_trial_draw_the_same_and_reports_are_kept(hpo, storage):
    Path("mine.py").write_text(Path(functions.__file__).read_text())
    options = ("--trials", "8", "--workers", "2", "--set", "checkpoint_s=0")
    run = subprocess.Popen(command("run", "mine.py:witnessed", *options))
    for at in (1, 3, 5):
        wait_until(lambda at=at: spent(storage) >= at)
        for worker in workers_of(run)[:1]:
            worker.send_signal(signal.SIGKILL)
    assert run.wait(120) == 0
    drawn = dict[str, set[str]]()
    for line in Path("journal.txt").read_text().splitlines():
        number, _, rest = line.partition(" ")
        drawn.setdefault(number, set()).add(rest.rpartition(" ")[0])
    assert sorted(map(int, drawn)) == list(range(8))
    assert {len(draws) for draws in drawn.values()} == {1}
    for trial in trials_of(storage, "mine.witnessed"):
        assert trial.state is TrialState.COMPLETE
        assert trial.intermediate_values.keys() == {0, 1, 2, 3}
        assert trial.value == trial.user_attrs["total"]


CHECKPOINTED = """
import json, time
import hpo

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    file = hpo.trial_dir(trial) / "state.json"
    begin, known = json.loads(file.read_text()) if file.exists() else (0, x)
    assert known == x
    for epoch in range(begin, 6):
        with open("epochs.txt", "a") as stream:
            stream.write(f"{trial.number} {epoch}\\n")
        file.with_suffix(".new").write_text(json.dumps([epoch + 1, x]))
        file.with_suffix(".new").replace(file)
        time.sleep(0.15)
    return x
"""


@pytest.mark.parametrize("keep", ["all", "best", "none"])
def test_a_training_goes_on_from_its_checkpoint(hpo, keep):
    Path("train.py").write_text(CHECKPOINTED)
    asked = ("--trials", "3", "--workers", "1", "--set", f"keep_trial_dirs={keep}")
    run = subprocess.Popen(command("run", "train.py:objective", *asked))
    wait_until(lambda: Path("epochs.txt").exists() and "1 3" in Path("epochs.txt").read_text())
    for worker in workers_of(run):
        worker.send_signal(signal.SIGKILL)
    assert run.wait(60) == 0
    epochs = Counter(Path("epochs.txt").read_text().splitlines())
    assert epochs.keys() == {f"{number} {epoch}" for number in range(3) for epoch in range(6)}
    # The epoch in which it was killed may have been begun again.
    assert sum(epochs.values()) <= 19
    best = optuna.load_study(study_name="train", storage="sqlite:///hpo.db").best_trial.number
    kept = {"all": {"0", "1", "2"}, "best": {str(best)}, "none": set()}[keep]
    assert {path.name for path in Path("logs/train/trials").iterdir()} == kept


PROGRAM = """
trials = 8
lease_s = 3.0
[objective]
command = ["python3", "work.py", "--x", "{x}", "--out", "{trial_dir}"]
score = { json = "result.json", key = "loss" }
report = { regex = 'epoch (?P<step>\\d+) loss (?P<value>\\S+)' }
[space]
x = { type = "float", low = 0.0, high = 1.0 }
"""
WORK = """
import json, os, pathlib, sys, time
x, folder = float(sys.argv[2]), pathlib.Path(sys.argv[4])
assert float(os.environ["HPO_PARAM_X"]) == x == json.load(open(os.environ["HPO_PARAMS"]))["x"]
for epoch in range(4):
    time.sleep(0.15)
    print("epoch", epoch, "loss", x + 1 / (epoch + 1), flush=True)
with open("told.txt", "a") as stream:
    stream.write(f"{os.environ['HPO_TRIAL_NUMBER']} {x!r}\\n")
(folder / "result.json").write_text(json.dumps({"loss": x}))
"""


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_a_program_is_run_though_workers_are_killed_and_none_is_left(hpo, storage, monkeypatch):
    monkeypatch.setenv(MARK, str(Path.cwd()))
    Path("prog.toml").write_text(PROGRAM)
    Path("work.py").write_text(WORK)
    run = subprocess.Popen(command("run", "prog.toml", "--workers", "3"))
    for at in (1, 4):
        wait_until(lambda at=at: spent(storage) >= at)
        for worker in workers_of(run)[:1]:
            worker.send_signal(signal.SIGKILL)
    assert run.wait(120) == 0
    found = trials_of(storage, "prog")
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 8
    for trial in found:
        assert trial.value == trial.params["x"]
        assert trial.intermediate_values.keys() == {0, 1, 2, 3}
    told = [line.split() for line in Path("told.txt").read_text().splitlines()]
    # Attempts of a trial were given the same.
    assert {(int(number), float(x)) for number, x in told} == {
        (trial.number, trial.params["x"]) for trial in found
    }
    assert wait_until_gone(str(Path.cwd()), 5.0) == []


def test_what_a_trial_did_is_told_by_what_ended_it(hpo):
    Path("prog.toml").write_text(PROGRAM.replace("trials = 8", "trials = 3"))
    Path("work.py").write_text("import sys\nprint('no such phase')\nsys.exit(7)\n")
    said = hpo("run", "prog.toml", "--workers", "1", "--set", "max_failures=1", code=2).stderr
    assert "exit code 7" in said
    assert "no such phase" in said
    Path("work.py").write_text("pass\n")
    assert "the code that computes a score changed" in hpo("resume", "prog", code=3).stderr
    few = ("--name", "other", "--set", "max_failures=0")
    assert "result.json" in hpo("run", "prog.toml", "--workers", "1", *few, code=2).stderr
