"""How long from a command to its first result and to its report, beside plain Optuna?

The first result is that of a function that does nothing: `hpo run` with two workers beside
`study.optimize` in one process. The whole command is that of a search over a table: `hpo run` with
its report beside a careful loop without one, in two processes of one thread. All take turns in
every round, and a ratio compares two measurements of one round.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tests.benchmarks.datasets import add_data
from tests.benchmarks.side_by_side import spread
from tests.benchmarks.trial_rate import (
    ROOT,
    STUDY,
    THREADS,
    WORKERS,
    Run,
    Step,
    build_table,
    run_step,
)

NO_OP = """
def objective(trial):
    return trial.suggest_float("x", -1.0, 1.0) ** 2
"""
PLAIN = """
import optuna
from no_op import objective
study = optuna.create_study(storage="sqlite:///hpo.db")
study.optimize(objective, n_trials=1)
"""
LIGHTGBM = """
trials = 60
pruning = false
[table]
dataset = "obelix"
families = ["ratios", "smact", "magpie"]
[cv]
scheme = "interleaved"
[estimator]
name = "lightgbm"
params = { subsample_freq = 1 }
[space]
learning_rate = { type = "float", low = 0.01, high = 0.1, log = true }
n_estimators = { type = "int", low = 200, high = 800, step = 50 }
num_leaves = { type = "int", low = 5, high = 31 }
min_child_samples = { type = "int", low = 4, high = 20 }
colsample_bytree = { type = "float", low = 0.1, high = 0.7 }
subsample = { type = "float", low = 0.5, high = 1.0 }
"""
LOOP = Step("a careful loop", loop="usual")
OURS = Step("hpo run", settings=("pruning=false",))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print medians and ratios, each with the least and the most."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=600.0, help="for each run")
    parser.add_argument("--first", action="store_true", help="first results alone")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        first = [first_results(where / f"first-{number}") for number in range(options.rounds)]
        plain, ours = ([of_round[k] for of_round in first] for k in (0, 1))
        print(f"first result, s: plain {spread(plain)}, hpo {spread(ours)}, ", end="")
        print(f"ratio {spread([b / a for a, b in first])}")
        if options.first:
            return 0
        lightgbm = where / "lightgbm.toml"
        lightgbm.write_text(LIGHTGBM)
        for options.study in (STUDY, lightgbm):
            table = build_table(options.study, options.data, where)
            pairs: list[tuple[Run, Run]] = []
            for number in range(options.rounds):
                place = where / f"{options.study.stem}-{number}"
                pairs.append((_run(LOOP, options, table, place), _run(OURS, options, table, place)))
            print(f"{options.study.stem}, {options.trials} trials: {describe(pairs)}", flush=True)
    return 0


def _run(step: Step, options: argparse.Namespace, table: Path, place: Path) -> Run:
    folder = place / step.loop
    folder.mkdir(parents=True)
    return run_step(step, options, table, folder, seed=0)


def describe(pairs: Sequence[tuple[Run, Run]]) -> str:
    """Return what runs of the loop and of ours in pairs came to."""
    loop, ours = zip(*pairs, strict=True)
    ratios = spread([a.command_s / b.command_s for a, b in pairs])
    cpu = spread([a.cpu_s / b.cpu_s for a, b in pairs])
    report = spread([run.command_s - run.wall_s for run in ours])
    return (
        f"whole command, s: loop {spread([run.command_s for run in loop], 1)}, "
        f"hpo {spread([run.command_s for run in ours], 1)}, ratio {ratios}, of CPU {cpu}; "
        f"hpo from the last trial to its end, s: {report}"
    )


def first_results(folder: Path) -> tuple[float, float]:
    """Return after how many seconds plain Optuna and `hpo run` have a result."""
    trials = ("--trials", str(2 * WORKERS), "--workers", str(WORKERS))
    commands = {
        "plain": [sys.executable, "-c", PLAIN],
        "hpo": [sys.executable, "-m", "hpo", "run", "no_op.py:objective", *trials],
    }
    plain, ours = (_first_result(command, folder / name) for name, command in commands.items())
    return plain, ours


def _first_result(command: Sequence[str], folder: Path) -> float:
    folder.mkdir(parents=True)
    (folder / "no_op.py").write_text(NO_OP)
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": f"{ROOT}:{folder}"}
    began = time.time()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    database = sqlite3.connect(folder / "hpo.db")
    (ended,) = database.execute("SELECT min(datetime_complete) FROM trials").fetchone()
    database.close()
    return datetime.fromisoformat(ended).timestamp() - began


if __name__ == "__main__":
    sys.exit(main())
