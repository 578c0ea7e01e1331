"""The families that come from unit-cell columns: lengths, angles, space group, formula units."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from features.chemistry.cell_geometry import cell_volume
from features.rows import CELL_FIELDS, Block, Log, Remark, Rows

# 1 g/mol per cubic angstrom in g/cm^3: 1e24 over Avogadro's number (exact since 2019).
G_PER_CM3 = 1e24 / 6.02214076e23

_LATTICE = CELL_FIELDS[:6]


def cell(rows: Rows, _log: Log) -> Block:
    """Compute density, volume per atom, Li atoms per cell, formula units per cell.

    The cell holds `formula_units` times the formula as it is written.
    """
    from pymatgen.core.periodic_table import Element

    mass_of: dict[str, float] = {}
    values = np.full((len(rows), 4), np.nan)
    for row, amounts in enumerate(rows.amounts):
        for symbol in amounts:
            if symbol not in mass_of:
                mass_of[symbol] = float(Element(symbol).atomic_mass)
        units = _value(rows, "formula_units", row)
        volume = cell_volume(*(_value(rows, name, row) for name in _LATTICE))
        mass = sum(mass_of[symbol] * amount for symbol, amount in amounts.items())
        values[row] = (
            units * mass / volume * G_PER_CM3,
            volume / (units * sum(amounts.values())),
            units * amounts.get("Li", 0.0),
            units,
        )
    return Block(values, _remarks(rows, (*_LATTICE, "formula_units")))


def lattice(rows: Rows, _log: Log) -> Block:
    """Return the lattice parameters and the space-group number; NaN where they are missing."""
    names = (*_LATTICE, "space_group")
    return Block(np.column_stack([_column(rows, name) for name in names]), _remarks(rows, names))


def space_group(rows: Rows, _log: Log) -> Block:
    """Return the space group as 230 columns of 0 and 1; all 0 where it is not known."""
    values = np.zeros((len(rows), 230))
    for row, number in enumerate(_column(rows, "space_group")):
        if not math.isnan(number):
            values[row, int(number) - 1] = 1.0
    return Block(values, _remarks(rows, ("space_group",), "the columns are 0"))


def _column(rows: Rows, name: str) -> NDArray[np.float64]:
    return rows.cell.get(name, np.full(len(rows), np.nan))


def _value(rows: Rows, name: str, row: int) -> float:
    values = rows.cell.get(name)
    return math.nan if values is None else float(values[row])


def _remarks(
    rows: Rows, names: tuple[str, ...], outcome: str = "what follows from it is NaN"
) -> tuple[Remark, ...]:
    """Say once per file which columns it lacks, and per row which values are not there."""
    remarks = []
    absent = [name for name in names if name not in rows.cell]
    if absent:
        for source in dict.fromkeys(rows.sources):
            reason = f"no column for {', '.join(absent)}: {outcome} in every row"
            remarks.append(Remark(None, reason, source))
    present = [name for name in names if name in rows.cell]
    for row in range(len(rows)):
        reasons = [
            rows.cell_problems.get((row, name), f"{name} is empty")
            for name in present
            if math.isnan(rows.cell[name][row])
        ]
        if reasons:
            remarks.append(Remark(row, f"{'; '.join(reasons)}: {outcome}"))
    return tuple(remarks)
