"""Barriers to the migration of Li by bond-valence site energies, for disordered crystals too.

They say how wide the ways are, not how many Li there are to go them nor what a vacancy costs: in
ordered Li2O the barrier is 0.31 eV, as low as in argyrodites.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import (
    COINCIDENT_ANGSTROM,
    Array,
    Crystal,
    find_neighbours,
    weighted,
    zeros,
)
from features.chemistry.percolation import percolation_levels
from features.chemistry.periodic_sums import Interaction, bound_points, sum_on_grid
from features.families.structure.bond_valence import SOFT_PARAMETERS, anions_of, parameters_of
from features.families.structure.ewald import COULOMB_EV_ANGSTROM
from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_crystal
from features.rows import Block, Log, Rows

N_COLUMNS = 7

SPACING_ANGSTROM = 0.25
HIGHEST_BARRIER_EV = 10.0
ACCESSIBLE_EV = (0.5, 1.0)
# A pair's energy is cut off where it has become this small.
SMALLEST_EV = 1e-4

# Li+ by anion: charge of the anion, distance of least energy in angstrom. Chen and Adams, IUCrJ 4,
# 614 (2017), as tabulated by softBV and bvlain (MIT).
R_MIN = {
    "N": (3, 2.132557),
    "O": (2, 1.940013),
    "F": (1, 1.872650),
    "S": (2, 2.409710),
    "Cl": (1, 2.396470),
    "Se": (2, 2.683860),
    "Br": (1, 2.582550),
    "Te": (2, 2.733130),
    "I": (1, 2.788070),
}
# Four anions share the charge of a Li+ where nothing better is known.
USUAL_COORDINATION = 4
SCREENING = 0.74

_OUTCOME = "the bond-valence site-energy columns are 0"


def bvse(rows: Rows, log: Log) -> Block:
    """Compute seven columns on the landscape that Li moves in; all 0 where there is none."""
    return describe_cifs("bvse", describe_bvse, N_COLUMNS, rows, log)


def describe_bvse(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the seven values for one CIF, and the reasons for what they lack.

    All energies are in eV above the lowest of `energy_grid`: the levels up to which Li is
    free to go on without end in one, two and three directions; the share of the cell up to each
    of `ACCESSIBLE_EV`; the mean over the Li atoms of the energy where the CIF has them, each at
    most `HIGHEST_BARRIER_EV`, below 0 where a Li is without the others that share its site; and
    1 where there are values.

    On 25 ordered crystals bvlain 0.25.1 has the same energies at the same points within 0.004 eV,
    the tails that are cut off here, and on its own grid of 0.2 angstrom the same barriers within
    0.03 eV in the mean. With half the spacing the barriers change by 0.02 eV in the mean.
    """
    try:
        crystal, reasons = read_crystal(cif)
        landscape = energy_grid(crystal, grid_shape(crystal))
        bottom = float(landscape.min())
        found = percolation_levels(landscape, bottom + HIGHEST_BARRIER_EV)
        # The grid says where it is; how much it is there, as at Li, is the sum over all pairs.
        levels = [bottom, *(level for level in found if math.isfinite(level))]
        points = [_first_at(landscape, level) for level in levels]
        is_li = crystal.li_occupancy > 0.0
        places = np.concatenate([points, crystal.frac[is_li]])
        energies = energies_at(crystal, places, np.arange(len(places)) >= len(points))
    except ValueError as exc:
        return zeros(N_COLUMNS, [str(exc)], _OUTCOME)
    lowest = float(energies[0])
    passes = np.maximum.accumulate(energies[: len(points)])[1:] - lowest
    barriers = np.minimum(passes, HIGHEST_BARRIER_EV).tolist()
    for directions in range(len(barriers) + 1, 4):
        barriers.append(HIGHEST_BARRIER_EV)
        reasons.append(
            f"Li cannot move in {directions} direction{'s' * (directions > 1)} with "
            f"{HIGHEST_BARRIER_EV:g} eV, which stand for the barrier"
        )
    shares = [float(np.mean(landscape <= lowest + energy)) for energy in ACCESSIBLE_EV]
    at_li = np.minimum(energies[len(points) :] - lowest, HIGHEST_BARRIER_EV)
    of_li, _ = weighted(at_li, crystal.li_occupancy[is_li])
    estimated = [anion for anion in anions_of(crystal) if anion not in R_MIN]
    if estimated:
        reasons.append(f"Morse parameters of Li-{', Li-'.join(estimated)} are estimated")
    return [*barriers, *shares, of_li, 1.0], reasons


