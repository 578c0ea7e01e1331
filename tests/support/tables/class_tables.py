"""A small table whose target has classes, in memory and as a study's own."""

from __future__ import annotations

import numpy as np

from features.table import Column, FeatureTable, OwnRows, OwnSpec, Target
from features.tables.own import read_own

LABELS = ("crystal", "glass", "melt")


def load_classes(data_dir=None, *, n_classes=2, n_rows=120, rare=False, gaps=False):
    """Rows in groups of four, of which two columns say the class."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, n_classes, n_rows).astype(float)
    if rare:
        y = np.where(np.arange(n_rows) < n_classes, np.arange(n_rows), 0.0)
    X = rng.normal(size=(n_rows, 4))
    X[:, 0] += 1.5 * (y == 1)
    X[:, 1] += 1.5 * (y == 2)
    if gaps:
        X[::7, 3] = np.nan
    return OwnRows(
        ids=[f"row-{k}" for k in range(n_rows)],
        groups=[f"group-{k // 4}" for k in range(n_rows)],
        labels=["Li2O"] * n_rows,
        X=X,
        y=y,
        columns=[Column(f"x{k}", "made") for k in range(4)],
        target=Target("phase", classes=LABELS[:n_classes]),
        is_train=np.arange(n_rows) < 0.8 * n_rows,
    )


OWN = {"dataset": "own", "loader": f"{__name__}:load_classes"}


def class_table(**params) -> FeatureTable:
    """Return it as a table."""
    rows = read_own(OwnSpec.model_validate({**OWN, "params": params}), None)
    assert rows.X is not None
    return rows.with_features(rows.X)
