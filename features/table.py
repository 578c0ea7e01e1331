"""The door of this package: what a study sees of features.

A study file describes a table (:data:`TableSpec`), :func:`build` makes it once, and
:func:`read` loads it. Importing this module loads no chemistry, and reading a table needs none:
a worker gets by with numpy, pydantic and pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from features.errors import DatasetError, FamilyError, FeaturesError, TableError
from features.records import (
    BuildResult,
    Column,
    FeatureTable,
    PartialRow,
    SkippedRow,
    TableView,
    Target,
    content_hash,
)
from features.registry import FAMILIES, FamilyInfo
from features.specs import DATASETS, CellColumns, CsvSpec, ObelixSpec, TableSpec, TransportSpec
from features.store import TABLE_FORMAT, read, read_manifest, write

__all__ = [
    "TABLE_FORMAT",
    "BuildResult",
    "CellColumns",
    "Column",
    "CsvSpec",
    "DatasetError",
    "FamilyError",
    "FamilyInfo",
    "FeatureTable",
    "FeaturesError",
    "ObelixSpec",
    "PartialRow",
    "SkippedRow",
    "TableError",
    "TableSpec",
    "TableView",
    "Target",
    "TransportSpec",
    "build",
    "content_hash",
    "datasets",
    "families",
    "read",
    "read_manifest",
    "write",
]


def build(
    spec: TransportSpec | ObelixSpec | CsvSpec,
    *,
    data_dir: Path | None,
    tables_dir: Path,
    base_dir: Path,
    log: Callable[[str], None] | None = None,
) -> BuildResult:
    """Build the table that ``spec`` describes, or find it built already.

    With nothing changed since the last build this takes milliseconds and imports no chemistry;
    with something changed, the families that do not depend on it are taken from a cache. Several
    builds may run at once, and one that is killed leaves nothing half.

    Parameters
    ----------
    spec : TransportSpec, ObelixSpec or CsvSpec
        The table to build.
    data_dir : Path or None
        Where datasets lie. Only ``obelix`` looks there, in the folder itself and in its
        ``obelix/``; with None it downloads the files, once.
    tables_dir : Path
        Where tables are kept; made if absent.
    base_dir : Path
        What relative paths in ``spec`` are relative to: the study file's folder.
    log : callable, optional
        Receives one line of progress at a time.

    Raises
    ------
    DatasetError
        A source is missing or has no usable row.
    FamilyError
        A family cannot be computed on this machine or for this dataset.
    TableError
        The table cannot be written.
    """
    from features.build import build_table  # chemistry starts behind this line

    return build_table(
        spec, data_dir=data_dir, tables_dir=tables_dir, base_dir=base_dir, log=log or _silent
    )


def families() -> Mapping[str, FamilyInfo]:
    """Return every feature family by name, without importing chemistry."""
    return FAMILIES


def datasets() -> Mapping[str, str]:
    """Return a one-line description of every dataset by name."""
    return DATASETS


def _silent(line: str) -> None:
    """Drop a line of progress."""
