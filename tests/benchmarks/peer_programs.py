"""The programs that `peers` compares, each as its own documentation has it.

Run by the Python of an environment that holds one peer and nothing of this project:

    python -P peer_programs.py ROLE --trials N --work WORK

The working directory holds `space.json`, and `data.npz` if models are fitted. Every evaluation
writes its beginning and its end into `journal.txt`; at its end a program writes into `books.json`
how many finished trials its own books have.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

URL = "sqlite:///study.db"
WORKERS = 2
SECONDS = {"no-op": 0.0, "sleep-0.1": 0.1, "sleep-1": 1.0}


class Work:
    """The objective as this project runs it: one part, which is the whole evaluation."""

    direction = "minimize"
    score_name = "score"
    parts = ("all",)
    splits_hash = ""

    def __init__(self, _table: object, *, seed: int, work: str) -> None:
        self.folder, self.work = Path.cwd(), work

    def score_part(self, params: Mapping[str, Any], _part: int) -> dict[str, float]:
        """Evaluate."""
        return {"score": evaluate(params, self.work, self.folder)}

    def combine(self, parts: Any) -> dict[str, float]:
        """Return the one score."""
        return {"score": parts[0]["score"]}


def evaluate(params: Mapping[str, Any], work: str, folder: Path) -> float:
    """Return the score of a point, and note when that began and ended."""
    key = ",".join(repr(float(value)) for value in params.values())
    _note(folder, "begin", key)
    if work in SECONDS:
        time.sleep(SECONDS[work])
        score = (float(params["alpha"]) - 1.0) ** 2
    else:
        score = _cross_validate(params, folder)
    _note(folder, "end", key)
    return score


def _note(folder: Path, event: str, key: str) -> None:
    # One write of a line is not torn by the writes of others.
    with (folder / "journal.txt").open("ab", buffering=0) as journal:
        journal.write(f"{event} {os.getpid()} {key} {time.time()}\n".encode())


def _cross_validate(params: Mapping[str, Any], folder: Path) -> float:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.model_selection import PredefinedSplit, cross_validate

    data = np.load(folder / "data.npz")
    names = {name: type_ for name, type_, *_ in _space(folder)}
    given = {
        name: int(value) if names[name] == "int" else float(value)
        for name, value in params.items()
        if name in names
    }
    found = cross_validate(
        HistGradientBoostingRegressor(**given, random_state=0),
        data["X"],
        data["y"],
        cv=PredefinedSplit(data["fold"]),
        scoring="neg_root_mean_squared_error",
        return_train_score=True,
    )
    gap = np.clip(found["train_score"] - found["test_score"], 0.0, None)
    return float(np.mean(-found["test_score"] + float(data["penalty"]) * gap))


def _space(folder: Path) -> list[tuple[str, str, float, float, bool]]:
    text = (folder / "space.json").read_text(encoding="utf-8")
    return [tuple(dimension) for dimension in json.loads(text)]


def _write_books(finished: int) -> None:
    Path("books.json").write_text(json.dumps({"finished": finished}), encoding="utf-8")


def _suggest(trial: Any, space: list[tuple[str, str, float, float, bool]]) -> dict[str, Any]:
    drawn = {}
    for name, kind, low, high, log in space:
        suggest = trial.suggest_int if kind == "int" else trial.suggest_float
        drawn[name] = suggest(name, low, high, log=log)
    return drawn


def run_optuna(trials: int, work: str) -> None:
    """One of two processes that share a study on SQLite."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="x", storage=URL, load_if_exists=True)
    folder, space = Path.cwd(), _space(Path())
    study.optimize(
        lambda trial: evaluate(_suggest(trial, space), work, folder), n_trials=trials // WORKERS
    )
    complete = optuna.trial.TrialState.COMPLETE
    _write_books(sum(trial.state is complete for trial in study.get_trials(deepcopy=False)))


def create_optuna(_trials: int, _work: str) -> None:
    """Create the study once, before both processes: two that create a schema at once may fail."""
    import optuna

    optuna.create_study(study_name="x", storage=URL)