@cache
def attraction(anion: str) -> Interaction:
    """Return the Morse energy of Li+ and an anion.

    Adams and Rao, Phys. Status Solidi A 208, 1746 (2011): D0 ((exp((R_min - R) / b) - 1)^2 - 1)
    with D0 = k b^2 / 2 and the force constant k = e^2 / (4 pi epsilon_0) z_Li z_anion / (R_min
    sqrt(n_Li n_anion)), n the principal quantum numbers, z the charges. Half of it counts, as
    bvlain has it.

    Raises
    ------
    ValueError
        There are no parameters for this anion, and no estimate either.
    """
    charge, r_min, b = morse_parameters(anion)
    depth = 0.5 * _coulomb(anion, charge) * b**2 / (2.0 * r_min)

    def energy(distance: Array) -> Array:
        near = np.exp((r_min - distance) / b)
        return np.asarray(depth * near * (near - 2.0))

    return Interaction(energy, r_min + b * math.log(2.0 * depth / SMALLEST_EV))


@cache
def morse_parameters(anion: str) -> tuple[int, float, float]:
    """Return charge of an anion, distance of least energy to Li+ and b, both in angstrom.

    What is not tabulated (hydrides, phosphides) gets the distance at which four anions share the
    charge of a Li+ by `features.families.structure.bond_valence.parameters_of`, and the mean
    b of the others. From the conventional parameters of the nine tabulated anions that distance is
    within 0.09 angstrom of theirs, 0.05 in the root mean square.

    Raises
    ------
    ValueError
        There is no estimate for this anion either.
    """
    (r0, b), estimated = parameters_of(anion, soft=True)
    if not estimated:
        return (*R_MIN[anion], b)
    from pymatgen.core.periodic_table import Element

    states = Element(anion).common_oxidation_states
    charge = -min((int(state) for state in states if state < 0), default=-1)
    mean_b = float(np.mean([b for _, b in SOFT_PARAMETERS.values()]))
    return charge, r0 + b * math.log(USUAL_COORDINATION), mean_b


@lru_cache(maxsize=256)  # an average charge may be any number
def repulsion(cation: str, charge: float) -> Interaction:
    """Return the screened Coulomb energy of Li+ and a cation of some average charge.

    Adams and Rao, Phys. Status Solidi A 208, 1746 (2011): e^2 / (4 pi epsilon_0) z / (sqrt(n_Li
    n) R) erfc(R / rho), where rho is 0.74 times the sum of the covalent radii; the radii of
    Cordero et al., Dalton Trans. 2008, 2832.

    Raises
    ------
    ValueError
        There is no radius for this cation.
    """
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from scipy.special import erfc

    radii = CovalentRadius.radius
    if cation not in radii:
        raise ValueError(f"no covalent radius for {cation}")
    rho = SCREENING * (radii["Li"] + radii[cation])
    strength = _coulomb(cation, charge)
    steps = np.linspace(1.0, 6.0, 501) * rho
    small = strength / steps * erfc(steps / rho) < SMALLEST_EV
    return Interaction(
        lambda distance: np.asarray(strength / distance * erfc(distance / rho)),
        float(steps[np.argmax(small)]),
    )


