"""Does a search by workers find as good values as plain Optuna's?

Three functions, each main sampler, the same budget and the same seeds: `study.optimize` in memory,
with one thread and with as many as there are workers, against as many worker processes on one
SQLite file. What is compared is how far the best value is above the least there is, as its decimal
logarithm, in pairs over seeds: 0.3 is a factor of two, and above zero ours is worse. The interval
is Student's, of 95 %; where it holds zero, no difference was seen.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import scipy.stats
from optuna.trial import Trial

from hpo.objectives.function import FunctionObjective
from hpo.records import Access, WorkerRun
from hpo.spec.loading import validate
from hpo.spec.search import SamplerSpec
from hpo.storage.backends import open_storage
from hpo.study.creation import begin
from hpo.study.record import Source, find
from hpo.worker.sampler import make_sampler
from hpo.worker.worker import Worker

MODULE = "tests.benchmarks.sampling_quality"
# What a trial takes, so that several workers have trials in hand at the same time.
TRIAL_S = 0.02
# The resolution of the comparison: nobody needs better.
LEAST = 1e-6


def branin(trial: Trial) -> float:
    """Two floats, three equal valleys."""
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    valley = y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6
    return float(valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10 - 0.397887)


def rosenbrock(trial: Trial) -> float:
    """Four floats, one bent valley."""
    x = np.array([trial.suggest_float(f"x{k}", -2, 2) for k in range(4)])
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def mixed(trial: Trial) -> float:
    """A choice, a whole number, and floats that depend on the choice."""
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    depth = trial.suggest_int("depth", 1, 12)
    rate = np.log10(trial.suggest_float("rate", 1e-5, 1.0, log=True))
    own = trial.suggest_float(f"width_{kind}", 0.0, 1.0)
    offset = {"a": 0.5, "b": 0.2, "c": 0.0}[kind]
    return float((rate + 2.3) ** 2 + (depth - 7) ** 2 / 9 + 4 * (own - 0.37) ** 2 + offset)


FUNCTIONS: dict[str, Callable[[Trial], float]] = {
    function.__name__: function for function in (branin, rosenbrock, mixed)
}
SAMPLERS: dict[str, dict[str, Any]] = {
    "TPE": {"name": "TPESampler"},
    "TPE, grouped": {"name": "TPESampler", "params": {"multivariate": True, "group": True}},
    "CMA-ES": {"name": "CmaEsSampler", "params": {"n_startup_trials": 8}},
    "GP": {"name": "GPSampler"},
    "QMC": {"name": "QMCSampler", "params": {"scramble": True}},
    "random": {"name": "RandomSampler"},
    "NSGA-II": {"name": "NSGAIISampler", "params": {"population_size": 10}},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of paired differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--sampler", choices=SAMPLERS, nargs="*", default=list(SAMPLERS))
    parser.add_argument("--function", choices=FUNCTIONS, nargs="*", default=list(FUNCTIONS))
    parser.add_argument("--dir", type=Path, help="where the files are")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"log10 of the best of {options.trials} trials, mean over {options.seeds} seeds\n")
    print("| function | sampler | workers | plain | ours | ours - plain (95 %) |")
    print("|---|---|--:|--:|--:|--:|")
    for name in options.function:
        for sampler in options.sampler:
            for workers in options.workers:
                pairs = np.array(
                    [_pair(name, sampler, workers, seed, options) for seed in range(options.seeds)]
                )
                plain, ours = pairs.mean(axis=0)
                print(
                    f"| {name} | {sampler} | {workers} | {plain:.2f} | {ours:.2f} | "
                    f"{_difference(pairs[:, 1] - pairs[:, 0])} |",
                    flush=True,
                )
    return 0


def _difference(differences: np.ndarray) -> str:
    found = scipy.stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return f"{differences.mean():+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _pair(
    name: str, sampler: str, workers: int, seed: int, options: argparse.Namespace
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        ours = _ours(name, sampler, workers, seed, options.trials, f"sqlite:///{folder}/hpo.db")
    return _plain(name, sampler, workers, seed, options.trials), ours


def _waiting(function: Callable[[Trial], float], workers: int) -> Callable[[Trial], float]:
    def wait_and_return(trial: Trial) -> float:
        value = function(trial)
        time.sleep(TRIAL_S if workers > 1 else 0.0)
        return value

    return wait_and_return


def _plain(name: str, sampler: str, workers: int, seed: int, trials: int) -> float:
    spec = SamplerSpec.model_validate(SAMPLERS[sampler])
    study = optuna.create_study(sampler=make_sampler(spec, seed, {}, 0))
    function = _waiting(FUNCTIONS[name], workers)
    study.optimize(function, n_trials=trials, n_jobs=workers)
    return _distance(study)


def _ours(name: str, sampler: str, workers: int, seed: int, trials: int, url: str) -> float:
    raw = {
        "name": "quality",
        "trials": trials,
        "seed": seed,
        "objective": {"function": f"{MODULE}:{name}"},
        "sampler": SAMPLERS[sampler],
    }
    storage = open_storage(url, Access.CREATE)
    record = begin(storage, validate(raw, "benchmark"), Source("x.toml", (), None), None)
    storage.engine.dispose()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpo.worker.worker", "scipy.stats"])
    started = [
        context.Process(target=_work, args=(url, name, workers, f"w{k}")) for k in range(workers)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    study = record.optuna_study()
    assert sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) == trials
    found = _distance(study)
    storage.remove_session()
    storage.engine.dispose()
    return found


def _work(url: str, name: str, workers: int, worker_id: str) -> None:
    record = find(open_storage(url, Access.WORK), "quality")
    objective = FunctionObjective(_waiting(FUNCTIONS[name], workers))
    Worker(record, objective, worker_id).run(WorkerRun("here", 1))


def _distance(study: optuna.Study) -> float:
    return float(np.log10(max(study.best_value, LEAST)))


if __name__ == "__main__":
    raise SystemExit(main())