def run_ray(trials: int, work: str) -> None:
    """Ray Tune with Optuna's TPE, two trials at a time on one machine."""
    import ray
    from optuna.distributions import FloatDistribution, IntDistribution
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    folder = Path.cwd()
    space: dict[str, Any] = {}
    for name, kind, low, high, log in _space(Path()):
        make: Any = IntDistribution if kind == "int" else FloatDistribution
        space[name] = make(low, high, log=log)

    def trainable(config: dict[str, Any]) -> dict[str, float]:
        return {"score": evaluate(config, work, folder)}

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    results = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space, metric="score", mode="min"), num_samples=trials
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    ).fit()
    _write_books(sum(result.error is None and bool(result.metrics) for result in results))


def run_neps(trials: int, work: str) -> None:
    """One of two processes that share a folder."""
    import neps

    folder = Path.cwd()
    space: dict[str, Any] = {}
    for name, kind, low, high, log in _space(Path()):
        make = neps.Integer if kind == "int" else neps.Float
        space[name] = make(low, high, log=log)

    def evaluate_pipeline(**params: Any) -> float:
        return evaluate(params, work, folder)

    neps.run(
        evaluate_pipeline,
        type("Space", (neps.PipelineSpace,), space)(),
        root_directory="neps",
        total_evaluations_to_spend=trials,
        optimizer="random_search",
    )
    _write_books(len(list(Path("neps").glob("configs/*/report.yaml"))))


def run_syne(trials: int, work: str) -> None:
    """Syne Tune's local backend, which starts a process for each trial."""
    import logging

    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import lograndint, loguniform, randint, uniform
    from syne_tune.optimizer.baselines import TPE

    logging.getLogger().setLevel(logging.WARNING)
    space: dict[str, Any] = {}
    for name, kind, low, high, log in _space(Path()):
        whole, real = (lograndint, loguniform) if log else (randint, uniform)
        space[name] = whole(low, high) if kind == "int" else real(low, high)
    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=TPE({**space, "work": work, "folder": str(Path.cwd())}, metric="score"),
        stop_criterion=StoppingCriterion(max_num_trials_completed=trials),
        n_workers=WORKERS,
        sleep_time=0.1,
        print_update_interval=1e9,
    )
    tuner.run()
    _write_books(tuner.tuning_status.num_trials_completed)


def run_syne_trial(arguments: list[str]) -> None:
    """Run one trial of Syne Tune's: it passes the parameters as options."""
    from syne_tune import Reporter

    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    folder = Path(given["--folder"])
    names = [name for name, *_ in _space(folder)]
    params = {name: float(given[f"--{name}"]) for name in names}
    Reporter()(score=evaluate(params, given["--work"], folder))


def run_hydra(trials: int, work: str) -> None:
    """Hydra's Optuna sweeper with its joblib launcher."""
    import hydra

    folder = Path.cwd()
    params = []
    for name, kind, low, high, log in _space(Path()):
        # The sweeper's range includes its end.
        interval = f"range({low},{high})" if kind == "int" else f"interval({low},{high})"
        params.append(f"+{name}=" + (f"tag(log,{interval})" if log else interval))
    sys.argv = [
        *(
            sys.argv[0],
            "--multirun",
            "hydra/sweeper=optuna",
            "hydra/sweeper/sampler=tpe",
            "hydra/launcher=joblib",
        ),
        *(f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.n_jobs={WORKERS}"),
        *(f"hydra.launcher.n_jobs={WORKERS}", "hydra.sweeper.direction=minimize"),
        *params,
    ]

    @hydra.main(version_base=None, config_path=None)
    def app(config: Any) -> float:
        return evaluate(dict(config), work, folder)

    app()
    # The sweeper keeps its study in memory: it has finished what it was asked for, or has raised.
    _write_books(trials)


ROLES: dict[str, Callable[[int, str], None]] = {
    "create-optuna": create_optuna,
    "optuna": run_optuna,
    "ray": run_ray,
    "neps": run_neps,
    "syne": run_syne,
    "hydra": run_hydra,
}


def main() -> None:
    """Run one role."""
    if "--folder" in sys.argv:
        run_syne_trial(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--work", required=True)
    options = parser.parse_args()
    ROLES[options.role](options.trials, options.work)


if __name__ == "__main__":
    main()
