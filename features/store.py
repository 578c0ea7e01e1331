"""Tables on disk: ``<name>/table.parquet`` and ``<name>/manifest.json``.

A table folder appears by one rename and is never edited. The manifest carries the SHA-256 of the
Parquet file, of the content, and of itself, so that a damaged table is refused, never used.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import TableError
from features.records import Column, FeatureTable, PartialRow, SkippedRow, Target, content_hash
from features.registry import RESERVED_NAMES
from features.scratch import replace_file, scratch_folder, sync_folder, write_durably

TABLE_FORMAT = 1
PARQUET_NAME = "table.parquet"
NEW = " (new)"  # at the end of a column's name: its values in X_new
MANIFEST_NAME = "manifest.json"

# What differs between two builds of the same thing.
_OF_THE_MOMENT = frozenset({"created_at", "wall_s", "cpu_s", "parquet_sha256", "check"})


def read(path: Path) -> FeatureTable:
    """Read the table in the folder ``path`` and verify its format version and content.

    Raises
    ------
    TableError
        There is no table, or it is damaged, half, or of another format.
    """
    folder = _folder_of(path)
    manifest = read_manifest(folder)
    data = _read_bytes(folder / PARQUET_NAME)
    if hashlib.sha256(data).hexdigest() != manifest["parquet_sha256"]:
        raise _damaged(folder, f"{PARQUET_NAME} is not the file that was written")
    try:
        table = _assemble(folder, manifest, data)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:  # ArrowInvalid: ValueError
        raise _damaged(folder, f"it does not hold what its manifest says ({exc})") from exc
    found = content_hash(
        ids=table.ids.tolist(),
        formulas=table.formulas.tolist(),
        groups=table.groups.tolist(),
        is_train=table.is_train,
        X=table.X,
        y=table.y,
        columns=table.columns,
        target=table.target,
        X_new=table.X_new,
    )
    if found != table.hash:
        raise _damaged(folder, f"its content hashes to {found[:12]}, not {table.hash[:12]}")
    arrays = (table.ids, table.X, table.X_new, table.y, table.groups, table.is_train)
    for array in (*arrays, table.formulas):
        array.setflags(write=False)
    return table


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and verify the manifest of the table in the folder ``path``, not the table itself.

    Raises
    ------
    TableError
        There is no manifest, or it is damaged or of another format.
    """
    folder = _folder_of(path)
    try:
        manifest = json.loads(_read_bytes(folder / MANIFEST_NAME))
    except ValueError as exc:
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
    """Return whether ``folder`` holds a whole table, without decoding it."""
    try:
        expected: str = read_manifest(folder)["parquet_sha256"]
        return hashlib.sha256(_read_bytes(folder / PARQUET_NAME)).hexdigest() == expected
    except TableError:
        return False


