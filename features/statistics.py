"""Statistics of tabulated element properties over the atoms of a formula, as matminer has them.

matminer computes them one formula at a time (Ward et al., Comput. Mater. Sci. 152, 60 (2018)); here
a whole column of formulas is computed at once from the same element tables, to the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from features.composition import fraction_matrix
from features.elements import ELEMENTS
from features.rows import Block, Log, Remark, Rows

Array = NDArray[np.float64]
Rank = NDArray[np.intp]

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

# Fractions this close to the largest share the mode with it: the tolerances of ``numpy.isclose``.
MODE_RTOL, MODE_ATOL = 1e-5, 1e-8

_COVERING = "Magpie's table (H to Lr)"


def magpie_statistics(rows: Rows, _log: Log) -> Block:
    """Compute 132 columns: six statistics of each of 22 element properties.

    Minimum, maximum, range (of the elements, whatever their amounts); mean, mean absolute deviation
    from it (over the atoms); and the value of the commonest element, the smallest value where
    several are. They equal those of matminer's ``ElementProperty.from_preset("magpie")``: Ward et
    al., npj Comput. Mater. 2, 16028 (2016). Units are those of the table: g/mol, K, pm, cubic
    angstrom per atom, eV, Bohr magnetons.

    As by default in matminer, a property that is not known of an element (the melting point of
    helium; of the elements to plutonium He, Ne, Ar, At, Rn and Fr alone lack some) is the mean over
    all elements; a row with such an element has a remark. A formula with an element beyond
    lawrencium is NaN, where matminer goes on.
    """
    fractions, remarks = fraction_matrix(rows, ELEMENTS, _COVERING)
    table, guessed = element_table(PROPERTIES)
    values = _statistics(fractions, table)
    remarks = (*remarks, *_guesses(fractions, guessed, PROPERTIES))
    return Block(values.reshape(len(rows), -1), remarks)


def valence_orbitals(rows: Rows, _log: Log) -> Block:
    """Compute eight columns: mean number of s, p, d, f valence electrons per atom, and fractions.

    The last four are the first over the mean number of all valence electrons. They equal those of
    matminer's ``ValenceOrbital``: Ward et al., npj Comput. Mater. 2, 16028 (2016). A formula with
    an element beyond lawrencium is NaN.
    """
    fractions, remarks = fraction_matrix(rows, ELEMENTS, _COVERING)
    table, _ = element_table((*ORBITALS, "NValence"))
    means = np.zeros((len(rows), len(ORBITALS) + 1))
    for row, share, index in _by_element(fractions):
        means[row] += share * table[index]
    by_orbital = means[:, :-1]
    return Block(np.hstack([by_orbital, by_orbital / means[:, -1:]]), remarks)


def stoichiometry(rows: Rows, _log: Log) -> Block:
    """Compute six columns: the p-norms of the atomic fractions for p of 0, 2, 3, 5, 7 and 10.

    The 0-norm is the number of elements. They equal those of matminer's ``Stoichiometry``: Ward et
    al., npj Comput. Mater. 2, 16028 (2016). No table is needed, so no element is unknown.
    """
    values = np.zeros((len(rows), 1 + len(NORMS)))
    for row, amounts in enumerate(rows.amounts):
        present = sorted(amount for amount in amounts.values() if amount > 0.0)
        total = sum(present)
        shares = [amount / total for amount in present]
        values[row, 0] = len(amounts)
        values[row, 1:] = [sum(share**p for share in shares) ** (1.0 / p) for p in NORMS]
    return Block(values)


@cache
def element_table(properties: tuple[str, ...]) -> tuple[Array, NDArray[np.bool_]]:
    """Return Magpie's properties of :data:`ELEMENTS`, and which of them are not known.

    Both of shape (n_elements, n_properties). What is not known is the mean over all elements.
    """
    from matminer.utils.data import MagpieData
    from pymatgen.core.periodic_table import Element

    def read(*, impute: bool) -> Array:
        data = MagpieData(impute_nan=impute)
        elements = [Element(symbol) for symbol in ELEMENTS]
        columns = [data.get_elemental_properties(elements, name) for name in properties]
        return np.array(columns, dtype=np.float64).T

    return read(impute=True), np.isnan(read(impute=False))


def _statistics(fractions: Array, table: Array) -> Array:
    """Return the statistics, of shape (n_rows, n_properties, 6)."""
    values = np.zeros((N_STATISTICS, len(fractions), table.shape[1]))
    lowest, highest, spread, mean, deviation, mode = values
    lowest[:], highest[:], mode[:] = np.inf, -np.inf, np.inf
    largest = fractions.max(axis=1, initial=0.0)
    commonest = largest - (MODE_ATOL + MODE_RTOL * largest)
    for row, share, index in _by_element(fractions):
        lowest[row] = np.minimum(lowest[row], table[index])
        highest[row] = np.maximum(highest[row], table[index])
        mean[row] += share * table[index]
        common = row[share[:, 0] >= commonest[row]]
        mode[common] = np.minimum(mode[common], table[index])
    for row, share, index in _by_element(fractions):
        deviation[row] += share * np.abs(table[index] - mean[row])
    spread[:] = highest - lowest
    values[:, np.isnan(largest)] = np.nan
    return np.moveaxis(values, 0, -1)


def _by_element(fractions: Array) -> Iterator[tuple[Rank, Array, int]]:
    """Yield the rows with an element, their fractions of it (n, 1), and the element's index.

    Element by element: a matrix product would add in an order that depends on the machine and on
    the number of rows. A row that is NaN is there with every element.
    """
    indices, rows = np.nonzero(fractions.T)
    ends = np.searchsorted(indices, np.arange(fractions.shape[1] + 1))
    for index in range(fractions.shape[1]):
        row = rows[ends[index] : ends[index + 1]]
        if len(row):
            yield row, fractions[row, index : index + 1], index


def _guesses(
    fractions: Array, guessed: NDArray[np.bool_], properties: tuple[str, ...]
) -> list[Remark]:
    """Name the elements and properties that the mean over all elements stands for."""
    remarks = []
    of_element = {int(i): np.flatnonzero(guessed[i]) for i in np.flatnonzero(guessed.any(axis=1))}
    if not of_element:
        return []
    exotic = np.nan_to_num(fractions[:, list(of_element)])
    for row in np.flatnonzero(exotic.any(axis=1)):
        said = [
            f"{ELEMENTS[index]} ({', '.join(properties[which] for which in of_element[index])})"
            for index in of_element
            if fractions[row, index] > 0.0
        ]
        reason = f"not known of {', '.join(said)}: the mean over all elements instead"
        remarks.append(Remark(int(row), reason))
    return remarks
