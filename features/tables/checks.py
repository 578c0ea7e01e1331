"""What makes a table, and what makes none."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from features.errors import TableError
from features.families.registry import RESERVED_NAMES
from features.records import CONTROL, TableRows, row_settings


def check_rows(rows: TableRows) -> None:
    """Refuse rows that make no table, whatever their features.

    Raises
    ------
    TableError
        Pieces differ in length, names are there twice, a target is not finite, or no row is left
        to train on.
    """
    n_rows = len(rows.ids)
    settings = row_settings(rows.weights, rows.test_fold, rows.bounds)
    lengths = {len(rows.formulas), len(rows.y), len(rows.groups), len(rows.is_train), n_rows}
    lengths |= {len(values) for values in settings.values()}
    if n_rows == 0 or len(lengths) != 1:
        raise TableError(f"table: its pieces must have one length above 0, not {sorted(lengths)}")
    names = [column.name for column in rows.columns]
    if not names:
        raise TableError("table: it has no feature column; name a family")
    for what, values in (("ids", rows.ids), ("column names", names)):
        if len(set(values)) < len(values):
            value, count = Counter(values).most_common(1)[0]
            raise TableError(f"table: {what} must be unique, but {value!r} is there {count} times")
    for what, values in (("ids", rows.ids), ("groups", rows.groups), ("column names", names)):
        if (bad := next(filter(CONTROL.search, values), None)) is not None:
            raise TableError(f"table: {what} must have no control characters, got {bad!r}")
    reserved = RESERVED_NAMES | {*target_columns(1 + len(rows.more_targets))}
    taken = sorted(reserved & set(names))
    if taken:
        raise TableError(f"table: {taken[0]!r} is the table's own column; rename the feature")
    _check_values(rows)


def _check_values(rows: TableRows) -> None:
    if fault := _fault_of_targets(rows) or rows.target.fault(rows.y):
        raise TableError(f"table: {fault}")
    if rows.weights is not None and not (np.isfinite(rows.weights) & (rows.weights > 0)).all():
        raise TableError("table: weights must be finite and above 0; skip the other rows")
    if rows.bounds is not None:
        _check_bounds(rows, rows.bounds)
    if not np.any(rows.is_train):
        raise TableError("table: no row is a train row; hold out fewer rows")


def _check_bounds(rows: TableRows, bounds: NDArray[np.float64]) -> None:
    if rows.target.classes:
        raise TableError("table: a target with classes has no bounds; leave them out")
    if bounds.shape != (len(rows.y), 2):
        raise TableError(f"table: bounds must be of shape ({len(rows.y)}, 2), got {bounds.shape}")
    holds = (bounds[:, 0] <= rows.y) & (rows.y <= bounds[:, 1]) & np.isfinite(bounds).any(axis=1)
    if not holds.all():
        row = int(np.flatnonzero(~holds)[0])
        lower, upper = bounds[row]
        raise TableError(
            f"table: bounds must be a lower and an upper one with y between them, one of them "
            f"finite; those of {rows.ids[row]!r} are {lower:g} and {upper:g}, and y is "
            f"{rows.y[row]:g}"
        )


def _fault_of_targets(rows: TableRows) -> str:
    """Return why `y` does not hold the targets that it is said to; "" if it may."""
    targets = (rows.target, *rows.more_targets)
    shape = (len(rows.ids), len(targets)) if rows.more_targets else (len(rows.ids),)
    if rows.y.shape != shape:
        named = ", ".join(target.name for target in targets)
        return f"y must have the shape {shape} for the target {named}, has {rows.y.shape}"
    if not rows.more_targets:
        return ""
    if rows.bounds is not None:
        return f"bounds are of one target, and there are {len(targets)}; take one, or no bounds"
    names = [target.name for target in targets]
    if len({*names}) < len(names):
        return f"targets must have names of their own, got {', '.join(names)}"
    if classes := next((target.name for target in targets if target.classes), ""):
        return f"several targets must be numbers, and {classes!r} has classes; take it alone"
    return ""


def target_columns(n_targets: int) -> list[str]:
    """Return what the columns of `y` are called in a table's Parquet file."""
    return ["y", *(f"y {position}" for position in range(2, n_targets + 1))]


def check_features(X: NDArray[np.float64], n_rows: int, n_columns: int) -> None:
    """Refuse features that are not of so many rows and columns, or are infinite.

    Raises
    ------
    TableError
        Saying which.
    """
    if X.shape != (n_rows, n_columns):
        raise misfit(X.shape, n_rows, n_columns)
    refuse_infinite(X)


def refuse_infinite(X: NDArray[np.float64]) -> None:
    """Refuse values that are neither finite nor NaN, with a TableError."""
    if np.isinf(X).any():
        raise TableError("table: X must be finite or NaN; skip the other rows")


def misfit(shape: tuple[int, ...], n_rows: int, n_columns: int) -> TableError:
    """Return the error about pieces of `X` that are not of so many rows and columns."""
    return TableError(f"table: X is {shape}, but there are {n_rows} rows, {n_columns} columns")