def write(
    tables_dir: Path,
    *,
    dataset: str,
    ids: Sequence[str],
    formulas: Sequence[str],
    X: NDArray[np.float64],
    y: NDArray[np.float64],
    groups: Sequence[str],
    is_train: NDArray[np.bool_],
    columns: Sequence[Column],
    target: Target,
    X_new: NDArray[np.float64] | None = None,
    skipped: Sequence[SkippedRow] = (),
    partial: Sequence[PartialRow] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a table under ``tables_dir`` and return its folder; ``provenance`` joins the manifest.

    Of ``X_new`` the columns are kept that are not those of ``X``.

    Writing the same content again keeps the table that is there; if what was skipped or where it
    came from has changed, its manifest is replaced.

    Raises
    ------
    TableError
        The pieces do not fit together, or the folder cannot be written.
    """
    _check_pieces(ids, formulas, X, y, groups, is_train, columns)
    digest = content_hash(
        ids=ids,
        formulas=formulas,
        groups=groups,
        is_train=is_train,
        X=X,
        y=y,
        columns=columns,
        target=target,
        X_new=X_new,
    )
    own = _differing(X, X_new)
    manifest: dict[str, Any] = {
        "format": TABLE_FORMAT,
        "name": f"{dataset}-{X.shape[1]}-{digest[:12]}",
        "hash": digest,
        "dataset": dataset,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **(provenance or {}),
        "n_rows": len(ids),
        "n_features": int(X.shape[1]),
        "n_train": int(np.count_nonzero(is_train)),
        "n_groups": len(set(groups)),
        "target": asdict(target),
        "columns": [asdict(column) for column in columns],
        **({"new_columns": [columns[position].name for position in own]} if own else {}),
        "skipped": [asdict(row) for row in skipped],
        "partial": [asdict(row) for row in partial],
    }
    new = {columns[k].name + NEW: X_new[:, k] for k in own} if X_new is not None else {}
    parquet = _to_parquet(ids, formulas, X, y, groups, is_train, columns, new)
    try:
        return _publish(tables_dir, manifest, parquet)
    except OSError as exc:
        raise TableError(
            f"tables folder {tables_dir}: cannot be written ({exc}); name a folder with room "
            "that you may write to"
        ) from exc


def _publish(tables_dir: Path, manifest: dict[str, Any], parquet: bytes) -> Path:
    """Move the table into place, unless a whole one with the same content is there already."""
    final: Path = tables_dir / manifest["name"]
    with scratch_folder(tables_dir) as scratch:
        staged = scratch / "table"
        staged.mkdir()
        write_durably(staged / PARQUET_NAME, parquet)
        manifest["parquet_sha256"] = hashlib.sha256(parquet).hexdigest()
        write_durably(staged / MANIFEST_NAME, _manifest_bytes(manifest))
        sync_folder(staged)
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
    """Return the positions of the columns of ``X_new`` that are not those of ``X``."""
    if X_new is None:
        return []
    same = (X_new == X) | (np.isnan(X) & np.isnan(X_new))
    return [int(position) for position in np.flatnonzero(~same.all(axis=0))]


def _to_parquet(
    ids: Sequence[str],
    formulas: Sequence[str],
    X: NDArray[np.float64],
    y: NDArray[np.float64],
    groups: Sequence[str],
    is_train: NDArray[np.bool_],
    columns: Sequence[Column],
    new: Mapping[str, NDArray[np.float64]],
) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_column = np.asfortranarray(X)
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "formula": pa.array(formulas, pa.string()),
            "y": pa.array(y, pa.float64()),
            "group": pa.array(groups, pa.string()),
            "split": pa.array(np.where(is_train, "train", "test").tolist(), pa.string()),
            **{
                column.name: pa.array(by_column[:, position], pa.float64())
                for position, column in enumerate(columns)
            },
            **{name: pa.array(values, pa.float64()) for name, values in new.items()},
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _assemble(folder: Path, manifest: dict[str, Any], data: bytes) -> FeatureTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # One thread: workers share a machine, and a table is small.
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    columns = tuple(Column(**record) for record in manifest["columns"])
    new = manifest.get("new_columns", [])
    expected = ["id", "formula", "y", "group", "split", *(column.name for column in columns)]
    expected += [name + NEW for name in new]
    if table.column_names != expected:
        raise ValueError("the columns differ")

    def text(name: str) -> NDArray[np.str_]:
        return np.array(table[name].to_pylist(), dtype=np.str_)

    X = np.empty((table.num_rows, len(columns)), dtype=np.float64)
    for position, column in enumerate(columns):
        X[:, position] = table[column.name].to_numpy()
    X_new = X.copy() if new else X
    for position, column in enumerate(columns):
        if column.name in new:
            X_new[:, position] = table[column.name + NEW].to_numpy()
    return FeatureTable(
        path=folder,
        name=manifest["name"],
        hash=manifest["hash"],
        dataset=manifest["dataset"],
        ids=text("id"),
        X=X,
        X_new=X_new,
        y=table["y"].to_numpy().copy(),
        groups=text("group"),
        is_train=text("split") == "train",
        formulas=text("formula"),
        columns=columns,
        target=Target(**manifest["target"]),
        skipped=tuple(SkippedRow(**record) for record in manifest["skipped"]),
        partial=tuple(PartialRow(**record) for record in manifest["partial"]),
        manifest=MappingProxyType(manifest),
    )


def _check_pieces(
    ids: Sequence[str],
    formulas: Sequence[str],
    X: NDArray[np.float64],
    y: NDArray[np.float64],
    groups: Sequence[str],
    is_train: NDArray[np.bool_],
    columns: Sequence[Column],
) -> None:
    n_rows = len(ids)
    lengths = {len(formulas), len(y), len(groups), len(is_train), X.shape[0], n_rows}
    if n_rows == 0 or len(lengths) != 1:
        raise TableError(f"table: its pieces must have one length above 0, not {sorted(lengths)}")
    names = [column.name for column in columns]
    if not names or X.shape != (n_rows, len(names)):
        raise TableError(
            f"table: X is {X.shape}, but there are {n_rows} rows, {len(names)} columns"
        )
    for what, values in (("ids", ids), ("column names", names)):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise TableError(f"table: {what} must be unique, but {value!r} is there {count} times")
    taken = sorted(RESERVED_NAMES & set(names))
    if taken:
        raise TableError(f"table: {taken[0]!r} is the table's own column; rename the feature")
    if not np.isfinite(y).all() or np.isinf(X).any():
        raise TableError("table: y must be finite and X finite or NaN; skip the other rows")
    if not np.any(is_train):
        raise TableError("table: no row is a train row; hold out fewer rows")


def _folder_of(path: Path) -> Path:
    return path.parent if path.name in (PARQUET_NAME, MANIFEST_NAME) else path


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
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
