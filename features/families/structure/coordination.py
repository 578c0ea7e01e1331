"""Coordination numbers as pymatgen's CrystalNN has them, one site for each symmetry orbit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import Array, crystal_of, find_neighbours, zeros
from features.chemistry.structures import orbits_of
from features.families.structure.per_structure import describe_cifs
from features.families.structure.voronoi import Cell, voronoi_cell
from features.intake.cifs import read_structure
from features.rows import Block, Log, Rows

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

N_COLUMNS = 4

# What CrystalNN has by default, in angstrom where it is a length.
SEARCH_ANGSTROM = 7.0
# Beyond the sum of the radii: full weight up to the first, none from the second on.
REACH_ANGSTROM = (0.5, 1.0)
CONTRAST_WEIGHT, LARGEST_CONTRAST = 3.0, 3.3  # of electronegativities
WEIGHT_DECIMALS = 3

# Most cells are cut by no more than these nearest atoms, and whether one is can be told.
FIRST_NEIGHBOURS = 40
SYMMETRY_TOLERANCE_ANGSTROM = 1e-3

_OUTCOME = "the coordination columns are 0"


def coordination(rows: Rows, log: Log) -> Block:
    """Compute four columns on who surrounds whom in each row's CIF; all 0 where there is none."""
    return describe_cifs("coordination", describe_coordination, N_COLUMNS, rows, log)


