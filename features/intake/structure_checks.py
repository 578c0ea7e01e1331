"""Whether a CIF can be what it says: composition, distances, density and cell, symmetry.

Each failed check is one sentence with the measured figure and its bound.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import crystal_of, find_neighbours
from features.chemistry.elements import ELEMENTS, ISOTOPES
from features.intake.cif_syntax import NULLS, number
from features.intake.cifs import ReadCif, read_cell, read_cif, unreadable
from features.intake.symmetry import (
    METRIC_TOLERANCE,
    group_number,
    is_group,
    metric_deviation,
)

Array = NDArray[np.float64]

N_VALUES = len(ELEMENTS) + 1

COMPOSITION_TOLERANCE_AT_PERCENT = 5.0
# Of the sum of the covalent radii of Cordero et al., Dalton Trans. 2008, 2832. The shortest bonds
# that there are, to hydrogen and in V=O, have 0.7 of it and more.
SHORTEST_DISTANCE = 0.6
# Refined occupancies, of lithium above all, are known to 0.05: so much more than 1 may be none.
ALTERNATIVES = 1.1
# Of an element without a covalent radius.
USUAL_RADIUS_ANGSTROM = 1.5
# Between solid hydrogen, or a metal-organic framework, and osmium.
DENSITY_RANGE_G_PER_CM3 = (0.08, 25.0)
VOLUME_PER_ATOM_RANGE_ANGSTROM3 = (4.0, 200.0)
LENGTH_RANGE_ANGSTROM = (1.5, 300.0)
ANGLE_RANGE_DEG = (10.0, 170.0)
# What the file itself says of its cell's volume and of its density.
VOLUME_TOLERANCE, DENSITY_TOLERANCE = 0.01, 0.05
MULTIPLICITIES = (
    "_atom_site_symmetry_multiplicity",
    "_atom_site_site_symmetry_multiplicity",
    "_atom_site_site_symmetry_order",
)


def describe_checks(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the composition of a CIF, and which of the checks that need no row it fails.

    Returns
    -------
    values : list of float, of length `N_VALUES`
        Atomic fractions of `ELEMENTS`, and 1; all 0 for a CIF that cannot be read.
    failed : list of str
        Each beginning with the name of the check.
    """
    try:
        read = read_cif(cif)
        failed = [*_check_distance(read), *_check_cell(read), *_check_symmetry(read)]
    except Exception as exc:  # chemistry's libraries raise just about anything
        return [0.0] * N_VALUES, [unreadable(exc)]
    amounts = read.structure.composition.fractional_composition.get_el_amt_dict()
    fractions = dict.fromkeys(ELEMENTS, 0.0)
    for symbol, fraction in amounts.items():
        fractions[ISOTOPES.get(symbol, symbol)] += fraction
    return [*fractions.values(), 1.0], failed


def check_composition(fractions: Mapping[str, float], amounts: Mapping[str, float]) -> list[str]:
    """Compare a CIF with the formula of its row.

    Parameters
    ----------
    fractions
        Atomic fractions in the CIF.
    amounts
        Atoms of each element in the formula.
    """
    total = sum(amounts.values())
    apart = {
        symbol: (100.0 * fractions.get(symbol, 0.0), 100.0 * amounts.get(symbol, 0.0) / total)
        for symbol in sorted({*fractions, *amounts})
    }
    symbol, (in_cif, in_row) = max(apart.items(), key=lambda item: abs(item[1][0] - item[1][1]))
    if abs(in_cif - in_row) <= COMPOSITION_TOLERANCE_AT_PERCENT:
        return []
    return [
        f"composition: {in_cif:.1f} at-% {symbol} in the CIF, {in_row:.1f} in the formula; at most "
        f"{COMPOSITION_TOLERANCE_AT_PERCENT:g} apart"
    ]


def _check_distance(read: ReadCif) -> list[str]:
    """Find the shortest distance between sites that must be filled at the same time.

    Two sites whose occupancies add up to no more than `ALTERNATIVES` may be alternatives to each
    other, as the halves of a split position are.
    """
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius

    crystal = crystal_of(read.structure)
    known = CovalentRadius.radius
    radii = np.array([known.get(symbol, USUAL_RADIUS_ANGSTROM) for symbol in crystal.symbols])
    # The smallest of the elements that may be there.
    radius = np.where(crystal.occupancy > 0.0, radii, np.inf).min(axis=1)
    filled = crystal.occupancy.sum(axis=1)
    reach = 2.0 * SHORTEST_DISTANCE * float(radius.max())
    first, second, vectors = find_neighbours(crystal.matrix, crystal.frac, crystal.frac, reach)
    distance = np.linalg.norm(vectors, axis=1)
    bound = SHORTEST_DISTANCE * (radius[first] + radius[second])
    clash = (filled[first] + filled[second] > ALTERNATIVES) & (distance < bound)
    if not clash.any():
        return []
    worst = np.flatnonzero(clash)[np.argmin((distance / bound)[clash])]
    one, other = (
        read.structure[int(site)].species_string for site in (first[worst], second[worst])
    )
    return [
        f"distance: {one} and {other} are {distance[worst]:.2f} A apart, and {bound[worst]:.2f} A "
        "is the least for atoms that are there together"
    ]


