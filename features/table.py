"""The door of this package: what a study sees of features.

A study file describes a table (`TableSpec`), `build` makes it once, and
`read` loads it. Importing this module loads no chemistry, and reading a table needs none:
a worker gets by with numpy, pydantic and pyarrow. What makes tables is imported by the
functions that make them, for workers' sake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ELEMENTS
from features.errors import (
    DatasetError,
    FamilyError,
    FeaturesError,
    TableError,
    describe_failure,
)
from features.families.own_columns import COLUMNS as OWN_COLUMNS
from features.families.registry import FAMILIES, FamilyInfo
from features.intake.csv_parsing import CsvFile
from features.records import (
    BuildResult,
    Column,
    FeatureTable,
    OwnRows,
    PartialRow,
    SkippedRow,
    TableRows,
    TableView,
    Target,
    columns_of,
    content_hash,
)
from features.specs import (
    AnySpec,
    BandGapSpec,
    CellColumns,
    CsvSpec,
    FamiliesSpec,
    ObelixSpec,
    OwnSpec,
    TableSpec,
    TransportSpec,
)
from features.tables.candidate_lines import Candidates
from features.tables.store import TABLE_FORMAT, read, read_manifest, write

if TYPE_CHECKING:
    from features.datasets.outline import CsvOutline as CsvOutline
    from features.tables.structure_cache import Structures as Structures

__all__ = [
    "ELEMENTS",
    "OWN_COLUMNS",
    "TABLE_FORMAT",
    "BandGapSpec",
    "BuildResult",
    "Candidates",
    "CellColumns",
    "Column",
    "CsvFile",
    "CsvSpec",
    "DatasetError",
    "FamilyError",
    "FamilyInfo",
    "FeatureTable",
    "FeaturesError",
    "ObelixSpec",
    "OwnRows",
    "OwnSpec",
    "PartialRow",
    "SkippedRow",
    "TableError",
    "TableRows",
    "TableSpec",
    "TableView",
    "Target",
    "TransportSpec",
    "anion_classes",
    "atomic_fractions",
    "build",
    "changed_families",
    "columns_of",
    "content_hash",
    "datasets",
    "describe_failure",
    "families",
    "find_structures",
    "outline_csv",
    "read",
    "read_candidate_pieces",
    "read_candidates",
    "read_csv",
    "read_manifest",
    "read_rows",
    "write",
]


def build(
    spec: AnySpec,
    *,
    data_dir: Path | None,
    tables_dir: Path,
    base_dir: Path,
    log: Callable[[str], None] | None = None,
    workers: int = 1,
    inspect: Callable[[TableRows], None] | None = None,
) -> BuildResult:
    """Build the table that `spec` describes, or find it built already.

    With nothing changed since the last build this takes milliseconds and imports no chemistry;
    with something changed, the families that do not depend on it are taken from a cache. Several
    builds may run at once, and one that is killed leaves nothing half.

    Parameters
    ----------
    spec : TableSpec
        The table to build.
    data_dir : Path or None
        Where datasets lie: `obelix` looks in the folder itself and in its `obelix/`, and with
        None downloads the files, once; `band_gap` looks in the folder and its `bandgap/`;
        `own` hands it to the study's function.
    tables_dir : Path
        Where tables are kept; made if absent.
    base_dir : Path
        What relative paths in `spec` are relative to: the study file's folder.
    log : callable, optional
        Receives one line of progress at a time.
    workers : int
        Local processes that share the CIFs of families that take one at a time.
    inspect : callable, optional
        Receives the rows before any feature of theirs is computed; what it raises ends the build.
        Not called where the table is built already, or has features that come with its rows.

    Raises
    ------
    DatasetError
        A source is missing or has no usable row.
    FamilyError
        A family cannot be computed on this machine or for this dataset.
    TableError
        The table cannot be written.
    """
    log = log or _silent
    if isinstance(spec, OwnSpec):
        from features.tables.own import build_own

        return build_own(spec, data_dir=data_dir, tables_dir=tables_dir, log=log)
    from features.tables.build import build_table

    return build_table(
        spec,
        data_dir=data_dir,
        tables_dir=tables_dir,
        base_dir=base_dir,
        log=log,
        workers=workers,
        inspect=inspect,
    )


def read_rows(
    spec: AnySpec,
    *,
    data_dir: Path | None,
    base_dir: Path,
    log: Callable[[str], None] | None = None,
) -> TableRows:
    """Read the rows that a table would have; compute no feature, and write nothing.

    What `build` refuses before it computes features is refused here in the same words. A
    dataset that is downloaded once is downloaded, if it has not been.

    Parameters
    ----------
    spec, data_dir, base_dir, log
        As in `build`.

    Raises
    ------
    DatasetError
        A source is missing or has no usable row.
    TableError
        The rows make no table.
    """
    log = log or _silent
    if isinstance(spec, OwnSpec):
        from features.tables.own import read_own

        return read_own(spec, data_dir)
    from features.tables.build import read_rows as read

    return read(spec, data_dir=data_dir, base_dir=base_dir, log=log)


def outline_csv(path: Path, targets: Sequence[str] = ()) -> CsvOutline:
    """Look at a CSV file, and guess what its columns are.

    Raises
    ------
    DatasetError
        The file cannot be read, or makes no table.
    """
    from features.datasets.outline import outline_csv as look

    return look(path, targets)


def find_structures(
    spec: AnySpec,
    *,
    data_dir: Path | None,
    tables_dir: Path,
    base_dir: Path,
    log: Callable[[str], None] | None = None,
) -> Structures:
    """Find the structures of a table that any number of processes may describe together.

    `count_missing()` of the result says how many descriptions are missing, and
    `describe(workers, log)` makes those that nobody else is at work on. `build` then takes
    them from the cache, and makes what is still missing.

    Parameters
    ----------
    spec, data_dir, tables_dir, base_dir, log
        As in `build`.

    Raises
    ------
    DatasetError
        A source is missing or has no usable row.
    """
    spec = _with_families(spec, "no structures to describe")
    from features.tables.build import find_structures as find

    return find(
        spec, data_dir=data_dir, tables_dir=tables_dir, base_dir=base_dir, log=log or _silent
    )


def read_candidates(
    path: Path,
    spec: AnySpec,
    *,
    formula: str | None = None,
    log: Callable[[str], None] | None = None,
    table: FeatureTable | None = None,
) -> Candidates:
    """Read a CSV file of unmeasured materials, and compute the features of a table for them.

    The values are those that the rows of a table would have, made by the same code. No line is
    dropped: what cannot be read has its reason. Cells stand in the columns that the table's own
    file has them in, or in the usual ones; the column `cif` names files, relative to `path`.

    Parameters
    ----------
    path : Path
        The CSV file.
    spec : TableSpec
        The table whose families are computed.
    formula : str, optional
        The column of formulas; by default the table's own or one with a usual name, if there is
        one or a family needs it.
    log : callable, optional
        Receives one line of progress at a time.
    table : FeatureTable, optional
        The finished table; needed where `spec` has a `transfer`, as candidates borrow from its
        training rows, or categories, which are those of its training rows.

    Raises
    ------
    DatasetError
        The file is missing, empty, or lacks a column of formulas or one that is a feature.
    FamilyError
        A family cannot be computed on this machine.
    TableError
        Values are to be borrowed or have categories, and `table` is not given or another one.
    """
    spec = _with_families(spec, "no features for new candidates")
    from features.tables.candidates import load_candidates

    (found,) = load_candidates(path, spec, formula=formula, log=log or _silent, table=table)
    return found


def read_candidate_pieces(
    path: Path,
    spec: AnySpec,
    *,
    formula: str | None = None,
    log: Callable[[str], None] | None = None,
    table: FeatureTable | None = None,
    piece_lines: int = 20_000,
) -> Iterator[Candidates]:
    """Read a file as `read_candidates` does, and yield so many lines at a time with features.

    The file is looked through once, for its dialect and its numbers, and read again meanwhile.
    One piece is in memory at a time, of whoever lets go of the others. All lines come at once
    where families need cells or CIFs.
    """
    spec = _with_families(spec, "no features for new candidates")
    from features.tables.candidates import load_candidates

    settings: dict[str, Any] = {"formula": formula, "log": log or _silent, "table": table}
    return load_candidates(path, spec, **settings, piece_lines=piece_lines)


def changed_families(table: FeatureTable, spec: AnySpec) -> list[str]:
    """Return the families that give other columns or values now than when a table was built.

    Values are compared, to 1e-9, for up to 50 training rows and the families that need nothing
    but the formula; and what all rows would borrow now ("transfer").
    """
    spec = _with_families(spec, "no features for new candidates")
    from features.tables.candidates import changed_families as compare

    return compare(table, spec)


def atomic_fractions(formulas: Sequence[str]) -> NDArray[np.float64]:
    """Return the atomic fractions of `ELEMENTS`, of shape (n_formulas, 103).

    A formula with an element beyond lawrencium is NaN.

    Raises
    ------
    ValueError
        A text is no formula.
    """
    from features.tables.candidates import atomic_fractions as fractions_of

    return fractions_of(formulas)


def anion_classes(formulas: Sequence[str]) -> NDArray[np.str_]:
    """Return a chemical class per formula by the anions in it, of shape (n_formulas,).

    "oxide", "sulfide" and so on; "mixed anions" where several make up more than a tenth of the
    anions each; "no anion"; "unknown" for a text that is no formula.
    """
    from features.chemistry.composition import anion_class
    from features.intake.formulas import read_formula

    def class_of(formula: str) -> str:
        try:
            return anion_class(read_formula(formula).amounts)
        except ValueError:
            return "unknown"

    return np.array([class_of(str(formula)) for formula in formulas], dtype=np.str_)


def read_csv(path: Path) -> CsvFile:
    """Read a CSV file of whatever dialect, with what is wrong with its lines.

    Raises
    ------
    DatasetError
        It cannot be read, or is no CSV file with rows.
    """
    from features.datasets.sources import read_source
    from features.intake.csv_parsing import parse_csv

    return parse_csv(path.name, read_source(path, "CSV").data)


def families() -> Mapping[str, FamilyInfo]:
    """Return every feature family by name, without importing chemistry."""
    return FAMILIES


def datasets() -> Mapping[str, str]:
    """Return a one-line description of every dataset by name."""
    from features.datasets.sources import DATASETS

    return DATASETS


def _with_families(spec: AnySpec, lacks: str) -> FamiliesSpec:
    """Return a spec with families; refuse a table of the study's own, which has none."""
    if isinstance(spec, OwnSpec):
        raise DatasetError(f"dataset own: the table is made by {spec.loader}, and has {lacks}")
    return spec


def _silent(line: str) -> None:
    """Drop a line of progress."""
