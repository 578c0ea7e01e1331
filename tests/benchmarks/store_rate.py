"""How much of their time do many workers of one storage spend on their objective?

Plain Optuna (`optimize` with MaxTrialsCallback in each of N processes, `RDBStorage` with its
defaults, the study made beforehand) and `hpo run --workers N`, in turns, on the same machine and
store. A trial has seven parameters, sampled by TPE, and sleeps. Counted are the trials that ended
between the first fifth and the last twentieth of them, so that neither starts nor ends matter:
utilisation is their sleep over the time of all workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

from tests.benchmarks.filled_studies import SPACE
from tests.benchmarks.store_cost import fresh_stores

ROOT = Path(__file__).resolve().parents[2]
STUDY = "rate"
N_PARTS = 5


class Sleep:
    """A sum of squares in five parts that sleep, as an objective of hpo's."""

    direction = "minimize"
    score_name = "sum of squares"
    parts = tuple(f"part {part}" for part in range(N_PARTS))
    splits_hash = ""

    def __init__(self, _table: object, *, seed: int, trial_s: float) -> None:
        self._part_s = trial_s / N_PARTS

    def score_part(self, params: Mapping[str, Any], part: int) -> dict[str, float]:
        """Sleep."""
        time.sleep(self._part_s)
        return {"score": _score(params)}

    def combine(self, parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the mean, which each part is."""
        return {"score": statistics.fmean(part["score"] for part in parts)}


@dataclass(frozen=True)
class Run:
    """What came of one run.

    Attributes
    ----------
    rate
        Trials per second between the first fifth and the last twentieth.
    complete, left
        Trials that are COMPLETE, and that are in any other state.
    errors
        Processes that ended with an error.
    """

    rate: float
    complete: int
    left: int
    errors: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each store and contestant."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--trial-s", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--plain-worker", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.plain_worker:
        return _be_plain_worker(options)
    ideal = options.workers / options.trial_s
    print(f"{options.workers} workers, {options.trials} trials of {options.trial_s:g} s")
    print("store       contestant      trials/s           utilisation  COMPLETE  left  errors")
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_stores(Path(folder), options.only) as stores,
    ):
        for store, make in stores.items():
            runs: dict[str, list[Run]] = {key: [] for key in options.contestants}
            for number in range(options.rounds):
                for key in options.contestants:
                    place = Path(folder) / f"{store}-{key}-{number}"
                    place.mkdir()
                    runs[key].append(CONTESTANTS[key](make(), place, options))
            for key, found in runs.items():
                rates = sorted(run.rate for run in found)
                middle = statistics.median(rates)
                print(
                    f"{store:11} {key:14} {middle:6.1f} ({rates[0]:.1f}-{rates[-1]:.1f})"
                    f"{middle / ideal:14.2f}  {[run.complete for run in found]}"
                    f"  {[run.left for run in found]}  {[run.errors for run in found]}",
                    flush=True,
                )
    return 0


def _run_hpo(url: str, place: Path, options: argparse.Namespace) -> Run:
    space = "\n".join(f"{name} = {_as_toml(dimension)}" for name, dimension in SPACE.items())
    (place / f"{STUDY}.toml").write_text(
        f"trials = {options.trials}\n[objective]\n"
        f'name = "{__spec__.name if __spec__ else __name__}:Sleep"\n'
        f"params = {{ trial_s = {options.trial_s} }}\n[space]\n{space}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "hpo", "run", f"{STUDY}.toml", "--storage", url]
    command += ["--workers", str(options.workers)]
    done = subprocess.run(command, cwd=place, env=_environment(), capture_output=True, check=False)
    return _count(url, int(done.returncode != 0))


def _run_plain(url: str, place: Path, options: argparse.Namespace) -> Run:
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name=STUDY, storage=storage)
    storage.engine.dispose()
    command = [sys.executable, "-m", "tests.benchmarks.store_rate", "--plain-worker", url]
    command += ["--trials", str(options.trials), "--trial-s", str(options.trial_s)]
    processes = [
        subprocess.Popen(command, cwd=place, env=_environment(), stderr=subprocess.DEVNULL)
        for _ in range(options.workers)
    ]
    return _count(url, sum(process.wait() != 0 for process in processes))


CONTESTANTS = {"plain Optuna": _run_plain, "hpo run": _run_hpo}


def _be_plain_worker(options: argparse.Namespace) -> int:
    """Run trials as Optuna's documentation has it, until so many are complete."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        params: dict[str, Any] = {f"x{k}": trial.suggest_float(f"x{k}", 0.0, 1.0) for k in range(5)}
        params["depth"] = trial.suggest_int("depth", 3, 30)
        params["kind"] = trial.suggest_categorical("kind", ["a", "b"])
        for part in range(N_PARTS):
            time.sleep(options.trial_s / N_PARTS)
            trial.report(_score(params), part)
            trial.set_user_attr(f"part {part}", {"score": _score(params)})
        return _score(params)

    study = optuna.load_study(study_name=STUDY, storage=options.plain_worker)
    complete = (optuna.trial.TrialState.COMPLETE,)
    study.optimize(
        objective,
        callbacks=[optuna.study.MaxTrialsCallback(options.trials, states=complete)],
    )
    return 0


def _score(params: Mapping[str, Any]) -> float:
    return float(sum((params[f"x{k}"] - 0.3) ** 2 for k in range(5)))


def _count(url: str, errors: int) -> Run:
    engine = sa.create_engine(url)
    query = sa.text(
        "SELECT t.state, t.datetime_complete FROM trials t JOIN studies s USING (study_id)"
        f" WHERE s.study_name = '{STUDY}'"
    ).columns(sa.column("state", sa.String), sa.column("datetime_complete", sa.DateTime))
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    engine.dispose()
    ended = sorted(row.datetime_complete for row in rows if row.state == "COMPLETE")
    window = ended[len(ended) // 5 : len(ended) - len(ended) // 20]
    rate = (len(window) - 1) / (window[-1] - window[0]).total_seconds()
    return Run(rate, len(ended), len(rows) - len(ended), errors)


def _as_toml(dimension: Mapping[str, Any]) -> str:
    shown = {
        key: f'"{value}"' if isinstance(value, str) else value for key, value in dimension.items()
    }
    return "{ " + ", ".join(f"{key} = {value}" for key, value in shown.items()) + " }"


def _environment() -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    sys.exit(main())
