"""The `own` dataset: rows that a function of a study's own reads and describes.

The function runs at every build, and its table is found again by what it holds: no list of what
the table depends on has to be kept, and none can be wrong.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import DatasetError, FeaturesError, describe_failure
from features.records import (
    BuildResult,
    OwnRows,
    TableRows,
    Target,
    columns_of,
    content_hash,
    row_settings,
)
from features.rows import Log
from features.specs import OwnSpec
from features.tables.cache import package_versions
from features.tables.checks import check_features, check_rows
from features.tables.store import (
    build_result,
    holds_table,
    table_name,
    write,
)

NAME = "own"


def build_own(spec: OwnSpec, *, data_dir: Path | None, tables_dir: Path, log: Log) -> BuildResult:
    """Call the function, and write what it returns unless that table is there already.

    Raises
    ------
    DatasetError
        There is no such function, it does not take these `params`, it fails, or it returns
        something else.
    TableError
        The rows make no table, or it cannot be written.
    """
    started = time.perf_counter()
    made = _load(spec, data_dir)
    rows, X = _outline(spec, made)
    content: dict[str, Any] = {
        "ids": rows.ids,
        "formulas": rows.formulas,
        "X": X,
        "y": rows.y,
        "groups": rows.groups,
        "is_train": rows.is_train,
        "columns": rows.columns,
        "target": rows.target,
        "more_targets": rows.more_targets,
        **row_settings(rows.weights, rows.test_fold, rows.bounds),
    }
    folder = tables_dir / table_name(NAME, rows.columns, content_hash(**content))
    reused = holds_table(folder)
    if not reused:
        account = _provenance(spec, made)
        folder = write(
            tables_dir, dataset=NAME, **content, skipped=rows.skipped, provenance=account
        )
    log(f"{NAME}: {'reused' if reused else 'built'} {folder.name} by {spec.loader}")
    found = build_result(folder, reused=reused, started=started)
    return replace(found, skipped=rows.skipped)


def read_own(spec: OwnSpec, data_dir: Path | None) -> TableRows:
    """Call the function, and return what a table would hold; see `build_own`."""
    rows, X = _outline(spec, _load(spec, data_dir))
    return replace(rows, X=X)


def _outline(spec: OwnSpec, made: OwnRows) -> tuple[TableRows, NDArray[np.float64]]:
    """Return the rows that a function returned, and their features, if they make a table."""
    try:
        X = np.asarray(made.X, dtype=np.float64)
        y = np.asarray(made.y, dtype=np.float64)
        n_rows = len(made.ids)
        held_out = made.is_train is not None
        target, *more_targets = [made.target] if isinstance(made.target, Target) else made.target
        if y.ndim == 2 and not more_targets:
            y = y.reshape(n_rows)
        rows = TableRows(
            dataset=NAME,
            ids=tuple(str(text) for text in made.ids),
            formulas=tuple(str(text) for text in made.labels),
            groups=tuple(str(text) for text in made.groups),
            y=y,
            is_train=np.asarray(made.is_train if held_out else np.ones(n_rows), dtype=bool),
            columns=tuple(made.columns),
            target=target,
            more_targets=tuple(more_targets),
            skipped=tuple(made.skipped),
            weights=_numbers(made.weights, np.float64),
            test_fold=_numbers(made.test_fold, np.int64),
            bounds=_numbers(made.bounds, np.float64),
        )
        if rows.bounds is not None and _is_measured(rows.bounds, y):
            rows = replace(rows, bounds=None)
        check_rows(rows)
    except (TypeError, ValueError, AttributeError) as exc:
        raise DatasetError(
            f"[table] loader {spec.loader}: what it returned makes no table: {exc}"
        ) from exc
    check_features(X, n_rows, len(rows.columns))
    return rows, X


def _is_measured(bounds: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Return whether bounds are the values themselves, of all targets or one, and so say nothing.

    `bounds` are of shape (n_rows, 2), or (n_rows, n_targets, 2).
    """
    if bounds.shape == (*y.shape, 2):
        return bool((bounds == y[..., None]).all())
    of_one = bounds.shape == (len(y), 2)
    return of_one and any((bounds == values[:, None]).all() for values in columns_of(y))


def _numbers(values: Any, kind: type[np.generic]) -> NDArray[Any] | None:
    return None if values is None else np.asarray(values, dtype=kind)


def _load(spec: OwnSpec, data_dir: Path | None) -> OwnRows:
    loader = _resolve(spec.loader)
    try:
        inspect.signature(loader).bind(data_dir, **spec.params)
    except TypeError as exc:
        raise DatasetError(
            f"[table] loader {spec.loader}: cannot be called as (data_dir, **{spec.params}): {exc}"
        ) from exc
    try:
        rows = loader(data_dir, **spec.params)
    except FeaturesError:
        raise
    except (Exception, SystemExit) as exc:  # somebody else's function may raise anything
        raise DatasetError(
            f"[table] loader {spec.loader}: failed with {describe_failure(exc)}"
        ) from exc
    if not isinstance(rows, OwnRows):
        raise DatasetError(
            f"[table] loader {spec.loader}: must return features.table.OwnRows, returned "
            f"{type(rows).__name__}"
        )
    return rows


def _resolve(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # somebody else's module may raise anything
        raise DatasetError(
            f"[table] loader: cannot import '{module_name}': {describe_failure(exc)}"
        ) from exc
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as exc:
        raise DatasetError(f"[table] loader: '{module_name}' has no '{attribute}'") from exc
    if not callable(found):
        raise DatasetError(f"[table] loader {name}: is no function")
    made: Callable[..., Any] = found
    return made


def _provenance(spec: OwnSpec, rows: OwnRows) -> dict[str, Any]:
    hashes = [
        {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in rows.sources
    ]
    return {
        "spec": spec.model_dump(mode="json"),
        "sources": hashes,
        "packages": package_versions(["numpy"]),
        "citation": rows.citation,
    }
