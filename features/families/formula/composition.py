"""Formulas, and the families that need nothing but them (and the flag on the target)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.chemistry.composition import positions
from features.chemistry.elements import ANIONS, ELEMENTS
from features.chemistry.formulas import SYMBOLS
from features.rows import Block, Log, Remark, Rows


def ratios(rows: Rows, _log: Log) -> Block:
    """Compute the Li atomic fraction, the anion atomic fraction and the number of elements."""
    atoms, n_rows = rows.amounts, len(rows)
    totals = atoms.totals

    def share(symbols: frozenset[str]) -> NDArray[np.float64]:
        counted = np.where(_are(symbols)[atoms.elements], atoms.amounts, 0.0)
        return np.bincount(atoms.rows, weights=counted, minlength=n_rows) / totals

    return Block(np.column_stack([share(frozenset({"Li"})), share(ANIONS), atoms.counts]))


def _are(symbols: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([symbol in symbols for symbol in SYMBOLS])


def smact_vector(rows: Rows, _log: Log) -> Block:
    """Compute the atomic fractions of H to Lr, the vector of `smact`'s `ml_rep_generator`.

    After Legrain et al., Chem. Mater. 2017, doi:10.1021/acs.chemmater.7b00789. A formula with an
    element beyond lawrencium has no such vector: its row is NaN.
    """
    fractions, remarks = fraction_matrix(rows, ELEMENTS, "the SMACT vector (H to Lr)")
    return Block(fractions, remarks)


def coerced_flag(rows: Rows, _log: Log) -> Block:
    """Flag the rows whose target is a threshold such as `<1E-10`."""
    return Block(rows.is_coerced.astype(np.float64).reshape(-1, 1))


def fraction_matrix(
    rows: Rows, symbols: tuple[str, ...], covering: str
) -> tuple[NDArray[np.float64], tuple[Remark, ...]]:
    """Return the atomic fractions, of shape (n_rows, n_symbols), and remarks on the rest.

    A row with an element outside `symbols` is NaN and has a remark that names `covering`.
    """
    atoms = rows.amounts
    columns, row_of = positions(symbols)[atoms.elements], atoms.rows
    is_known = columns >= 0
    fractions = np.zeros((len(rows), len(symbols)))
    shares = atoms.amounts / atoms.totals[row_of]
    fractions[row_of[is_known], columns[is_known]] = shares[is_known]
    unknown, remarks = unknown_elements(rows, symbols, covering)
    fractions[unknown] = np.nan
    return fractions, remarks


def unknown_elements(
    rows: Rows, symbols: tuple[str, ...], covering: str
) -> tuple[NDArray[np.int64], tuple[Remark, ...]]:
    """Return the rows with an element outside `symbols`, and a remark naming `covering`."""
    atoms = rows.amounts
    unknown = np.unique(atoms.rows[positions(symbols)[atoms.elements] < 0])
    remarks = []
    for row in unknown.tolist():
        outside = ", ".join(symbol for symbol in atoms[row] if symbol not in symbols)
        remarks.append(Remark(row, f"{outside} is not in {covering}: all NaN"))
    return unknown, tuple(remarks)
