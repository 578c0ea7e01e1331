"""Objectives as written for `Study.optimize`, of the kinds that Optuna's public examples are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# What a simulation would take.
SIMULATION_S = 0.1


def quadratic(trial):
    x = trial.suggest_float("x", -10, 10)
    y = trial.suggest_int("y", -5, 5)
    return (x - 2) ** 2 + y**2


def evolved(trial):
    """Rosenbrock's valley in four dimensions: for CMA-ES."""
    x = np.array([trial.suggest_float(f"x{k}", -2, 2) for k in range(4)])
    time.sleep(SIMULATION_S)
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def surrogate(trial):
    """Branin's function, which is costly to ask: for Gaussian processes."""
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    time.sleep(SIMULATION_S)
    valley = y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6
    return float(valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10)


def constrained(trial):
    """The least sum within a ring; whether a trial is feasible is told beside its value."""
    x, y = trial.suggest_float("x", -15, 30), trial.suggest_float("y", -15, 30)
    time.sleep(SIMULATION_S)
    trial.set_constraint("within", (x - 5) ** 2 + y**2 - 25)
    trial.set_constraint("without", 7.7 - (x - 8) ** 2 - (y + 3) ** 2)
    return x + y


def tradeoff(trial):
    """Two objectives, of Binh and Korn."""
    x, y = trial.suggest_float("x", 0, 5), trial.suggest_float("y", 0, 3)
    time.sleep(SIMULATION_S)
    return 4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2


def program(trial):
    """A program is run, and its output read."""
    x = trial.suggest_float("x", 0, 1)
    code = f"import time; time.sleep({SIMULATION_S}); print(({x!r} - 0.5) ** 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def witnessed(trial):
    """Leaves a line for each attempt, and takes a while."""
    drawn = [trial.suggest_float(name, 0, 1) for name in ("a", "b")]
    with Path("journal.txt").open("a") as stream:
        stream.write(f"{trial.number} {drawn} {os.getpid()}\n")
    total = 0.0
    for step in range(4):
        time.sleep(0.1)
        total += drawn[step % 2]
        trial.report(total, step)
    trial.set_user_attr("total", total)
    return total


NSGA = "sampler.name=NSGAIISampler"
# Those that fit models are in a file of their own: what they import takes a worker longer than all
# else that it does, and most workers can do without.
FITTED = Path(__file__).with_name("fitted.py")
# What each is run with, and the package that this needs.
EXAMPLES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "classified": (("objective.direction=maximize",), None),
    "conditional": (("objective.direction=maximize",), None),
    "boosted": (("pruner.name=MedianPruner", "pruner.params.n_startup_trials=3"), None),
    "trained": (("pruner.name=HyperbandPruner", "pruner.params.max_resource=9"), None),
    "evolved": (("sampler.name=CmaEsSampler", "sampler.params.n_startup_trials=4"), "cmaes"),
    "surrogate": (("sampler.name=GPSampler", "sampler.params.n_startup_trials=6"), "torch"),
    "constrained": (("sampler.name=TPESampler", "sampler.params.n_startup_trials=4"), None),
    "tradeoff": (('objective.directions=["minimize", "minimize"]', NSGA), None),
    "perceptron": ((), None),
    "program": ((), None),
}
