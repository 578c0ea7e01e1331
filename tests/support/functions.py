"""Objectives as written for `Study.optimize`, of the kinds that examples of Optuna are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import lightgbm
import numpy as np
import optuna
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR


def quadratic(trial):
    x = trial.suggest_float("x", -10, 10)
    y = trial.suggest_int("y", -5, 5)
    return (x - 2) ** 2 + y**2


def conditional(trial):
    X, y = load_diabetes(return_X_y=True)
    if trial.suggest_categorical("model", ["ridge", "svr"]) == "ridge":
        model = Ridge(alpha=trial.suggest_float("alpha", 1e-3, 1e3, log=True))
    else:
        model = SVR(C=trial.suggest_float("C", 1e-2, 1e2, log=True))
    return cross_val_score(model, X[:120], y[:120], cv=2).mean()


def boosted(trial):
    X, y = load_diabetes(return_X_y=True)
    X_train, X_valid, y_train, y_valid = train_test_split(X, y, random_state=0)
    params = {
        "objective": "regression", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5,
        "num_leaves": trial.suggest_int("num_leaves", 2, 32),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
    }  # fmt: skip

    def report(env):
        trial.report(env.evaluation_result_list[0][2], env.iteration)
        if trial.should_prune():
            raise optuna.TrialPruned(f"at round {env.iteration}")

    booster = lightgbm.train(
        params,
        lightgbm.Dataset(X_train, y_train),
        num_boost_round=10,
        valid_sets=[lightgbm.Dataset(X_valid, y_valid)],
        callbacks=[report],
    )
    return float(np.mean((booster.predict(X_valid) - y_valid) ** 2))


def trained(trial):
    """Epochs, each of which is reported."""
    X, y = load_diabetes(return_X_y=True)
    model = SGDRegressor(
        alpha=trial.suggest_float("alpha", 1e-6, 1e-1, log=True),
        eta0=trial.suggest_float("eta0", 1e-4, 1e-1, log=True),
        random_state=0,
    )
    error = np.inf
    for epoch in range(5):
        model.partial_fit(X, y)
        error = float(np.mean((model.predict(X) - y) ** 2))
        trial.report(error, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("epochs", 5)
    return error


def perceptron(trial):
    X, y = load_diabetes(return_X_y=True)
    layers = [trial.suggest_int(f"units_{i}", 2, 8) for i in range(trial.suggest_int("n", 1, 3))]
    model = MLPRegressor(hidden_layer_sizes=layers, max_iter=3, random_state=0, solver="lbfgs")
    return float(np.mean((model.fit(X, y).predict(X) - y) ** 2))


def program(trial):
    x = trial.suggest_float("x", 0, 1)
    code = f"print(({x!r} - 0.5) ** 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def stepped(trial):
    """Draws on a grid that a grid sampler can go through."""
    x = trial.suggest_float("x", 0.0, 1.0, step=0.25)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return x + (kind == "b")


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


# By the options that each is run with.
KINDS = {
    "quadratic": (),
    "conditional": ("--set", "objective.direction=maximize"),
    "boosted": (),
    "trained": (),
    "perceptron": (),
    "program": (),
    "stepped": (),
    "witnessed": (),
}
