"""The surroundings of Li sites in a CIF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from features.chemistry.elements import ANION_RADII_ANGSTROM, LI_RADIUS_ANGSTROM
from features.chemistry.structures import SYMMETRY_TOLERANCE_ANGSTROM, orbits_of
from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_structure
from features.rows import Block, Log, Rows

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

# An anion coordinates a Li atom up to this multiple of the sum of their ionic radii (2.8 angstrom
# for oxygen, 3.4 for sulfur): a distorted octahedron is inside, the second shell outside.
CONTACT_FACTOR = 1.3

FIRST_CUTOFF_ANGSTROM = 4.0


def li_environment(rows: Rows, log: Log) -> Block:
    """Compute eight columns on the Li sites of each row's CIF; all 0 where there is none.

    `has_cif_struct` is 1 where the CIF could be parsed. The next three count atoms by their
    occupancy: the atomic fraction of Li, Li atoms per volume, atoms other than Li per volume.
    The last four need every site to be fully occupied by one element, and are averages over the
    Li atoms: the distance to the nearest other Li, the length and the number of the Li-anion
    contacts (`CONTACT_FACTOR` says which they are), and the number of atoms in the cell that
    symmetry makes equivalent.
    """
    return describe_cifs("li_environment", describe_cif, 8, rows, log)


def describe_cif(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the eight values for one CIF, and the reasons for what they lack."""
    try:
        structure, reasons = read_structure(cif)
    except ValueError as exc:
        return [0.0] * 8, [str(exc)]
    n_li = float(structure.composition.element_composition["Li"])
    if n_li == 0.0:
        return [1.0] + [0.0] * 7, [*reasons, "no Li in the CIF: all but has_cif_struct is 0"]
    n_atoms = float(structure.composition.num_atoms)
    volume = float(structure.volume)
    values = [1.0, n_li / n_atoms, n_li / volume, (n_atoms - n_li) / volume]
    if not structure.is_ordered:
        return values + [0.0] * 4, [*reasons, "disordered: distances and what follows are 0"]
    sites, lacking = _site_values(structure)
    return values + sites, reasons + lacking


def _site_values(structure: Structure) -> tuple[list[float], list[str]]:
    symbols = np.array([site.specie.symbol for site in structure])
    reasons = []
    lengths, contacts_per_li = _contacts(structure, symbols)
    if not contacts_per_li:
        reasons.append("no Li-anion contact: length and coordination number are 0")
    multiplicity = 0.0
    try:
        multiplicity = _multiplicity(structure, symbols == "Li")
    except Exception as exc:  # spglib's errors have no common base
        said = " ".join(str(exc).split())
        reasons.append(f"no symmetry found ({said}): multiplicity is 0")
    return [_nearest_li(structure, symbols), lengths, contacts_per_li, multiplicity], reasons


def _contacts(structure: Structure, symbols: Any) -> tuple[float, float]:
    """Return the mean length of the Li-anion contacts in angstrom and their number per Li atom."""
    reach = {
        symbol: CONTACT_FACTOR * (LI_RADIUS_ANGSTROM + radius)
        for symbol, radius in ANION_RADII_ANGSTROM.items()
    }
    _, neighbours, distances = _around_li(structure, symbols, max(reach.values()))
    limits = np.array([reach.get(symbol, 0.0) for symbol in symbols[neighbours]])
    lengths = distances[distances <= limits]
    n_li = int(np.count_nonzero(symbols == "Li"))
    return (float(lengths.mean()) if len(lengths) else 0.0), len(lengths) / n_li


def _nearest_li(structure: Structure, symbols: Any) -> float:
    """Return the distance in angstrom to the nearest other Li, averaged over the Li atoms."""
    li_atoms = np.flatnonzero(symbols == "Li")
    nearest = np.full(len(symbols), np.inf)
    cutoff = FIRST_CUTOFF_ANGSTROM
    # An image of the atom itself, a cell away, is always there to be found in the end.
    while not np.isfinite(nearest[li_atoms]).all():
        centres, neighbours, distances = _around_li(structure, symbols, cutoff)
        is_li = symbols[neighbours] == "Li"
        np.minimum.at(nearest, centres[is_li], distances[is_li])
        cutoff *= 2.0
    return float(nearest[li_atoms].mean())


def _around_li(structure: Structure, symbols: Any, cutoff: float) -> tuple[Any, Any, Any]:
    """Return centre, neighbour and distance of every pair whose centre is a Li atom."""
    # Not `sites=` the Li sites: pymatgen would then count atoms as neighbours of themselves.
    centres, neighbours, _, distances = structure.get_neighbor_list(cutoff)
    around_li = symbols[centres] == "Li"
    return centres[around_li], neighbours[around_li], distances[around_li]


def _multiplicity(structure: Structure, is_li: Any) -> float:
    """Return the size of a Li atom's orbit under the space group, averaged over the Li atoms."""
    orbits = orbits_of(structure, SYMMETRY_TOLERANCE_ANGSTROM)
    return float(np.mean([np.count_nonzero(orbits == orbit) for orbit in orbits[is_li]]))
