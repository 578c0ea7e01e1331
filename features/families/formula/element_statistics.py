"""Statistics of tabulated element properties over the atoms of a formula, as matminer has them.

matminer computes them one formula at a time (Ward et al., Comput. Mater. Sci. 152, 60 (2018)); here
all formulas with equally many elements are computed at once from the same element tables, with the
same operations in the same order: to the same bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ELEMENTS, HEAVIER
from features.chemistry.formulas import SYMBOLS, add_up
from features.families.formula.composition import unknown_elements
from features.rows import Block, Log, Remark, Rows

Array = NDArray[np.float64]

# matminer's names of the 22 properties of its preset "magpie", in the preset's order.
PROPERTIES = (
    "Number",
    "MendeleevNumber",
    "AtomicWeight",
    "MeltingT",
    "Column",
    "Row",
    "CovalentRadius",
    "Electronegativity",
    "NsValence",
    "NpValence",
    "NdValence",
    "NfValence",
    "NValence",
    "NsUnfilled",
    "NpUnfilled",
    "NdUnfilled",
    "NfUnfilled",
    "NUnfilled",
    "GSvolume_pa",
    "GSbandgap",
    "GSmagmom",
    "SpaceGroupNumber",
)
N_STATISTICS = 6  # minimum, maximum, range, mean, average deviation, mode
ORBITALS = ("NsValence", "NpValence", "NdValence", "NfValence")
NORMS = (2, 3, 5, 7, 10)

# Amounts this close to the largest share the mode with it: the tolerances of `numpy.isclose`.
MODE_RTOL, MODE_ATOL = 1e-5, 1e-8

_CHUNK_ROWS = 500  # keeps what is computed at once in the processor's cache

_COVERING = "Magpie's table (H to Lr)"


def magpie_statistics(rows: Rows, _log: Log) -> Block:
    """Compute 132 columns: six statistics of each of 22 element properties.

    Minimum, maximum, range (of the elements, whatever their amounts); mean, mean absolute deviation
    from it (over the atoms); and the value of the commonest element, the smallest value where
    several are. They equal those of matminer's `ElementProperty.from_preset("magpie")`: Ward et
    al., npj Comput. Mater. 2, 16028 (2016). Units are those of the table: g/mol, K, pm, cubic
    angstrom per atom, eV, Bohr magnetons.

    As by default in matminer, a property that is not known of an element (the melting point of
    helium; of the elements to plutonium He, Ne, Ar, At, Rn and Fr alone lack some) is the mean over
    all elements; a row with such an element has a remark. A formula with an element beyond
    lawrencium is NaN, where matminer goes on.
    """
    atoms = rows.amounts
    table, guessed = element_table(PROPERTIES)
    values = np.empty((len(rows), len(PROPERTIES), N_STATISTICS))
    for picked, parts in atoms.by_count():
        for start in range(0, len(picked), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            part = parts[chunk].T
            weights, tabulated = atoms.amounts[part], table[atoms.elements[part]]
            values[picked[chunk]] = _statistics(weights, tabulated)
    unknown, remarks = unknown_elements(rows, ELEMENTS, _COVERING)
    values[unknown] = np.nan
    guesses = _guesses(rows, guessed, PROPERTIES, unknown)
    in_order = sorted((*remarks, *guesses), key=lambda remark: remark.row or 0)
    return Block(values.reshape(len(rows), -1), tuple(in_order))


def valence_orbitals(rows: Rows, _log: Log) -> Block:
    """Compute eight columns: mean number of s, p, d, f valence electrons per atom, and fractions.

    The last four are the first over the mean number of all valence electrons. They equal those of
    matminer's `ValenceOrbital`: Ward et al., npj Comput. Mater. 2, 16028 (2016). A formula with
    an element beyond lawrencium is NaN.
    """
    atoms = rows.amounts
    table, _ = element_table((*ORBITALS, "NValence"))
    means = np.empty((len(rows), len(ORBITALS) + 1))
    for picked, parts in atoms.by_count():
        means[picked] = _average(table[atoms.elements[parts.T]], atoms.amounts[parts.T])
    unknown, remarks = unknown_elements(rows, ELEMENTS, _COVERING)
    means[unknown] = np.nan
    by_orbital = means[:, :-1]
    return Block(np.hstack([by_orbital, by_orbital / means[:, -1:]]), remarks)


def stoichiometry(rows: Rows, _log: Log) -> Block:
    """Compute six columns: the p-norms of the atomic fractions for p of 0, 2, 3, 5, 7 and 10.

    The 0-norm is the number of elements. They equal those of matminer's `Stoichiometry`: Ward et
    al., npj Comput. Mater. 2, 16028 (2016). No table is needed, so no element is unknown.
    """
    values = np.empty((len(rows), 1 + len(NORMS)))
    values[:, 0] = rows.amounts.counts
    for picked, parts in rows.amounts.by_count():
        # In the order of size: the same material has the same norms, however it is written.
        present = np.sort(rows.amounts.amounts[parts], axis=1).T
        shares = present / add_up(present)
        values[picked, 1:] = np.column_stack([add_up(shares**p) ** (1.0 / p) for p in NORMS])
    return Block(values)


@cache
def element_table(properties: tuple[str, ...]) -> tuple[Array, NDArray[np.bool_]]:
    """Return Magpie's properties of `SYMBOLS`, and which of them are not known.

    Both of shape (n_symbols, n_properties). What is not known of an element up to lawrencium is the
    mean over all elements; beyond it, all is NaN.
    """
    from matminer.utils.data import MagpieData
    from pymatgen.core.periodic_table import Element

    def read(*, impute: bool) -> Array:
        data = MagpieData(impute_nan=impute)
        elements = [Element(symbol) for symbol in ELEMENTS]
        columns = [data.get_elemental_properties(elements, name) for name in properties]
        return np.array(columns, dtype=np.float64).T

    table, guessed = read(impute=True), np.isnan(read(impute=False))
    beyond = ((0, len(HEAVIER)), (0, 0))
    return np.pad(table, beyond, constant_values=np.nan), np.pad(guessed, beyond)


def _statistics(weights: Array, values: Array) -> Array:
    """Return the statistics, of shape (n_rows, n_properties, 6).

    Parameters
    ----------
    weights : array of shape (n_elements, n_rows)
        Amounts of the elements in formulas that have equally many.
    values : array of shape (n_elements, n_rows, n_properties)
    """
    largest = weights.max(axis=0)
    is_commonest = np.abs(weights - largest) <= MODE_ATOL + MODE_RTOL * largest
    lowest, highest = values.min(axis=0), values.max(axis=0)
    mean = _average(values, weights)
    deviation = _average(np.abs(values - mean), weights)
    mode = np.where(is_commonest[:, :, None], values, np.inf).min(axis=0)
    return np.stack([lowest, highest, highest - lowest, mean, deviation, mode], axis=-1)


def _average(values: Array, weights: Array) -> Array:
    """Return what `numpy.average` gives row by row, of shape (n_rows, n_properties)."""
    average: Array = add_up(values * weights[:, :, None]) / add_up(weights)[:, None]
    return average


def _guesses(
    rows: Rows,
    guessed: NDArray[np.bool_],
    properties: tuple[str, ...],
    unknown: NDArray[np.int64],
) -> list[Remark]:
    """Name the elements and properties that the mean over all elements stands for."""
    atoms = rows.amounts
    exotic = atoms.rows[np.any(guessed[atoms.elements], axis=1)]
    remarks = []
    for row in np.setdiff1d(exotic, unknown).tolist():
        of_row = sorted({SYMBOLS.index(symbol) for symbol in atoms[row]})
        said = [
            f"{SYMBOLS[index]} ({', '.join(properties[k] for k in np.flatnonzero(guessed[index]))})"
            for index in of_row
            if guessed[index].any()
        ]
        reason = f"not known of {', '.join(said)}: the mean over all elements instead"
        remarks.append(Remark(row, reason))
    return remarks
