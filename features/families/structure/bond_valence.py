"""Bond-valence sums at the Li sites of a CIF, for disordered crystals too."""

from __future__ import annotations

from functools import cache

import numpy as np

from features.chemistry.crystals import (
    Array,
    Crystal,
    find_neighbours,
    weighted,
    zeros,
)
from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_crystal
from features.rows import Block, Log, Rows

CUTOFF_ANGSTROM = 8.0
N_COLUMNS = 9

CONVENTIONAL_B_ANGSTROM = 0.37
# Li+ by anion, R0 and b in angstrom: the first choice of the IUCr's accumulated table (bvparm2020),
# O and F from Brown and Altermatt, Acta Cryst. B 41, 244 (1985), the others from Brese and
# O'Keeffe, Acta Cryst. B 47, 192 (1991).
PARAMETERS = {
    "N": (1.61, CONVENTIONAL_B_ANGSTROM),
    "O": (1.466, CONVENTIONAL_B_ANGSTROM),
    "F": (1.360, CONVENTIONAL_B_ANGSTROM),
    "S": (1.94, CONVENTIONAL_B_ANGSTROM),
    "Cl": (1.91, CONVENTIONAL_B_ANGSTROM),
    "Se": (2.09, CONVENTIONAL_B_ANGSTROM),
    "Br": (2.02, CONVENTIONAL_B_ANGSTROM),
    "Te": (2.30, CONVENTIONAL_B_ANGSTROM),
    "I": (2.22, CONVENTIONAL_B_ANGSTROM),
}

# Li+ with softness-sensitive parameters by anion: R0 and b in angstrom. Chen and Adams, IUCrJ 4,
# 614 (2017), for all anions within the cut-off, as tabulated by softBV and bvlain (MIT).
SOFT_PARAMETERS = {
    "N": (1.15430, 1 / 1.569859),
    "O": (1.17096, 1 / 1.937984),
    "F": (1.08674, 1 / 1.968504),
    "S": (1.46652, 1 / 1.531394),
    "Cl": (1.39892, 1 / 1.577287),
    "Se": (1.62021, 1 / 1.461988),
    "Br": (1.51288, 1 / 1.481481),
    "Te": (1.71028, 1 / 1.371742),
    "I": (1.64829, 1 / 1.360544),
}

_OUTCOME = "the bond-valence columns are 0"


def bond_valence(rows: Rows, log: Log) -> Block:
    """Compute nine columns on the bond valences of Li; all 0 where there are none."""
    return describe_cifs("bond_valence", describe_bond_valence, N_COLUMNS, rows, log)


def describe_bond_valence(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the nine values for one CIF, and the reasons for what they lack.

    For the conventional and for the softness-sensitive parameters: mean and standard deviation
    over the Li atoms of the bond-valence sum V, and of the mismatch abs(1 - V). The last is 1
    where there are values. Every site counts by its occupancy.
    """
    try:
        crystal, reasons = read_crystal(cif)
        sums = [valence_sums(crystal, soft=soft) for soft in (False, True)]
    except ValueError as exc:
        return zeros(N_COLUMNS, [str(exc)], _OUTCOME)
    weights = crystal.li_occupancy[crystal.li_occupancy > 0.0]
    values = []
    for valences in sums:
        values += [*weighted(valences, weights), *weighted(abs(1.0 - valences), weights)]
    estimated = [anion for anion in anions_of(crystal) if parameters_of(anion, soft=True)[1]]
    if estimated:
        reasons.append(f"bond-valence parameters of Li-{', Li-'.join(estimated)} are estimated")
    return [*values, 1.0], reasons


def anions_of(crystal: Crystal) -> list[str]:
    """Return the elements with a negative average oxidation state."""
    pairs = zip(crystal.symbols, crystal.element_charges, strict=True)
    return [symbol for symbol, charge in pairs if charge < 0.0]


def valence_sums(crystal: Crystal, *, soft: bool) -> Array:
    """Return the bond-valence sum of a Li atom on each site that holds Li, shape (n_li_sites,).

    V = sum over the neighbours of occupancy * exp((R0 - R) / b): Brown and Altermatt, Acta Cryst.
    B 41, 244 (1985), with each anion weighted by its occupancy, as is usual for average
    structures. `soft` takes the softness-sensitive parameters.

    Raises
    ------
    ValueError
        There is no anion, or one without parameters.
    """
    li = crystal.li_occupancy > 0.0
    sums = np.zeros(np.count_nonzero(li))
    for anion in anions_of(crystal):
        share = crystal.occupancy[:, crystal.symbols.index(anion)]
        holds = share > 0.0
        centre, point, vector = find_neighbours(
            crystal.matrix, crystal.frac[li], crystal.frac[holds], CUTOFF_ANGSTROM
        )
        (r0, b), _ = parameters_of(anion, soft=soft)
        valences = np.exp((r0 - np.linalg.norm(vector, axis=1)) / b)
        sums += np.bincount(centre, valences * share[holds][point], minlength=len(sums))
    if not sums.any():
        raise ValueError("no anion near Li")
    return sums


@cache
def parameters_of(anion: str, *, soft: bool) -> tuple[tuple[float, float], bool]:
    """Return R0 and b in angstrom of the bond from Li+ to an anion, and whether it is an estimate.

    What is not tabulated (hydrides, phosphides) is estimated from the sizes and
    electronegativities of O'Keeffe and Brese, J. Am. Chem. Soc. 113, 3226 (1991), which pymatgen
    carries, with their b of 0.37 angstrom.

    Raises
    ------
    ValueError
        There is no estimate for this anion either.
    """
    table = SOFT_PARAMETERS if soft else PARAMETERS
    if anion in table:
        return table[anion], False
    from pymatgen.core.bond_valence import BV_PARAMS
    from pymatgen.core.periodic_table import Element

    if Element(anion) not in BV_PARAMS:
        raise ValueError(f"no bond-valence parameters for Li-{anion}")
    (r1, c1), (r2, c2) = (
        (BV_PARAMS[Element(e)]["r"], BV_PARAMS[Element(e)]["c"]) for e in ("Li", anion)
    )
    r0 = r1 + r2 - r1 * r2 * (c1**0.5 - c2**0.5) ** 2 / (c1 * r1 + c2 * r2)
    return (float(r0), CONVENTIONAL_B_ANGSTROM), True