def describe_coordination(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the four values for one CIF, and the reasons for what they lack.

    Mean coordination number, by CrystalNN (Pan et al., Inorg. Chem. 60, 1590 (2021)), of Li, of
    the framework cations and of the anions: elements with a negative average oxidation state are
    the anions, as in `features.families.formula.li_chemistry.li_chemistry`; 0 for what
    there is none of. The last is 1 where there are values: every site must be filled by one
    element.
    """
    try:
        structure, reasons = read_structure(cif)
    except ValueError as exc:
        return zeros(N_COLUMNS, [str(exc)], _OUTCOME)
    if not structure.is_ordered:
        return zeros(N_COLUMNS, [*reasons, "disordered"], _OUTCOME)
    try:
        numbers = coordination_numbers(structure)
    except ValueError as exc:
        return zeros(N_COLUMNS, [*reasons, str(exc)], _OUTCOME)
    crystal = crystal_of(structure)
    is_li, is_anion = crystal.li_occupancy > 0.0, crystal.anion_occupancy > 0.0
    kinds = (is_li & ~is_anion, ~is_li & ~is_anion, is_anion)
    means = [float(numbers[kind].mean()) if kind.any() else 0.0 for kind in kinds]
    return [*means, 1.0], reasons


def coordination_numbers(structure: Structure) -> NDArray[np.int64]:
    """Return the number of neighbours that CrystalNN finds for each site of an ordered structure.

    They are those of `CrystalNN().get_cn` for the structure without oxidation states.

    Raises
    ------
    ValueError
        The atoms around a site enclose no cell.
    """
    symbols = np.array([site.specie.symbol for site in structure])
    radii, contrast = _radii(symbols), _electronegativities(symbols)
    orbits, orbit_of = cells_of_orbits(structure)
    numbers = []
    for site, found, cell in orbits:
        weights = _weights(cell, np.abs(contrast[found] - contrast[site]))
        distances = np.linalg.norm(cell.vectors, axis=1)
        numbers.append(_likeliest(weights * _damping(distances, radii[found] + radii[site])))
    return np.array(numbers, dtype=np.int64)[orbit_of]


class SiteCell(NamedTuple):
    """The Voronoi cell of a site among all others."""

    site: int
    points: NDArray[np.intp]  # the site that each face belongs to
    cell: Cell


def cells_of_orbits(structure: Structure) -> tuple[list[SiteCell], NDArray[np.int64]]:
    """Return the Voronoi cell of one site of each orbit, and the orbit of each site.

    Raises
    ------
    ValueError
        The atoms around a site enclose no cell.
    """
    frac, matrix = np.mod(structure.frac_coords, 1.0), np.array(structure.lattice.matrix)
    orbits = orbits_of(structure, SYMMETRY_TOLERANCE_ANGSTROM)
    first, orbit_of = np.unique(orbits, return_inverse=True)
    centre, point, vectors = find_neighbours(matrix, frac[first], frac, SEARCH_ANGSTROM)
    ends = np.searchsorted(centre, np.arange(1, len(first)))
    points, near = np.split(point, ends), np.split(vectors, ends)
    cells = [
        SiteCell(site, *_cell_of(matrix, frac, site, points[orbit], near[orbit]))
        for orbit, site in enumerate(first.tolist())
    ]
    return cells, orbit_of


def _cell_of(
    matrix: Array, frac: Array, site: int, points: NDArray[np.intp], vectors: Array
) -> tuple[NDArray[np.intp], Cell]:
    """Return the Voronoi cell of a site, and which sites its faces belong to."""
    radius = SEARCH_ANGSTROM
    # As far as pymatgen goes: the longest diagonal of the cell.
    diagonals = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) @ matrix
    last = float(np.linalg.norm(diagonals, axis=1).max())
    while True:
        distances = np.linalg.norm(vectors, axis=1)
        nearest = np.argsort(distances, kind="stable")
        for count in (FIRST_NEIGHBOURS, len(nearest)):
            cell = voronoi_cell(vectors[nearest[:count]])
            beyond = distances[nearest[count]] if count < len(nearest) else np.inf
            # No atom beyond twice the farthest corner can cut the cell.
            if cell is not None and 2.0 * cell.farthest <= beyond:
                return points[nearest[cell.points]], cell
        if radius > last:
            raise ValueError("the atoms around a site enclose no cell")
        radius *= 2.0
        _, points, vectors = find_neighbours(matrix, frac[site : site + 1], frac, radius)


def _weights(cell: Cell, contrasts: Array) -> Array:
    """Return the weight of each face before distances count, 1 for the largest."""
    weights = cell.angles / cell.angles.max()
    has_area = cell.areas > 0.0
    weights = weights * np.divide(cell.angles, cell.areas, where=has_area, out=0.0 * weights)
    known = np.nan_to_num(contrasts)  # no contrast where an electronegativity is not known
    weights = weights * (1.0 + CONTRAST_WEIGHT * np.sqrt(known / LARGEST_CONTRAST))
    return np.asarray(weights / weights.max())


def _damping(distances: Array, contact: Array) -> Array:
    """Return the share of its weight that a neighbour keeps for its distance, both in angstrom."""
    begin, end = REACH_ANGSTROM
    phase = np.clip((distances - contact - begin) / (end - begin), 0.0, 1.0)
    return np.asarray((np.cos(phase * np.pi) + 1.0) * 0.5)


def _likeliest(weights: Array) -> int:
    """Return the coordination number with the largest part of CrystalNN's quarter circle."""
    # Not numpy's rounding, which is not to the nearest in the last digit.
    rounded = np.array([round(weight, WEIGHT_DECIMALS) for weight in weights.tolist()])
    bins = np.unique(rounded[rounded > 0.0])[::-1]
    if not len(bins):
        return 0
    edges = np.append(bins, 0.0)
    below = 0.5 * (edges * np.sqrt(1.0 - edges**2) + np.arcsin(edges))
    parts = -np.diff(below) / (0.25 * np.pi)
    if 1.0 - parts.sum() > parts.max():
        return 0
    return int(np.count_nonzero(rounded >= bins[np.argmax(parts)]))


def _radii(symbols: NDArray[np.str_]) -> Array:
    """Return covalent radii in angstrom, of atoms where there is none."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from pymatgen.core.periodic_table import Element

    known = CovalentRadius.radius
    of = {s: float(known[s] if s in known else Element(s).atomic_radius or np.nan) for s in symbols}
    return np.array([of[symbol] for symbol in symbols])


def _electronegativities(symbols: NDArray[np.str_]) -> Array:
    """Return Pauling's electronegativities, NaN where there is none."""
    from pymatgen.core.periodic_table import Element

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        of = {symbol: float(Element(symbol).X) for symbol in symbols}
    return np.array([of[symbol] for symbol in symbols])
