"""A dataset in memory: what a loader hands to the feature families, and what they hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.chemistry.formulas import Compositions
from features.records import Column, SkippedRow, Target

Log = Callable[[str], None]

# Features are kept to this many decimals, far below what is measured or tabulated. The last bit of
# a sum depends on how a formula is written and on the machine; rounded, equal materials have equal
# features, as tree models need to treat them alike, and a table has one hash everywhere.
VALUE_DECIMALS = 9

# What `Rows.cell` may hold; lengths in angstrom, angles in degrees.
CELL_FIELDS = ("a", "b", "c", "alpha", "beta", "gamma", "space_group", "formula_units")


@dataclass(frozen=True)
class Remark:
    """Something that could not be computed: for one row, or for a whole source (row None)."""

    row: int | None
    reason: str
    source: str = ""  # only with row None

    def after(self, n_rows: int) -> Remark:
        """Return the remark for rows that stand behind so many others."""
        return self if self.row is None else replace(self, row=self.row + n_rows)


@dataclass(frozen=True, eq=False)
class Block:
    """One family's columns: `values` of shape (n_rows, n_columns), and what is missing."""

    values: NDArray[np.float64]
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, eq=False)
class OwnColumns:
    """Features that stand in the dataset's own file: `values` of shape (n_rows, n_columns)."""

    columns: tuple[Column, ...]
    values: NDArray[np.float64]
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """The usable rows of a dataset, in file order.

    Attributes
    ----------
    amounts : Compositions
        Atoms of each element in the formula as it is written; D and T count as H.
    y : array of shape (n_rows,), or (n_rows, n_targets)
        In the unit and scale of `target`.
    is_coerced : array of shape (n_rows,)
        True where the target was given as a threshold.
    cell : dict of arrays of shape (n_rows,)
        By the names in `CELL_FIELDS`; NaN where unknown, absent if the source has no such column.
    cell_problems : dict
        `(row, field)` to the reason why a cell value that was given is not used.
    cifs : tuple of bytes or None
        The CIF of each row, None where there is none.
    formula_remarks : dict
        Row to what had to be done to read its formula.
    file_remarks : tuple of Remark
        What had to be guessed to read a whole file.
    cells : dict
        Column of the file to its texts, of length n_rows: those that a dataset asks for.
    own : OwnColumns or None
        The features that are columns of the file.
    weights, test_fold, bounds, more_targets
        As in `features.records.FeatureTable`.
    structure_remarks : dict
        Row to the checks that its CIF fails; where it is left out for them, it is not in `cifs`.
    """

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    lines: tuple[int, ...]
    formulas: tuple[str, ...]
    amounts: Compositions
    y: NDArray[np.float64]
    is_coerced: NDArray[np.bool_]
    groups: tuple[str, ...]
    is_train: NDArray[np.bool_]
    target: Target
    cell: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    cell_problems: Mapping[tuple[int, str], str] = field(default_factory=dict)
    cifs: tuple[bytes | None, ...] = ()
    skipped: tuple[SkippedRow, ...] = ()
    formula_remarks: Mapping[int, str] = field(default_factory=dict)
    cif_remarks: tuple[Remark, ...] = ()
    file_remarks: tuple[Remark, ...] = ()
    structure_remarks: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    cells: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: OwnColumns | None = None
    weights: NDArray[np.float64] | None = None
    test_fold: NDArray[np.int64] | None = None
    bounds: NDArray[np.float64] | None = None
    more_targets: tuple[Target, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def formulas_of(self, start: int, stop: int) -> Rows:
        """Return consecutive rows with what families see that need formula and target alone."""
        rows = slice(start, stop)
        return replace(
            self,
            ids=self.ids[rows],
            sources=self.sources[rows],
            lines=self.lines[rows],
            formulas=self.formulas[rows],
            amounts=self.amounts[rows],
            y=self.y[rows],
            is_coerced=self.is_coerced[rows],
            groups=self.groups[rows],
            is_train=self.is_train[rows],
            cell={},
            cell_problems={},
            cifs=(),
            formula_remarks={},
            cif_remarks=(),
            own=None,
            weights=None,
            test_fold=None,
            bounds=None,
            structure_remarks={},
        )

    def take(self, rows: Sequence[int]) -> Rows:
        """Return the rows at these positions, in this order."""
        picked = list(rows)
        where = {row: position for position, row in enumerate(picked)}

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[row] for row in picked) if values else ()

        def moved(remarks: Mapping[int, str]) -> dict[int, str]:
            return {where[row]: reason for row, reason in remarks.items() if row in where}

        return replace(
            self,
            ids=pick(self.ids),
            sources=pick(self.sources),
            lines=pick(self.lines),
            formulas=pick(self.formulas),
            amounts=self.amounts.take(np.array(picked, dtype=np.int64)),
            y=self.y[picked],
            is_coerced=self.is_coerced[picked],
            groups=pick(self.groups),
            is_train=self.is_train[picked],
            cell={name: values[picked] for name, values in self.cell.items()},
            cell_problems={
                (where[row], name): reason
                for (row, name), reason in self.cell_problems.items()
                if row in where
            },
            cifs=pick(self.cifs),
            formula_remarks=moved(self.formula_remarks),
            structure_remarks=moved(self.structure_remarks),
        )


N_IDS_SHOWN = 5


def absent_cifs(rows: Rows) -> list[Remark]:
    """Say once per file how many of its rows have no CIF, which they are, what they hold."""
    remarks = []
    for source in dict.fromkeys(rows.sources):
        members = [row for row in range(len(rows)) if rows.sources[row] == source]
        without = [row for row in members if rows.cifs[row] is None]
        left_out = [row for row in without if row in rows.structure_remarks]
        absent = [row for row in without if row not in rows.structure_remarks]
        for those, what in ((absent, "no CIF"), (left_out, "a CIF that is left out")):
            if those:
                shown = ", ".join(rows.ids[row] for row in those[:N_IDS_SHOWN])
                more = ", ..." if len(those) > N_IDS_SHOWN else ""
                reason = (
                    f"{what} for {len(those)} of {len(members)} rows ({shown}{more}): "
                    "their columns are 0"
                )
                remarks.append(Remark(None, reason, source))
    return remarks
