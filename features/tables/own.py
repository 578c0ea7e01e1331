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

from features.errors import DatasetError
from features.records import BuildResult, OwnRows, content_hash
from features.rows import Log
from features.specs import OwnSpec
from features.tables.cache import package_versions
from features.tables.store import build_result, holds_table, table_name, write

NAME = "own"


def build_own(spec: OwnSpec, *, data_dir: Path | None, tables_dir: Path, log: Log) -> BuildResult:
    """Call the function, and write what it returns unless that table is there already.

    Raises
    ------
    DatasetError
        There is no such function, it does not take these `params`, or it returns something else.
    TableError
        The rows make no table, or it cannot be written.
    """
    started = time.perf_counter()
    rows = _load(spec, data_dir)
    is_train = np.ones(len(rows.ids), dtype=bool) if rows.is_train is None else rows.is_train
    content: dict[str, Any] = {
        "ids": rows.ids,
        "formulas": rows.labels,
        "X": rows.X,
        "y": rows.y,
        "groups": rows.groups,
        "is_train": is_train,
        "columns": rows.columns,
        "target": rows.target,
    }
    folder = tables_dir / table_name(NAME, rows.columns, content_hash(**content))
    reused = holds_table(folder)
    if not reused:
        account = _provenance(spec, rows)
        folder = write(
            tables_dir, dataset=NAME, **content, skipped=rows.skipped, provenance=account
        )
    log(f"{NAME}: {'reused' if reused else 'built'} {folder.name} by {spec.loader}")
    found = build_result(folder, reused=reused, started=started)
    return replace(found, skipped=tuple(rows.skipped))


def _load(spec: OwnSpec, data_dir: Path | None) -> OwnRows:
    loader = _resolve(spec.loader)
    try:
        inspect.signature(loader).bind(data_dir, **spec.params)
    except TypeError as exc:
        raise DatasetError(
            f"[table] loader {spec.loader}: cannot be called as (data_dir, **{spec.params}): {exc}"
        ) from exc
    rows = loader(data_dir, **spec.params)
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
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as exc:
        raise DatasetError(f"[table] loader: cannot import '{module_name}': {exc}") from exc
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