def _coulomb(symbol: str, charge: float) -> float:
    """Return e^2 / (4 pi epsilon_0) z / sqrt(n_Li n) in eV angstrom, without the sign."""
    from pymatgen.core.periodic_table import Element

    # The outermost occupied shell of an atom is the number of its row.
    rows = Element("Li").row * Element(symbol).row
    return COULOMB_EV_ANGSTROM * charge / math.sqrt(rows)


def interactions(crystal: Crystal) -> Iterator[tuple[Interaction, NDArray[np.intp], Array]]:
    """Yield each element's interaction with Li+, its sites and how many atoms they hold.

    Li itself, the mobile ion, is left out; of a site that it shares, the others are not.

    Raises
    ------
    ValueError
        There is no anion, or an ion without parameters.
    """
    if not anions_of(crystal):
        raise ValueError("no anion in the CIF")
    for column, symbol in enumerate(crystal.symbols):
        charge = float(crystal.element_charges[column])
        if symbol == "Li" or charge == 0.0:
            continue
        interaction = attraction(symbol) if charge < 0.0 else repulsion(symbol, charge)
        sites = np.flatnonzero(crystal.occupancy[:, column] > 0.0)
        yield interaction, sites, crystal.occupancy[sites, column]


def grid_shape(crystal: Crystal) -> tuple[int, int, int]:
    """Return numbers of grid points along the axes that are `SPACING_ANGSTROM` apart or less.

    Raises
    ------
    ValueError
        They are too many.
    """
    lengths = np.linalg.norm(crystal.matrix, axis=1)
    a, b, c = (max(1, math.ceil(length / SPACING_ANGSTROM - 1e-9)) for length in lengths)
    bound_points(a * b * c, "points of its cell")
    return a, b, c


def energy_grid(crystal: Crystal, shape: tuple[int, int, int]) -> Array:
    """Return the site energy in eV of a Li+ on the points (i / n, j / m, k / l) of the cell.

    Within 1 meV of `energies_at`, where Li can be: see `sum_on_grid`. What an energy loses at its
    cut-off is spread over the 0.3 angstrom around it.

    Bond-valence site energies of Chen, Wong and Adams, Acta Cryst. B 75, 18 (2019): the sum over
    all anions of `attraction` and over all cations of `repulsion`, here of averages:
    each ion counts by the occupancy of its site, and a cation by its average charge. All other
    Li are absent.

    Raises
    ------
    ValueError
        There is no anion, or an ion without parameters.
    """
    ions = [
        (interaction, crystal.frac[sites], amounts)
        for interaction, sites, amounts in interactions(crystal)
    ]
    return sum_on_grid(crystal.matrix, ions, shape)


def _first_at(landscape: Array, level: float) -> Array:
    """Return the fractional coordinates of the first point at a level."""
    place = np.unravel_index(int(np.argmax(landscape == level)), landscape.shape)
    return np.array(place) / landscape.shape


def energies_at(crystal: Crystal, places: Array, alone: NDArray[np.bool_]) -> Array:
    """Return the site energy in eV of a Li+ at each place, pair by pair.

    Parameters
    ----------
    places : array of shape (n, 3)
        Fractional coordinates in [0, 1).
    alone : array of shape (n,)
        Whether what is at the place itself is left out, as on a site that Li shares: the others
        are not there when it is. Else it counts as in `energy_grid`.

    Raises
    ------
    ValueError
        There is no anion, or an ion without parameters.
    """
    total = np.zeros(len(places))
    for interaction, sites, amounts in interactions(crystal):
        frac = crystal.frac[sites]
        centre, point, vector = find_neighbours(crystal.matrix, places, frac, interaction.cutoff)
        energies = interaction.at(np.linalg.norm(vector, axis=1)) * amounts[point]
        total += np.bincount(centre, energies, minlength=len(places))
        apart = places[~alone, None] - frac
        distance = np.linalg.norm((apart - np.rint(apart)) @ crystal.matrix, axis=-1)
        itself = distance <= COINCIDENT_ANGSTROM
        total[~alone] += (itself @ amounts) * interaction.at(np.zeros(1))
    return total
