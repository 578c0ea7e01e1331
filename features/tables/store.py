"""Tables on disk: `<name>/table.parquet` and `<name>/manifest.json`.

A table folder appears by one rename and is never edited. The manifest carries the SHA-256 of the
Parquet file, of the content, and of itself, so that a damaged table is refused, never used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.atomic_files import replace_file, scratch_folder, sync_folder, write_durably
from features.errors import TableError
from features.records import (
    BuildResult,
    Column,
    ContentHash,
    FeatureTable,
    PartialRow,
    SkippedRow,
    TableRows,
    Target,
    columns_of,
    content_hash,
    row_settings,
)
from features.tables.checks import check_rows, misfit, refuse_infinite, target_columns

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_FORMAT = 1
PARQUET_NAME = "table.parquet"
NEW = " (new)"  # at the end of a column's name: its values in X_new
MANIFEST_NAME = "manifest.json"

PIECE_ROWS = 16_384  # of a row group, which is made, hashed and written at once
_SPLITS = ("test", "train")
# In the Parquet file; what has several columns is an array of so many.
_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "weights": ("sample_weight",),
        "test_fold": ("test_fold",),
        "bounds": ("y_lower", "y_upper"),
    }
)

# What differs between two builds of the same thing.
_OF_THE_MOMENT = frozenset({"created_at", "wall_s", "cpu_s", "parquet_sha256", "check"})


def read(path: Path) -> FeatureTable:
    """Read the table in the folder `path` and verify its format version and content.

    Raises
    ------
    TableError
        There is no table, or it is damaged, half, or of another format.
    """
    folder = _folder_of(path)
    manifest = read_manifest(folder)
    with _opened(folder / PARQUET_NAME) as handle:
        table = _read_open(folder, manifest, handle)
    found = content_hash(
        ids=table.ids.tolist(),
        formulas=table.formulas.tolist(),
        groups=table.groups.tolist(),
        is_train=table.is_train,
        X=table.X,
        y=table.y,
        columns=table.columns,
        target=table.target,
        more_targets=table.more_targets,
        X_new=table.X_new,
        **table.row_settings,
    )
    if found != table.hash:
        raise _damaged(folder, f"its content hashes to {found[:12]}, not {table.hash[:12]}")
    arrays = (table.ids, table.X, table.X_new, table.y, table.groups, table.is_train)
    for array in (*arrays, table.formulas, *table.row_settings.values()):
        array.setflags(write=False)
    return table


def _read_open(folder: Path, manifest: dict[str, Any], handle: BufferedIOBase) -> FeatureTable:
    """Return the table in an open Parquet file: what is hashed is what is read."""
    if hashlib.file_digest(handle, "sha256").hexdigest() != manifest["parquet_sha256"]:
        raise _damaged(folder, f"{PARQUET_NAME} is not the file that was written")
    try:
        return _assemble(folder, manifest, handle)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:  # ArrowInvalid: ValueError
        raise _damaged(folder, f"it does not hold what its manifest says ({exc})") from exc


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and verify the manifest of the table in the folder `path`, not the table itself.

    Raises
    ------
    TableError
        There is no manifest, or it is damaged or of another format.
    """
    folder = _folder_of(path)
    try:
        manifest = json.loads(_read_bytes(folder / MANIFEST_NAME))
    except (ValueError, RecursionError) as exc:
        raise _damaged(folder, f"{MANIFEST_NAME} is not JSON ({exc})") from exc
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise _damaged(folder, f"{MANIFEST_NAME} has no format version")
    if manifest["format"] != TABLE_FORMAT:
        raise TableError(
            f"table {folder}: format version {manifest['format']!r}, but this version reads "
            f"{TABLE_FORMAT}; build the table again"
        )
    if manifest.get("check") != _check_of(manifest):
        raise _damaged(folder, f"{MANIFEST_NAME} was changed after it was written")
    return manifest


def holds_table(folder: Path) -> bool:
    """Return whether `folder` holds a whole table, without decoding it."""
    try:
        expected: str = read_manifest(folder)["parquet_sha256"]
        with _opened(folder / PARQUET_NAME) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == expected
    except TableError:
        return False


