"""Families whose values for a row come from its CIF alone: one structure at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from features.rows import Block, Log, Remark, Rows, absent_cifs

# Values of one CIF, and the reasons for what they lack.
Description = tuple[list[float], list[str]]
Describe = Callable[[bytes], Description]

LOG_EVERY = 100


def describe_cifs(name: str, describe: Describe, n_columns: int, rows: Rows, log: Log) -> Block:
    """Return a family's block, computed one CIF after the other in this process."""
    present = [(row, cif) for row, cif in enumerate(rows.cifs) if cif is not None]
    described = ((row, describe_one(describe, n_columns, cif)) for row, cif in present)
    return gather(name, described, len(present), n_columns, rows, log)


def describe_one(describe: Describe, n_columns: int, cif: bytes) -> Description:
    """Return what a family says of a CIF; what it raises is a reason: one never ends a build."""
    try:
        return describe(cif)
    except Exception as exc:  # memory, and chemistry's libraries, on what nobody has thought of
        said = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        return [0.0] * n_columns, [f"it cannot be described ({said}): the columns are 0"]


def gather(
    name: str,
    described: Iterable[tuple[int, Description]],
    n_present: int,
    n_columns: int,
    rows: Rows,
    log: Log,
) -> Block:
    """Put the descriptions of single CIFs, in any order, into a block; the other rows are 0."""
    values = np.zeros((len(rows), n_columns))
    reasons_of: dict[int, list[str]] = {}
    for count, (row, (found, reasons)) in enumerate(described, start=1):
        values[row] = found
        if reasons:
            reasons_of[row] = reasons
        if count % LOG_EVERY == 0 or count == n_present:
            log(f"{name}: {count} of {n_present} CIFs")
    remarks = [Remark(row, "; ".join(reasons)) for row, reasons in sorted(reasons_of.items())]
    return Block(values, (*rows.cif_remarks, *remarks, *absent_cifs(rows)))