def _check_cell(read: ReadCif) -> list[str]:
    """Check density, lengths and angles, and what the file itself says of them."""
    structure, block = read.structure, read.block
    cell = read_cell(block)
    density, per_atom = float(structure.density), structure.volume / structure.composition.num_atoms
    figures = [
        ("density", density, "g/cm^3", DENSITY_RANGE_G_PER_CM3),
        ("volume per atom", per_atom, "A^3", VOLUME_PER_ATOM_RANGE_ANGSTROM3),
        *(
            (f"length {n}", v, "A", LENGTH_RANGE_ANGSTROM)
            for n, v in zip("abc", cell, strict=False)
        ),
        *(
            (f"angle {n}", v, "degrees", ANGLE_RANGE_DEG)
            for n, v in zip(("alpha", "beta", "gamma"), cell[3:], strict=True)
        ),
    ]
    failed = [
        f"{name} {value:.3g} {unit}, not between {low:g} and {high:g}"
        for name, value, unit, (low, high) in figures
        if not low <= value <= high
    ]
    for item, found, tolerance in (
        ("_cell_volume", float(structure.volume), VOLUME_TOLERANCE),
        ("_exptl_crystal_density_diffrn", density, DENSITY_TOLERANCE),
    ):
        said = _stated(read, item)
        if said is not None and abs(found - said) > tolerance * found:
            failed.append(f"{item} is {said:g}, and {found:.4g} follows from cell and atoms")
    return [f"cell: {'; '.join(failed)}"] if failed else []


def _stated(read: ReadCif, item: str) -> float | None:
    try:
        text = read.block.one(item)
        return None if text is None else number(text, item).value
    except ValueError:
        return None  # what is no number says nothing


def _check_symmetry(read: ReadCif) -> list[str]:
    """Compare names, operations, cell and multiplicities of a symmetry with one another."""
    symmetry, matrix = read.symmetry, np.array(read.structure.lattice.matrix)
    failed = []
    if not symmetry.given and any("magn" in item for item in read.block.values):
        failed.append("that of a magnetic structure alone is given, which is not read")
    elif not symmetry.given:
        failed.append("none is given, neither operations nor a space group: P 1 stands in")
    elif not is_group(symmetry):
        failed.append(f"the {len(symmetry.rotations)} operations listed are no group")
    else:
        found = group_number(symmetry, matrix)
        what = (
            f"its {len(symmetry.rotations)} operations make" if symmetry.listed else "it is read as"
        )
        failed += [
            f"{name!r} is space group {said}, and {what} {found}"
            for name, said in symmetry.names
            if said not in (0, found)
        ]
    deviation, worst = metric_deviation(symmetry.rotations, matrix)
    if deviation > METRIC_TOLERANCE:
        failed.append(
            f"operation {worst + 1} changes the cell by {100.0 * deviation:.1f} %, at most "
            f"{100.0 * METRIC_TOLERANCE:g} are allowed"
        )
    failed += _check_multiplicities(read)
    return [f"symmetry: {'; '.join(failed)}"] if failed else []


def _check_multiplicities(read: ReadCif) -> list[str]:
    texts = next((found for item in MULTIPLICITIES if (found := _texts(read, item))), [])
    sites = [
        (label, found, int(texts[row]))
        for row, label, found in read.multiplicities
        if row < len(texts) and texts[row].isdecimal()
    ]
    # Programs have written the order of the site symmetry under this name, too.
    order = len(read.symmetry.rotations)
    if not sites or all(found * said == order for _, found, said in sites):
        return []
    differing = [
        f"{label} has {found} places, and the CIF says {said}"
        for label, found, said in sites
        if found != said
    ]
    return differing[:1]


def _texts(read: ReadCif, item: str) -> list[str]:
    try:
        values = read.block.column(item) or []
    except ValueError:
        return []
    return [] if set(values) <= NULLS else values
