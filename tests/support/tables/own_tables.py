"""Functions that a study file names as the makers of its table."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.table import Column, FeatureTable, OwnRows, SkippedRow, TableRows, Target

CALLS: list[dict[str, object]] = []


def rows_of_table(table: FeatureTable, **changes: Any) -> TableRows:
    """Return the rows that a table is of, with some of what they hold changed."""
    held: dict[str, Any] = {
        "dataset": "own",
        "ids": tuple(table.ids),
        "formulas": tuple(table.formulas),
        "groups": tuple(table.groups),
        "y": table.y,
        "is_train": table.is_train,
        "columns": table.columns,
        "target": table.target,
        "more_targets": table.more_targets,
        "bounds": table.bounds,
    }
    return TableRows(**{**held, **changes})


def load_rows(data_dir, *, n_rows=6, shift=0.0):
    """Rows of a file of numbers."""
    CALLS.append({"data_dir": data_dir, "n_rows": n_rows})
    path = data_dir / "numbers.csv"
    numbers = np.loadtxt(path)[:n_rows] + shift
    return OwnRows(
        ids=[f"row-{k}" for k in range(len(numbers))],
        groups=[f"group-{k % 3}" for k in range(len(numbers))],
        labels=["water"] * len(numbers),
        X=np.column_stack([numbers, numbers**2]),
        y=numbers * 3.0,
        columns=[Column("x", "made", "m"), Column("twin", "made", derived_from_target=True)],
        target=Target("y", "m"),
        skipped=[SkippedRow(9, "row-9", path.name, "no number")],
        sources=[path],
        citation="nobody",
    )


def load_nothing(data_dir):
    """No rows."""
    return data_dir
