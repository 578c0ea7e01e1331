"""Electrostatics at the Li sites of a CIF, with average charges on disordered sites."""

from __future__ import annotations

import math

import numpy as np

from features.chemistry.crystals import Array, find_neighbours, weighted, zeros
from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_crystal
from features.rows import Block, Log, Rows

N_COLUMNS = 5

# e^2 / (4 pi epsilon_0) in eV angstrom, CODATA 2018.
COULOMB_EV_ANGSTROM = 14.3996454785

# Both sums are cut where what is left out is about this small against the first terms.
ACCURACY = 1e-9
# Above 1 moves work from the sum over neighbours to the sum over waves, which is cheaper here.
BALANCE = 1.3

WAVES_AT_ONCE = 4096

_OUTCOME = "the Ewald columns are 0"


def ewald(rows: Rows, log: Log) -> Block:
    """Compute five columns on the electrostatics of Li; all 0 where there are none."""
    return describe_cifs("ewald", describe_ewald, N_COLUMNS, rows, log)


def describe_ewald(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the five values for one CIF, and the reasons for what they lack.

    Mean and standard deviation over the Li atoms of the site energy of a Li+ ion, which is half
    its charge times the potential that all other average charges make at its site, in eV, as
    `EwaldSummation.get_site_energy` of pymatgen gives it on ordered crystals; energy of the
    cell per atom in eV; charge per atom for which no oxidation states were found, in e; and 1
    where there are values.
    """
    try:
        crystal, reasons = read_crystal(cif)
    except ValueError as exc:
        return zeros(N_COLUMNS, [str(exc)], _OUTCOME)
    charges = crystal.site_charges
    potential = site_potentials(crystal.matrix, crystal.frac, charges)
    li = crystal.li_occupancy > 0.0
    energies = 0.5 * potential[li]
    per_atom = 0.5 * float(charges @ potential) / float(crystal.occupancy.sum())
    mean, deviation = weighted(energies, crystal.li_occupancy[li])
    return [mean, deviation, per_atom, abs(crystal.states.slack), 1.0], reasons


def site_potentials(matrix: Array, frac: Array, charges: Array) -> Array:
    """Return the electrostatic potential at each site in volt, without the site's own charge.

    Ewald, Ann. Phys. 369, 253 (1921), as written by Toukmaji and Board, Comput. Phys. Commun. 95,
    73 (1996), with tin-foil boundary; the width of the Gaussians balances the two sums as in
    Perram, Petersen and de Leeuw, Mol. Phys. 65, 875 (1988). A net charge is compensated by a
    uniform background.

    Parameters
    ----------
    matrix : array of shape (3, 3)
        Lattice vectors in angstrom, one a row.
    frac : array of shape (n, 3)
        Fractional coordinates in [0, 1).
    charges : array of shape (n,)
        In elementary charges.
    """
    volume = abs(float(np.linalg.det(matrix)))
    alpha = BALANCE * math.sqrt(math.pi) * (len(frac) / volume**2) ** (1 / 6)
    reach = math.sqrt(-math.log(ACCURACY))
    near = _near_potentials(matrix, frac, charges, alpha, reach / alpha)
    waves = _wave_potentials(matrix, frac, charges, alpha, 2.0 * alpha * reach)
    itself = -2.0 * alpha / math.sqrt(math.pi) * charges
    background = -math.pi / (volume * alpha**2) * float(charges.sum())
    potentials: Array = COULOMB_EV_ANGSTROM * (near + waves + itself + background)
    return potentials


def _near_potentials(
    matrix: Array, frac: Array, charges: Array, alpha: float, cutoff: float
) -> Array:
    from scipy.special import erfc

    centre, point, vector = find_neighbours(matrix, frac, frac, cutoff)
    distance = np.linalg.norm(vector, axis=1)
    terms = charges[point] * erfc(alpha * distance) / distance
    total: Array = np.bincount(centre, terms, minlength=len(frac)).astype(np.float64)
    return total


def _wave_potentials(
    matrix: Array, frac: Array, charges: Array, alpha: float, cutoff: float
) -> Array:
    """Return the sum over one wave of each pair k, -k, counted twice."""
    volume = abs(float(np.linalg.det(matrix)))
    reciprocal = 2.0 * math.pi * np.linalg.inv(matrix).T
    limits = np.floor(cutoff * np.linalg.norm(matrix, axis=1) / (2.0 * math.pi)).astype(int)
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
    waves = np.stack(grid, axis=-1).reshape(-1, 3)
    waves = waves[len(waves) // 2 + 1 :]  # the grid is symmetric about its middle, k = 0
    squares = np.einsum("ij,ij->i", waves @ reciprocal, waves @ reciprocal)
    waves, squares = waves[squares <= cutoff**2], squares[squares <= cutoff**2]
    weights = 8.0 * math.pi / volume * np.exp(-squares / (4.0 * alpha**2)) / squares
    total = np.zeros(len(frac))
    for start in range(0, len(waves), WAVES_AT_ONCE):
        part = slice(start, start + WAVES_AT_ONCE)
        phases = 2.0 * math.pi * (frac @ waves[part].T)
        cosines, sines = np.cos(phases), np.sin(phases)
        total += cosines @ (weights[part] * (charges @ cosines))
        total += sines @ (weights[part] * (charges @ sines))
    return total