def build_result(folder: Path, *, reused: bool, started: float) -> BuildResult:
    """Return what a build came to; `started` is its beginning on the performance counter."""
    manifest = read_manifest(folder)
    return BuildResult(
        path=folder,
        name=manifest["name"],
        hash=manifest["hash"],
        reused=reused,
        wall_s=time.perf_counter() - started,
        n_rows=manifest["n_rows"],
        n_features=manifest["n_features"],
        skipped=tuple(SkippedRow(**record) for record in manifest["skipped"]),
        partial=tuple(PartialRow(**record) for record in manifest["partial"]),
    )


def table_name(dataset: str, columns: Sequence[Column], content: str) -> str:
    """Return the name of a table, and of its folder; `content` is its hash."""
    return f"{dataset}-{len(columns)}-{content[:12]}"


def write(
    tables_dir: Path,
    *,
    dataset: str,
    ids: Sequence[str],
    formulas: Sequence[str],
    X: NDArray[np.float64] | Iterable[NDArray[np.float64]],
    y: NDArray[np.float64],
    groups: Sequence[str],
    is_train: NDArray[np.bool_],
    columns: Sequence[Column],
    target: Target,
    more_targets: Sequence[Target] = (),
    X_new: NDArray[np.float64] | None = None,
    skipped: Sequence[SkippedRow] = (),
    partial: Sequence[PartialRow] = (),
    provenance: Mapping[str, Any] | None = None,
    weights: NDArray[np.float64] | None = None,
    test_fold: NDArray[np.int64] | None = None,
    bounds: NDArray[np.float64] | None = None,
) -> Path:
    """Write a table under `tables_dir` and return its folder; `provenance` joins the manifest.

    `X` is an array, or pieces of consecutive rows that are made while they are written: one of
    them is in memory at a time, and `partial` and `provenance` are read after the last one. Of
    `X_new`, which needs an array `X`, the columns are kept that are not those of `X`.

    Writing the same content again keeps the table that is there; if what was skipped or where it
    came from has changed, its manifest is replaced.

    Raises
    ------
    TableError
        The pieces do not fit together, or the folder cannot be written.
    """
    check_rows(
        TableRows(
            dataset=dataset,
            ids=tuple(ids),
            formulas=tuple(formulas),
            groups=tuple(groups),
            y=y,
            is_train=is_train,
            columns=tuple(columns),
            target=target,
            more_targets=tuple(more_targets),
            weights=weights,
            test_fold=test_fold,
            bounds=bounds,
        )
    )
    digest = ContentHash(
        ids=ids,
        formulas=formulas,
        groups=groups,
        is_train=is_train,
        y=y,
        columns=columns,
        target=target,
        more_targets=more_targets,
        weights=weights,
        test_fold=test_fold,
        bounds=bounds,
    )
    own = _differing(X, X_new) if isinstance(X, np.ndarray) else []
    names = [*(c.name for c in columns), *(columns[position].name + NEW for position in own)]
    split = [_SPLITS[row] for row in is_train.astype(int).tolist()]
    settings = row_settings(weights, test_fold, bounds)
    its: dict[str, Any] = {"id": ids, "formula": formulas}
    its |= dict(zip(target_columns(1 + len(more_targets)), columns_of(y), strict=True))
    its |= {"group": groups, "split": split}
    for name, values in settings.items():
        its |= dict(zip(_NAMES[name], columns_of(values), strict=True))
    try:
        with scratch_folder(tables_dir) as scratch:
            staged = scratch / "table"
            staged.mkdir()
            with (staged / PARQUET_NAME).open("x+b") as handle:
                pieces = _digested(_pieces_of(X, X_new, own), len(ids), len(columns), digest)
                _write_parquet(handle, its, names, pieces)
                handle.flush()
                os.fsync(handle.fileno())
                handle.seek(0)
                parquet_sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
            if own and X_new is not None:
                digest.add(X_new)
            content = digest.hexdigest()
            manifest: dict[str, Any] = {
                "format": TABLE_FORMAT,
                "name": table_name(dataset, columns, content),
                "hash": content,
                "dataset": dataset,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                **(provenance or {}),
                "n_rows": len(ids),
                "n_features": len(columns),
                "n_train": int(np.count_nonzero(is_train)),
                "n_groups": len(set(groups)),
                "target": target.as_dict(),
                **({"more_targets": [t.as_dict() for t in more_targets]} if more_targets else {}),
                "columns": [asdict(column) for column in columns],
                **({"new_columns": [columns[position].name for position in own]} if own else {}),
                **({"row_settings": [*settings]} if settings else {}),
                "skipped": [asdict(row) for row in skipped],
                "partial": [asdict(row) for row in partial],
                "parquet_sha256": parquet_sha256,
            }
            write_durably(staged / MANIFEST_NAME, _manifest_bytes(manifest))
            sync_folder(staged)
            return _publish(tables_dir, scratch, staged, manifest)
    except OSError as exc:
        raise TableError(
            f"tables folder {tables_dir}: cannot be written ({exc}); name a folder with room "
            "that you may write to"
        ) from exc


