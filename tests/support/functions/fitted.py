"""Objectives as written for `Study.optimize` that fit models of scikit-learn or LightGBM."""

from __future__ import annotations

import time

import joblib
import lightgbm
import numpy as np
import optuna
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import scale
from sklearn.svm import SVR

import hpo

# What a simulation would take.
SIMULATION_S = 0.1


def classified(trial):
    """A classifier of scikit-learn's, the accuracy of which is maximised."""
    X, y = load_iris(return_X_y=True)
    model = RandomForestClassifier(
        n_estimators=trial.suggest_int("n_estimators", 2, 8),
        max_depth=int(trial.suggest_float("max_depth", 2, 32, log=True)),
        random_state=0,
    )
    return cross_val_score(model, X, y, cv=3).mean()


def conditional(trial):
    """Which parameters there are depends on the model."""
    X, y = load_diabetes(return_X_y=True)
    if trial.suggest_categorical("model", ["ridge", "svr"]) == "ridge":
        model = Ridge(alpha=trial.suggest_float("alpha", 1e-3, 1e3, log=True))
    else:
        model = SVR(C=trial.suggest_float("C", 1e-2, 1e2, log=True))
    return cross_val_score(model, X, y, cv=4).mean()


def boosted(trial):
    """LightGBM, whose rounds are reported by a callback that prunes."""
    X, y = load_diabetes(return_X_y=True)
    X_train, X_valid, y_train, y_valid = train_test_split(X, y, random_state=0)
    params = {
        "objective": "regression", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5,
        "num_leaves": trial.suggest_int("num_leaves", 2, 32),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
    }  # fmt: skip

    def report(env):
        time.sleep(SIMULATION_S / 10)
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
    """Epochs, each of which is reported: for Hyperband."""
    X, y = load_diabetes(return_X_y=True)
    model = SGDRegressor(
        alpha=trial.suggest_float("alpha", 1e-6, 1e-1, log=True),
        eta0=trial.suggest_float("eta0", 1e-4, 1e-1, log=True),
        random_state=0,
    )
    error = np.inf
    for epoch in range(9):
        model.partial_fit(X, y)
        time.sleep(SIMULATION_S / 9)
        error = float(np.mean((model.predict(X) - y) ** 2))
        trial.report(error, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("epochs", 9)
    return error


def perceptron(trial):
    """A network that goes on from its own checkpoint."""
    X, y = load_diabetes(return_X_y=True)
    file = hpo.trial_dir(trial) / "model.joblib"
    epoch, model = 0, MLPRegressor(
        hidden_layer_sizes=[trial.suggest_int(f"n{k}", 2, 8) for k in range(2)],
        learning_rate_init=trial.suggest_float("rate", 1e-3, 1e-1, log=True),
        random_state=0,
    )  # fmt: skip
    if file.exists():
        epoch, model = joblib.load(file)
    while epoch < 5:
        epoch += 1
        model.partial_fit(X, scale(y))
        time.sleep(SIMULATION_S / 5)
        joblib.dump((epoch, model), file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        trial.report(model.loss_, epoch)
    assert model.t_ == 5 * len(X)
    return model.loss_
