"""Rows, columns and models that the tests of composite estimators share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

import features.table
from features.table import Column, FeatureTable, Target

# Columns: two plain ones, one scalar behind the gate, two indicators.
BASE, SECOND, GATE, SCALAR = (0, 1), (0, 1, 2, 3, 4), (3, 4), (2,)
COLUMNS = [
    Column("x0", "plain"),
    Column("x1", "plain"),
    Column("barrier", "physics"),
    Column("has_barrier", "physics"),
    Column("has_more", "physics"),
]
ALPHA = {"type": "float", "low": 0.001, "high": 10.0}


def make_rows(n=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    X[:, 3] = np.arange(n) % 2
    X[:, 4] = np.arange(n) % 3 != 0
    y = X[:, 0] + X[:, 3] * X[:, 4] * 2.0 * X[:, 2] + 0.1 * rng.normal(size=n)
    X[X[:, 3] == 0, 2] = 0.0
    return X, y


def write_rows(folder: Path) -> FeatureTable:
    """Write the rows as a table of 96 training and 24 held-out rows, and read it."""
    X, y = make_rows()
    path = features.table.write(
        folder,
        dataset="gated",
        ids=[f"row-{i}" for i in range(len(y))],
        formulas=["Li2O"] * len(y),
        X=X,
        y=y,
        groups=[f"group-{i // 4}" for i in range(len(y))],
        is_train=np.arange(len(y)) < 96,
        columns=COLUMNS,
        target=Target("y"),
    )
    return features.table.read(path)


def tree():
    return HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5, random_state=0)
