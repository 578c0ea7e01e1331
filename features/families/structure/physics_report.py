"""The physics features of an earlier study, as it made them: pymatgen, on what it can do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from features.chemistry.oxidation_states import occurrences
from features.families.structure.bond_valence import PARAMETERS
from features.families.structure.ewald import site_potentials
from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_structure
from features.rows import Block, Log, Rows

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

N_COLUMNS = 8

VORONOI_CUTOFF_ANGSTROM = 5.0
# Bond valences are taken of the first Li sites of a cell. The study does not say how many; with
# this many its coverage is met exactly (all would add one cell, whose ordered Li sites come last).
MOST_SITES = 20
# Of the atoms of an element in a cell; occupancies have no more. The study is silent here too: the
# counts of rows that it covers come out best with this.
AMOUNT_DECIMALS = 4
MOST_CHOICES = 10_000_000  # they multiply with every element; of these, 0.5 GB
NEUTRAL = 1e-6  # elementary charges per cell


def physics_report(rows: Rows, log: Log) -> Block:
    """Compute the eight columns on the Li sites of each row's CIF; 0 where there are none."""
    return describe_cifs("physics_report", describe_physics, N_COLUMNS, rows, log)


def describe_physics(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the eight values for one CIF, and the reasons for what they lack.

    Mean and standard deviation over the Li sites of the bond-valence mismatch; the same of the
    Ewald energy in eV; mean Voronoi coordination number; and three columns that are 1 where the
    first two, the next two and the fifth could be computed. Disorder is what they mostly fail
    on: `bond_valence`, `ewald` and `li_voronoi` are the families that take it.
    """
    try:
        structure, reasons = read_structure(cif)
    except ValueError as exc:
        return [0.0] * N_COLUMNS, [str(exc)]
    li = [n for n, site in enumerate(structure) if "Li" in site.species.get_el_amt_dict()]
    if not li:
        return [0.0] * N_COLUMNS, [*reasons, "no Li in the CIF: all columns are 0"]
    mismatch = _attempt("bond valence", bond_valence_mismatches, structure, li, reasons)
    energy = _attempt("Ewald energy", ewald_energies, structure, li, reasons)
    number = _attempt("Voronoi coordination", voronoi_numbers, structure, li, reasons)
    values = [*_mean_and_deviation(mismatch), *_mean_and_deviation(energy)]
    values.append(_mean_and_deviation(number)[0])
    return [*values, *(float(bool(found)) for found in (mismatch, energy, number))], reasons


def bond_valence_mismatches(structure: Structure, li: list[int]) -> list[float]:
    """Return abs(1 - V) of the Li sites for which it can be had.

    V = sum of exp((R0 - R) / b) over the neighbours that CrystalNN finds (Pan et al., Inorg. Chem.
    60, 1590 (2021)); R0 and b as in `features.families.structure.bond_valence.PARAMETERS`.
    Neighbours that are none of these anions do not count; a site is passed over if it, or anything
    around it, is disordered.

    Raises
    ------
    ValueError
        There is no such site.
    """
    from pymatgen.analysis.local_env import CrystalNN

    finder: Any = CrystalNN()  # type: ignore[no-untyped-call]
    mismatches, reason = [], ""
    for n in li[:MOST_SITES]:
        try:
            if not structure[n].is_ordered:
                raise ValueError("Li shares its site or fills it in part")
            near = [found["site"] for found in finder.get_nn_info(structure, n)]
            mismatches.append(abs(1.0 - _valence_sum(near)))
        except Exception as exc:  # pymatgen's errors have no common base
            reason = reason or _line(exc)
    if not mismatches:
        raise ValueError(reason)
    return mismatches


def _valence_sum(neighbours: list[Any]) -> float:
    anions = [site for site in neighbours if site.specie.symbol in PARAMETERS]
    if not anions:
        raise ValueError("no neighbour of Li is an anion with bond-valence parameters")
    bonds = [(PARAMETERS[site.specie.symbol], site.nn_distance) for site in anions]
    return sum(math.exp((r0 - distance) / b) for (r0, b), distance in bonds)


def ewald_energies(structure: Structure, li: list[int]) -> list[float]:
    """Return the Ewald energy of each Li site in eV, as `EwaldSummation.get_site_energy` has it.

    Computed by `features.families.structure.ewald.site_potentials`, which gives pymatgen's
    number in a hundredth of the time. Each element has one whole oxidation state; where several
    choices make the cell neutral, the one whose states are most frequent in the ICSD.

    Raises
    ------
    ValueError
        No choice makes the cell neutral.
    """
    amounts = structure.composition.element_composition.get_el_amt_dict()
    states = whole_states(amounts)
    charges = [
        sum(states[symbol] * amount for symbol, amount in site.species.get_el_amt_dict().items())
        for site in structure
    ]
    frac = np.mod(np.asarray(structure.frac_coords), 1.0)
    potentials = site_potentials(structure.lattice.matrix, frac, np.array(charges, dtype=float))
    return [0.5 * charges[n] * float(potentials[n]) for n in li]


def whole_states(amounts: Mapping[str, float]) -> dict[str, int]:
    """Return one whole oxidation state for each element such that the charges add up to zero.

    Raises
    ------
    ValueError
        There are none, or too many to be looked at.
    """
    amounts = {symbol: round(amount, AMOUNT_DECIMALS) for symbol, amount in amounts.items()}
    choices = [_frequent_states(symbol) for symbol in amounts]
    n_choices = math.prod(map(len, choices))
    if n_choices > MOST_CHOICES:
        raise ValueError(
            f"{n_choices} choices of oxidation states, and at most {MOST_CHOICES} are looked at"
        )
    total, likelihood = np.zeros(()), np.zeros(())
    for options, amount in zip(choices, amounts.values(), strict=True):
        states, logarithms = np.array(options).T
        total = np.add.outer(total, states * amount)
        likelihood = np.add.outer(likelihood, logarithms * amount)
    neutral = np.abs(total) <= NEUTRAL
    if not neutral.any():
        raise ValueError("no whole oxidation states make it neutral")
    best = np.unravel_index(np.argmax(np.where(neutral, likelihood, -np.inf)), total.shape)
    picked = zip(amounts, choices, best, strict=True)
    return {symbol: options[int(place)][0] for symbol, options, place in picked}


@cache
def _frequent_states(symbol: str) -> tuple[tuple[int, float], ...]:
    """Return an element's known states, each with the logarithm of its frequency."""
    from pymatgen.core.periodic_table import Element

    counts = occurrences().get(symbol, {})
    known = [int(state) for state in Element(symbol).oxidation_states] or [0]
    return tuple((state, math.log(counts.get(state, 0.1))) for state in known)


def voronoi_numbers(structure: Structure, li: list[int]) -> list[float]:
    """Return the Voronoi coordination number of each Li site, by pymatgen's VoronoiNN.

    Every site must have one species that fills more than half of it.
    """
    from pymatgen.analysis.local_env import VoronoiNN

    finder: Any = VoronoiNN(cutoff=VORONOI_CUTOFF_ANGSTROM)  # type: ignore[no-untyped-call]
    return [float(finder.get_cn(structure, n)) for n in li]


def _attempt(
    what: str,
    compute: Callable[[Any, list[int]], list[float]],
    structure: Any,
    li: list[int],
    reasons: list[str],
) -> list[float]:
    with warnings.catch_warnings():
        # They warn of each fallback, such as a radius that is not tabulated.
        warnings.simplefilter("ignore")
        try:
            found = compute(structure, li)
        except Exception as exc:  # pymatgen's errors have no common base
            reasons.append(f"no {what} ({_line(exc)})")
            return []
    if not np.isfinite(found).all():
        reasons.append(f"no {what} (it is not finite)")
        return []
    return found


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    return (float(np.mean(values)), float(np.std(values))) if values else (0.0, 0.0)


def _line(message: object) -> str:
    return " ".join(str(message).split())[:120]
