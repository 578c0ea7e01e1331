"""What does it cost to read a study of many trials, beside plain SQL for the same content?

Commands as a user gives them, and programs that read the same by `sqlite3` and `pandas`, or by
Optuna, each in a process of its own and in turn: wall and CPU seconds with all imports, and the
most memory that the process ever had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.records import Access
from hpo.spec.loading import load
from hpo.storage.backends import open_storage
from hpo.study.creation import begin
from hpo.study.record import Source
from tests.benchmarks.filled_studies import SPACE, fill
from tests.benchmarks.side_by_side import spread

NAME = "filled"
ROOT = Path(__file__).resolve().parents[2]

PLAIN_EXPORT = """
import json, sqlite3, sys
import pandas as pd
c = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
def read(query):
    return pd.read_sql(query, c)
frame = read(
    "SELECT trial_id, number, state, datetime_start AS started, datetime_complete AS completed "
    "FROM trials ORDER BY trial_id").set_index("trial_id")
values = read("SELECT trial_id, value FROM trial_values").set_index("trial_id")
frame.insert(2, "score", values["value"])
params = read("SELECT trial_id, param_name, param_value FROM trial_params")
params = params.pivot(index="trial_id", columns="param_name", values="param_value")
told = read("SELECT trial_id, key, value_json FROM trial_user_attributes")
told["value"] = told["value_json"].map(json.loads)
told = told.pivot(index="trial_id", columns="key", values="value")
parts = [key for key in told.columns if key.startswith("part ")]
scores = [
    pd.DataFrame(told[part].tolist(), index=told.index).add_prefix(f"{part}.") for part in parts]
whole = pd.concat([frame, params.add_prefix("param."), *scores, told.drop(columns=parts)], axis=1)
whole.to_csv(sys.argv[2], index=False)
"""
PLAIN_TRIALS = """
import json, sqlite3, sys
c = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
trials = {
    row[0]: {"row": row, "values": [], "params": {}, "parts": {}, "attributes": {}}
    for row in c.execute("SELECT * FROM trials")}
for trial, value in c.execute("SELECT trial_id, value FROM trial_values"):
    trials[trial]["values"].append(value)
for trial, name, value in c.execute("SELECT trial_id, param_name, param_value FROM trial_params"):
    trials[trial]["params"][name] = value
for trial, step, value in c.execute(
    "SELECT trial_id, step, intermediate_value FROM trial_intermediate_values"):
    trials[trial]["parts"][step] = value
for trial, key, text in c.execute("SELECT trial_id, key, value_json FROM trial_user_attributes"):
    trials[trial]["attributes"][key] = json.loads(text)
"""
PLAIN_STATUS = """
import sqlite3, sys
c = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(c.execute("SELECT state, count(*) FROM trials GROUP BY state").fetchall())
print(c.execute(
    "SELECT number, value FROM trials JOIN trial_values USING (trial_id) "
    "WHERE state = 'COMPLETE' ORDER BY value, number LIMIT 1").fetchone())
"""
PLAIN_BEST = (
    PLAIN_STATUS
    + """
best = c.execute(
    "SELECT trial_id FROM trials JOIN trial_values USING (trial_id) "
    "WHERE state = 'COMPLETE' ORDER BY value, number LIMIT 1").fetchone()
print(c.execute(
    "SELECT param_name, param_value FROM trial_params WHERE trial_id = ?", best).fetchall())
"""
)
SNAPSHOT = f"""
import sys
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.study.record import find
from hpo.study.snapshot import take_snapshot
take_snapshot(find(open_storage(f"sqlite:///{{sys.argv[1]}}", Access.READ), "{NAME}"), trials=True)
"""
OPTUNA_TRIALS = f"""
import sys
import optuna
study = optuna.load_study(study_name="{NAME}", storage=f"sqlite:///{{sys.argv[1]}}")
study.get_trials(deepcopy=False)
"""


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the costs of reading a study, beside those of plain SQL."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = _prepare(folder, options.trials)
        contestants = _contestants(database)
        # The report that `hpo run` of a finished study finds, and only the first time writes.
        first = _measure(contestants["hpo run, finished"], folder)
        print(f"{options.trials:,} trials; the first report: {first.wall_s:.1f} s wall")
        costs: dict[str, list[Cost]] = {what: [] for what in contestants}
        for _ in range(options.rounds):
            for what, command in contestants.items():
                costs[what].append(_measure(command, folder))
    _print(costs)
    return 0


def _prepare(folder: Path, n_trials: int) -> Path:
    """Make a study file and a finished study of it."""
    lines = [
        f"{name} = {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in kind.items())} }}"
        for name, kind in SPACE.items()
    ]
    objective = '[objective]\nname = "tests.support.objectives:Parabola"\n[space]'
    file = folder / f"{NAME}.toml"
    file.write_text("\n".join([f"trials = {n_trials}", objective, *lines]))
    database = folder / "hpo.db"
    storage = open_storage(f"sqlite:///{database}", Access.CREATE)
    record = begin(storage, load(file), Source(str(file), (), None), None)
    fill(record, n_trials)
    storage.engine.dispose()
    return database


def _contestants(database: Path) -> Mapping[str, Sequence[str]]:
    def program(text: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", text, str(database), *arguments]

    def hpo(*arguments: str) -> list[str]:
        url = f"sqlite:///{database}"
        return [sys.executable, "-m", "hpo", *arguments, "--storage", url]

    return {
        "export, plain SQL": program(PLAIN_EXPORT, "plain.csv"),
        "export, hpo, csv": hpo("export", NAME, "--output", "hpo.csv"),
        "export, hpo, json": hpo("export", NAME, "--format", "json"),
        "export, hpo, parquet": hpo("export", NAME, "--format", "parquet"),
        "all trials, plain SQL": program(PLAIN_TRIALS),
        "all trials, hpo's snapshot": program(SNAPSHOT),
        "all trials, Optuna": program(OPTUNA_TRIALS),
        "status, plain SQL": program(PLAIN_STATUS),
        "status, hpo": hpo("status", NAME),
        "best parameters, plain SQL": program(PLAIN_BEST),
        "hpo run, finished": hpo("run", f"{NAME}.toml", "--workers", "1"),
        "hpo report": hpo("report", NAME),
    }


def _measure(command: Sequence[str], folder: Path) -> Cost:
    """Run a command in a folder, and return what its process and those it waited for cost."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024.0)


def _print(costs: Mapping[str, Sequence[Cost]]) -> None:
    """Print a row per contestant; ratios are to the last plain one above it, by round."""
    print(f"{'what':28} {'wall s':>22} {'CPU s':>22} {'peak MB':>8}  CPU, x plain SQL")
    plain: Sequence[Cost] = ()
    for what, of in costs.items():
        ratio = ""
        if what.endswith("plain SQL"):
            plain = of
        else:
            ratio = spread([one.cpu_s / usual.cpu_s for one, usual in zip(of, plain, strict=True)])
        peak = max(one.peak_mb for one in of)
        wall, cpu = ([one.wall_s for one in of], [one.cpu_s for one in of])
        print(f"{what:28} {spread(wall):>22} {spread(cpu):>22} {peak:8.0f}  {ratio}")


if __name__ == "__main__":
    sys.exit(main())
