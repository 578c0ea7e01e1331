"""Bonds between nearest neighbours in a CIF, whatever its elements."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_structure
from features.rows import Block, Log, Rows

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

N_COLUMNS = 9

# Neighbours up to this multiple of the nearest one's distance share a site's first shell: the
# distorted tetrahedra of wurtzite are inside, the second shell of caesium chloride (1.155) outside.
SHELL_FACTOR = 1.1
FIRST_CUTOFF_ANGSTROM, LAST_CUTOFF_ANGSTROM = 4.0, 16.0


def bonds(rows: Rows, log: Log) -> Block:
    """Compute nine columns on the bonds of each row's CIF; all 0 where there is none.

    A bond joins an atom to one of its first shell, which reaches to `SHELL_FACTOR` times the
    distance of its nearest neighbour; the columns are averages over all bonds of all atoms. They
    are the volume per atom; mean and standard deviation of the length; the mean of the length over
    the sum of the two atomic radii (Slater's, as pymatgen has them); bonds per atom; the share of
    bonds between different elements; mean and standard deviation of the difference in Pauling's
    electronegativity between the two. `has_bonds` is 1 where the CIF could be described, which
    needs every site to hold one element alone.
    """
    return describe_cifs("bonds", describe_bonds, N_COLUMNS, rows, log)


def describe_bonds(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the nine values for one CIF, and the reasons for what they lack."""
    nothing = [0.0] * N_COLUMNS
    try:
        structure, reasons = read_structure(cif)
    except ValueError as exc:
        return nothing, [f"{exc}: bonds are 0"]
    if not structure.is_ordered:
        return nothing, [*reasons, "disordered: bonds are 0"]
    lengths, first, second = _find_bonds(structure)
    if not len(lengths):
        limit = f"{LAST_CUTOFF_ANGSTROM:g} angstrom"
        return nothing, [*reasons, f"no two atoms are within {limit}: bonds are 0"]
    symbols = np.array([site.specie.symbol for site in structure])
    radii, negativity, lacking = _properties(structure)
    polarity = np.abs(negativity[first] - negativity[second])
    values = [
        float(structure.volume) / len(structure),
        float(lengths.mean()),
        float(lengths.std()),
        float((lengths / (radii[first] + radii[second])).mean()),
        len(lengths) / len(structure),
        float((symbols[first] != symbols[second]).mean()),
        float(polarity.mean()),
        float(polarity.std()),
        1.0,
    ]
    return values, reasons + lacking


def _find_bonds(structure: Structure) -> tuple[Array, Indices, Indices]:
    """Return the length of every bond in angstrom, and the two sites that it joins.

    A bond counts once from each of its ends, where that end has the other in its first shell.
    """
    cutoff = FIRST_CUTOFF_ANGSTROM
    while True:
        first, second, _, lengths = structure.get_neighbor_list(cutoff)
        nearest = np.full(len(structure), np.inf)
        np.minimum.at(nearest, first, lengths)
        # A nearest neighbour close to the cutoff may have a shell that reaches beyond it.
        if (nearest * SHELL_FACTOR <= cutoff).all() or cutoff >= LAST_CUTOFF_ANGSTROM:
            break
        cutoff *= 2.0
    bonded = lengths <= SHELL_FACTOR * nearest[first]
    return lengths[bonded], first[bonded], second[bonded]


def _properties(structure: Structure) -> tuple[Array, Array, list[str]]:
    """Return radius in angstrom and electronegativity of each site, and what is not tabulated."""
    with warnings.catch_warnings():
        # Noble gases have no electronegativity, which the reason below says.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        of_element = {
            site.specie.symbol: (site.specie.atomic_radius, float(site.specie.X))
            for site in structure
        }
    lacking = []
    for symbol, (radius, negativity) in of_element.items():
        if radius is None or not np.isfinite(negativity):
            what = "radius" if radius is None else "electronegativity"
            lacking.append(f"no {what} of {symbol} is tabulated: 1 A or 0 stands in")
    radii = [of_element[site.specie.symbol][0] or 1.0 for site in structure]
    negativities = np.nan_to_num([of_element[site.specie.symbol][1] for site in structure])
    return np.array(radii, dtype=np.float64), negativities, lacking
