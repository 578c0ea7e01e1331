"""From a spec to a table on disk: find it, or load the rows, compute the families, write."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from features.atomic_files import clear_dead_scratch
from features.datasets.sources import CITATIONS, Source
from features.errors import DatasetError, FamilyError
from features.families.own_columns import COLUMNS
from features.families.registry import FamilyInfo, Need
from features.records import (
    WHOLE_FILE,
    BuildResult,
    Column,
    PartialRow,
    TableRows,
    row_settings,
)
from features.rows import VALUE_DECIMALS, Block, Log, Remark, Rows
from features.specs import FamiliesSpec, TransportSpec
from features.tables.cache import (
    block_key,
    code_version,
    family_version,
    find_table,
    key_of,
    load_block,
    naming_folder,
    package_versions,
    remember_table,
    save_block,
)
from features.tables.checks import check_rows
from features.tables.store import (
    PIECE_ROWS,
    TABLE_FORMAT,
    build_result,
    holds_table,
    read_manifest,
    write,
)
from features.tables.structure_cache import Structures, describe_with_cache, distinct_cifs
from features.tables.structure_gate import CHECKS, check_structures_with_cache
from features.tables.transfer import borrow

_LOADERS = {
    "transport": "features.datasets.transport",
    "obelix": "features.datasets.obelix",
    "band_gap": "features.datasets.band_gap",
    "csv": "features.datasets.csv",
}
_LOADER_PACKAGES = ("pymatgen", "pymatgen-core")  # formulas are read with pymatgen

# Settings that name files, whose contents are hashed instead: a path is one machine's affair.
_PATH_SETTINGS = frozenset({"path", "cifs"})

Spec = FamiliesSpec


class _Loader(Protocol):
    def sources_of(
        self,
        spec: Spec,
        *,
        data_dir: Path | None,
        base_dir: Path,
        needs: frozenset[Need],
        log: Log,
    ) -> tuple[Source, ...]: ...

    def rows_of(self, spec: Spec, sources: tuple[Source, ...], needs: frozenset[Need]) -> Rows: ...


def build_table(
    spec: Spec,
    *,
    data_dir: Path | None,
    tables_dir: Path,
    base_dir: Path,
    log: Log,
    workers: int = 1,
    inspect: Callable[[TableRows], None] | None = None,
) -> BuildResult:
    """Build the table that `spec` describes; see `features.table.build`."""
    started = time.perf_counter()
    families, needs, loader = _parts_of(spec)
    sources = loader.sources_of(spec, data_dir=data_dir, base_dir=base_dir, needs=needs, log=log)
    request = _request_key(spec, families, sources)
    with naming_folder(tables_dir):
        clear_dead_scratch(tables_dir)
        found = _find(tables_dir, request)
        if found is None:
            rows = loader.rows_of(spec, sources, needs)
            log(f"{spec.dataset}: {len(rows)} rows, {len(rows.skipped)} skipped")
            outlined = _outline(spec, rows)
            if inspect is not None:
                inspect(outlined)
            if "cif" in needs:
                assert not isinstance(spec, TransportSpec)  # which offers no structures
                policy = spec.failed_structures
                rows = check_structures_with_cache(rows, policy, tables_dir, workers, log)
            provenance = {"request": request, **_provenance(spec, families, sources, rows)}
            folder = _make(tables_dir, spec, families, rows, provenance, log, workers)
            remember_table(tables_dir, request, folder.name)
        else:
            folder = found
    result = build_result(folder, reused=found is not None, started=started)
    verb = "reused" if result.reused else "built"
    log(f"{spec.dataset}: {verb} {result.name}, {result.n_rows} rows x {result.n_features} columns")
    return result


def read_rows(spec: Spec, *, data_dir: Path | None, base_dir: Path, log: Log) -> TableRows:
    """Read the rows that a table would have; see `features.table.read_rows`."""
    _, needs, loader = _parts_of(spec)
    sources = loader.sources_of(spec, data_dir=data_dir, base_dir=base_dir, needs=needs, log=log)
    rows = loader.rows_of(spec, sources, needs)
    log(f"{spec.dataset}: {len(rows)} rows, {len(rows.skipped)} skipped")
    return _outline(spec, rows)


def _outline(spec: Spec, rows: Rows) -> TableRows:
    """Return what is known of a table before its features; TableError if it can be none."""
    outlined = TableRows(
        dataset=spec.dataset,
        ids=rows.ids,
        formulas=rows.formulas,
        groups=rows.groups,
        y=rows.y,
        is_train=rows.is_train,
        columns=_columns(spec, rows),
        target=rows.target,
        more_targets=rows.more_targets,
        skipped=rows.skipped,
        **row_settings(rows.weights, rows.test_fold, rows.bounds),
    )
    check_rows(outlined)
    return outlined


def find_structures(
    spec: Spec, *, data_dir: Path | None, tables_dir: Path, base_dir: Path, log: Log
) -> Structures:
    """Find the structures of a table; see `features.table.find_structures`."""
    families, needs, loader = _parts_of(spec)
    sources = loader.sources_of(spec, data_dir=data_dir, base_dir=base_dir, needs=needs, log=log)
    request = _request_key(spec, families, sources)
    table = _find(tables_dir, request)
    describing = [family for family in families if family.describe]
    pending: dict[str, tuple[FamilyInfo, str]] = {}
    cifs: dict[str, bytes] = {}
    if table is None and describing:
        rows = loader.rows_of(spec, sources, needs)
        for family in describing:
            if load_block(tables_dir, family, block_key(family, rows), len(rows)) is None:
                pending[family.name] = (family, family_version(family))
        if pending:
            pending[CHECKS.name] = (CHECKS, family_version(CHECKS))
            cifs = distinct_cifs(rows)
    names = tuple(family.name for family in describing)
    return Structures(request, table, names, pending, cifs, tables_dir)


def _parts_of(spec: Spec) -> tuple[list[FamilyInfo], frozenset[Need], _Loader]:
    """Return the families of a spec, all that they need, and what loads their rows."""
    families = spec.all_families
    needs = frozenset(need for family in families for need in family.needs)
    return families, needs, cast(_Loader, importlib.import_module(_LOADERS[spec.dataset]))


def _make(
    tables_dir: Path,
    spec: Spec,
    families: list[FamilyInfo],
    rows: Rows,
    provenance: dict[str, Any],
    log: Log,
    workers: int,
) -> Path:
    """Compute the families, or take their blocks from the cache, and write the table."""
    started, cpu_started = time.perf_counter(), time.process_time()
    blocks = {
        family.name: _block(tables_dir, family, rows, log, workers)
        for family in families
        if not family.is_quick
    }
    remarks = {f.name: [*blocks[f.name].remarks] if f.name in blocks else [] for f in families}
    partial: list[PartialRow] = []
    account = dict(provenance)

    def pieces() -> Iterator[NDArray[np.float64]]:
        start = 0
        for piece in _pieces(families, blocks, rows, remarks, log):
            yield piece if spec.transfer else _beside_own(rows, piece, start)
            start += len(piece)
        finish()

    def finish() -> None:
        partial[:] = _partial_rows(rows, families, remarks)
        account["wall_s"] = round(time.perf_counter() - started, 3)
        account["cpu_s"] = round(time.process_time() - cpu_started, 3)

    X: NDArray[np.float64] | Iterable[NDArray[np.float64]] = pieces()
    X_new = None
    if spec.transfer:
        X = np.concatenate(list(X))
        train = np.flatnonzero(rows.is_train)
        groups = np.array(rows.groups, dtype=np.str_)
        ids = [rows.ids[row] for row in train]
        borrowed = borrow(X, spec, X[train], ids)
        X_new = borrow(X, spec, X[train], ids, groups=groups, donor_groups=groups[train]).X
        X, X_new = (_beside_own(rows, values) for values in (borrowed.X, X_new))
        for family in families:
            remarks[family.name] += borrowed.remarks(family.name)
        finish()
        borrowed.tell(log)
    return write(
        tables_dir,
        dataset=spec.dataset,
        ids=rows.ids,
        formulas=rows.formulas,
        X=X,
        X_new=X_new,
        y=rows.y,
        groups=rows.groups,
        is_train=rows.is_train,
        columns=_columns(spec, rows),
        target=rows.target,
        more_targets=rows.more_targets,
        skipped=rows.skipped,
        partial=partial,
        provenance=account,
        **row_settings(rows.weights, rows.test_fold, rows.bounds),
    )


def _beside_own(rows: Rows, X: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
    """Return the columns of some rows, from `start` on, with those of the file behind them."""
    return X if rows.own is None else np.hstack([X, rows.own.values[start : start + len(X)]])


def _columns(spec: Spec, rows: Rows) -> tuple[Column, ...]:
    """Return the columns of a table: what families make, and then those of the file."""
    return spec.family_columns + (rows.own.columns if rows.own else ())


def _pieces(
    families: list[FamilyInfo],
    blocks: Mapping[str, Block],
    rows: Rows,
    remarks: dict[str, list[Remark]],
    log: Log,
) -> Iterator[NDArray[np.float64]]:
    """Yield the columns of all families for some rows after the other.

    Families without a block are computed as the rows come by, and add to their `remarks`.
    """
    seconds: dict[str, float] = {}
    for start in range(0, len(rows), PIECE_ROWS):
        piece = rows.formulas_of(start, start + PIECE_ROWS)
        columns = [np.empty((len(piece), 0))]
        for family in families:
            if family.name in blocks:
                columns.append(blocks[family.name].values[start : start + len(piece)])
                continue
            began = time.perf_counter()
            block = compute_block(family, piece, log)
            columns.append(block.values)
            remarks[family.name] += [remark.after(start) for remark in block.remarks]
            seconds[family.name] = seconds.get(family.name, 0.0) + time.perf_counter() - began
        yield np.hstack(columns)
    for family in families:
        if family.name in seconds:
            log(f"{family.name}: {family.n_columns} columns in {seconds[family.name]:.1f} s")


def _block(tables_dir: Path, family: FamilyInfo, rows: Rows, log: Log, workers: int) -> Block:
    key = block_key(family, rows)
    block = load_block(tables_dir, family, key, len(rows))
    if block is not None:
        log(f"{family.name}: {family.n_columns} columns from the cache")
        return block
    started = time.perf_counter()
    if family.describe:
        version = family_version(family)
        described = describe_with_cache(family, version, tables_dir, workers, rows, log)
        block = _checked(family, rows, described)
    else:
        block = compute_block(family, rows, log, workers=workers)
    save_block(tables_dir, family, key, block)
    log(f"{family.name}: {family.n_columns} columns in {time.perf_counter() - started:.1f} s")
    return block


def compute_block(
    family: FamilyInfo, rows: Rows, log: Log, *, may_be_empty: bool = False, workers: int = 1
) -> Block:
    """Compute a family's columns for these rows.

    Raises
    ------
    FamilyError
        The family's code returns another number of columns than the registry says.
    DatasetError
        No row has what the family needs, and it is not `may_be_empty`.
    """
    return _checked(family, rows, family.run(rows, log, workers), may_be_empty=may_be_empty)


def _checked(family: FamilyInfo, rows: Rows, block: Block, *, may_be_empty: bool = False) -> Block:
    """Return the block, rounded, if it is what the registry says and not all empty."""
    if block.values.shape != (len(rows), family.n_columns):
        raise FamilyError(
            f"family {family.name}: {family.compute} returned the shape {block.values.shape} "
            f"instead of {(len(rows), family.n_columns)}; correct the registry or the function"
        )
    rests_on_columns_of_its_own = {"cell", "cif"} & set(family.needs)
    must_hold = rests_on_columns_of_its_own and not may_be_empty
    if must_hold and not np.nan_to_num(block.values).any():
        first = f" ({block.remarks[0].reason})" if block.remarks else ""
        raise DatasetError(
            f"family {family.name}: no row has the {' and '.join(family.needs)} data that it "
            f"needs{first}; leave the family out or complete the data"
        )
    # Adding zero turns -0.0, which rounding leaves of tiny negative values, into 0.0.
    return replace(block, values=np.round(block.values, VALUE_DECIMALS) + 0.0)


def _partial_rows(
    rows: Rows, families: list[FamilyInfo], remarks: Mapping[str, list[Remark]]
) -> list[PartialRow]:
    def row_of(family: str, remark: Remark) -> PartialRow:
        if remark.row is None:
            return PartialRow(1, WHOLE_FILE, remark.source, family, remark.reason)
        row = remark.row
        return PartialRow(rows.lines[row], rows.ids[row], rows.sources[row], family, remark.reason)

    of_rows = [
        row_of(what, Remark(row, reason))
        for what, reasons in (("formula", rows.formula_remarks), ("cif", rows.structure_remarks))
        for row, reason in reasons.items()
    ]
    own = rows.own.remarks if rows.own else ()
    return [
        *(row_of("file", remark) for remark in rows.file_remarks),
        *of_rows,
        *(row_of(family.name, remark) for family in families for remark in remarks[family.name]),
        *(row_of(COLUMNS, remark) for remark in own),
    ]


def _request_key(spec: Spec, families: list[FamilyInfo], sources: tuple[Source, ...]) -> str:
    """Return a hash of all that the table depends on, known without loading any chemistry."""
    needs_structures = any("cif" in family.needs for family in families)
    all_families = [*families, CHECKS] if needs_structures else families
    code = {
        _LOADERS[spec.dataset],
        __name__,
        *(family.compute.split(":")[0] for family in all_families),
    }
    packages = [name for family in all_families for name in family.packages]
    return key_of(
        {
            "format": TABLE_FORMAT,
            "spec": spec.model_dump(mode="json", exclude=set(_PATH_SETTINGS)),
            "columns": [asdict(family) for family in all_families],
            "sources": [[source.name, source.sha256] for source in sources],
            "code": {module: code_version(module) for module in sorted(code)},
            "packages": package_versions([*_LOADER_PACKAGES, *packages]),
        }
    )


def _find(tables_dir: Path, request: str) -> Path | None:
    """Return the whole table that was last written for this very request, if there is one."""
    name = find_table(tables_dir, request)
    if name is None or not holds_table(tables_dir / name):
        return None
    # Another request with the same content may have put its own account of skipped rows there.
    current = read_manifest(tables_dir / name).get("request") == request
    return tables_dir / name if current else None


def _provenance(
    spec: Spec, families: list[FamilyInfo], sources: tuple[Source, ...], rows: Rows
) -> dict[str, Any]:
    packages = ["numpy", *_LOADER_PACKAGES, *(name for f in families for name in f.packages)]
    settings = spec.model_dump(mode="json")
    for name in _PATH_SETTINGS & settings.keys():
        if settings[name] is not None:
            settings[name] = Path(settings[name]).name
    return {
        "spec": settings,
        "sources": [{"file": source.name, "sha256": source.sha256} for source in sources],
        "packages": package_versions(packages),
        "n_coerced": int(np.count_nonzero(rows.is_coerced)),
        "notes": dict(rows.notes),
        "citation": CITATIONS.get(spec.dataset, ""),
    }