def _publish(tables_dir: Path, scratch: Path, staged: Path, manifest: dict[str, Any]) -> Path:
    """Move the table into place, unless a whole one with the same content is there already."""
    final: Path = tables_dir / manifest["name"]
    while True:
        try:
            staged.rename(final)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            sync_folder(tables_dir)
            return final
        if holds_table(final):
            _update_manifest(tables_dir, final, manifest)
            return final
        # A damaged table goes away with the scratch folder; another writer may be faster.
        try:
            final.rename(scratch / "damaged")
        except FileNotFoundError:
            continue


def _update_manifest(tables_dir: Path, folder: Path, manifest: dict[str, Any]) -> None:
    present = read_manifest(folder)

    def lasting(record: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in record.items() if key not in _OF_THE_MOMENT}

    if lasting(present) != lasting(manifest):
        manifest["parquet_sha256"] = present["parquet_sha256"]
        replace_file(tables_dir, folder / MANIFEST_NAME, _manifest_bytes(manifest))


def _manifest_bytes(manifest: dict[str, Any]) -> bytes:
    checked = {**manifest, "check": _check_of(manifest)}
    return json.dumps(checked, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _check_of(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _differing(X: NDArray[np.float64], X_new: NDArray[np.float64] | None) -> list[int]:
    """Return the positions of the columns of `X_new` that are not those of `X`."""
    if X_new is None:
        return []
    same = (X_new == X) | (np.isnan(X) & np.isnan(X_new))
    return [int(position) for position in np.flatnonzero(~same.all(axis=0))]


def _pieces_of(
    X: NDArray[np.float64] | Iterable[NDArray[np.float64]],
    X_new: NDArray[np.float64] | None,
    own: list[int],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield pieces of `X` and, of the same rows, the columns that `X_new` has of its own."""
    if not isinstance(X, np.ndarray):
        for piece in X:
            yield piece, piece[:, :0]
        return
    for start in range(0, len(X), PIECE_ROWS):
        rows = slice(start, start + PIECE_ROWS)
        yield X[rows], (X if X_new is None else X_new)[rows][:, own]


def _digested(
    pieces: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]],
    n_rows: int,
    n_columns: int,
    digest: ContentHash,
) -> Iterator[NDArray[np.float64]]:
    """Yield what a table keeps of each piece, checked, and feed the digest."""
    n_met = 0
    for piece, own in pieces:
        n_met += len(piece)
        if piece.shape[1:] != (n_columns,) or n_met > n_rows:
            raise misfit(piece.shape, n_rows, n_columns)
        refuse_infinite(piece)
        digest.add(piece)
        yield np.hstack([piece, own])
    if n_met != n_rows:
        raise misfit((n_met, n_columns), n_rows, n_columns)


def _write_parquet(
    handle: BufferedIOBase,
    its: Mapping[str, Any],
    names: Sequence[str],
    pieces: Iterable[NDArray[np.float64]],
) -> None:
    """Write each piece as a row group, beside the same rows of the table's own columns."""
    # For tables that are written or read, not for all that know what a table is.
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {"id", "formula", "group", "split"}
    kinds = {name: pa.string() if name in texts else pa.float64() for name in its}
    kinds |= {"test_fold": pa.int64()} if "test_fold" in its else {}
    schema = pa.schema([*kinds.items(), *((name, pa.float64()) for name in names)])
    start = 0
    with pq.ParquetWriter(handle, schema, compression="zstd") as writer:
        for piece in pieces:
            rows = slice(start, start + len(piece))
            own = [
                pa.array(
                    np.ascontiguousarray(values[rows]) if name not in texts else values[rows],
                    kinds[name],
                )
                for name, values in its.items()
            ]
            features = [pa.array(column) for column in np.ascontiguousarray(piece.T)]
            writer.write_table(pa.Table.from_arrays([*own, *features], schema=schema))
            start = rows.stop


def _assemble(folder: Path, manifest: dict[str, Any], handle: BufferedIOBase) -> FeatureTable:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(handle)
    columns = tuple(Column(**record) for record in manifest["columns"])
    new = manifest.get("new_columns", [])
    settings: dict[str, list[NDArray[Any]]] = {
        name: [] for name in manifest.get("row_settings", [])
    }
    more_targets = tuple(Target(**record) for record in manifest.get("more_targets", []))
    y_names = target_columns(1 + len(more_targets))
    expected = ["id", "formula", *y_names, "group", "split"]
    expected += [column for name in settings for column in _NAMES[name]]
    expected += [column.name for column in columns]
    expected += [name + NEW for name in new]
    if file.schema_arrow.names != expected:
        raise ValueError("the columns differ")
    n_rows = file.metadata.num_rows
    y = np.empty((n_rows, len(y_names)))
    texts: dict[str, list[str]] = defaultdict(list)
    X = np.empty((n_rows, len(columns)), dtype=np.float64)
    X_new = X.copy() if new else X
    stop = 0
    for group in range(file.num_row_groups):
        # One thread: workers share a machine, and a table is small.
        table = file.read_row_group(group, use_threads=False)
        rows, stop = slice(stop, stop + table.num_rows), stop + table.num_rows
        for name in ("id", "group", "formula", "split"):
            texts[name] += table[name].to_pylist()
        for position, name in enumerate(y_names):
            y[rows, position] = _numbers(table[name])
        for name, pieces in settings.items():
            found = [_numbers(table[column]) for column in _NAMES[name]]
            pieces.append(np.column_stack(found) if len(found) > 1 else found[0])
        for position, column in enumerate(columns):
            X[rows, position] = _numbers(table[column.name])
            if new:
                kept = column.name + NEW if column.name in new else column.name
                X_new[rows, position] = _numbers(table[kept])

    def text(name: str) -> NDArray[np.str_]:
        return np.array(texts[name], dtype=np.str_)

    return FeatureTable(
        path=folder,
        name=manifest["name"],
        hash=manifest["hash"],
        dataset=manifest["dataset"],
        ids=text("id"),
        X=X,
        X_new=X_new,
        y=y if more_targets else y[:, 0].copy(),
        groups=text("group"),
        is_train=text("split") == "train",
        formulas=text("formula"),
        columns=columns,
        target=Target(**manifest["target"]),
        more_targets=more_targets,
        skipped=tuple(SkippedRow(**record) for record in manifest["skipped"]),
        partial=tuple(PartialRow(**record) for record in manifest["partial"]),
        manifest=MappingProxyType(manifest),
        **{name: np.concatenate(pieces) for name, pieces in settings.items()},
    )


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    # pyarrow's own shorter way imports pandas.
    return np.asarray(np.from_dlpack(column.combine_chunks()))


def _folder_of(path: Path) -> Path:
    return path.parent if path.name in (PARQUET_NAME, MANIFEST_NAME) else path


def _read_bytes(path: Path) -> bytes:
    with _opened(path) as handle:
        return handle.read()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    try:
        with path.open("rb") as handle:
            yield handle
    except FileNotFoundError:
        if path.parent.is_dir():
            raise _damaged(path.parent, f"it has no {path.name}") from None
        raise TableError(f"table {path.parent}: there is none; build it first") from None
    except OSError as exc:
        raise TableError(f"table {path.parent}: {path.name} cannot be read ({exc})") from exc


def _damaged(folder: Path, finding: str) -> TableError:
    return TableError(
        f"table {folder}: damaged, {finding}; building the study's table again replaces it"
    )
