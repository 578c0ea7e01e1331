"""Charge neutrality of formulas by SMACT's oxidation states.

A formula is neutral if each of its elements can be given a state so that the charges add up to
zero: the test of `smact.screening.smact_validity`, without its one of electronegativities. An
element that SMACT knows in mixed valence (Fe in Fe3O4) may have several states at once, a single
element is neutral, and so are alloys of metals. SMACT counts whole atoms, and cuts 0.5 to 0; here
Li0.5 counts as half a lithium. Where SMACT knows no state of an element, it says no; here nothing
is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.chemistry.formulas import SYMBOLS, Compositions

# What amounts are multiplied by to be whole, to this tolerance; cells have so many atoms at most.
SCALES, TOLERANCE, MAX_ATOMS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 100, 1000), 1e-4, 10_000

NEUTRAL, CHARGED, UNKNOWN = 1, 0, -1


class _States(NamedTuple):
    states: Mapping[str, tuple[int, ...]]
    mixed: frozenset[str]
    metals: frozenset[str]


@cache
def _smact() -> _States:
    # A second, with pandas, for those who rank alone.
    import smact
    from smact.screening import MIXED_VALENCE_ELEMENTS, ICSD24FilterConfig
    from smact.utils.oxidation import ICSD24OxStatesFilter

    usual = ICSD24FilterConfig()
    found = ICSD24OxStatesFilter().filter(
        consensus=usual.consensus, include_zero=usual.include_zero, commonality=usual.commonality
    )
    states = {
        str(symbol): tuple(int(state) for state in str(listed).split())
        for symbol, listed in zip(found["element"], found["oxidation_state"], strict=True)
    }
    return _States(states, frozenset(MIXED_VALENCE_ELEMENTS), frozenset(smact.metals))


def are_neutral(compositions: Compositions) -> NDArray[np.int8]:
    """Return for each formula whether it is neutral: an array of shape (n_formulas,).

    1 for neutral, 0 for charged, -1 where that is not known.
    """
    known: dict[bytes, int] = {}
    found = np.full(len(compositions), UNKNOWN, dtype=np.int8)
    starts, elements = compositions.starts.tolist(), compositions.elements
    atoms = _whole_numbers(compositions)
    for row in range(len(compositions)):
        part = slice(starts[row], starts[row + 1])
        if part.start == part.stop or not atoms[part.start]:
            continue
        key = elements[part].tobytes() + atoms[part].tobytes()
        if key not in known:
            symbols = [SYMBOLS[position] for position in elements[part].tolist()]
            known[key] = _judge(dict(zip(symbols, atoms[part].tolist(), strict=True)))
        found[row] = known[key]
    return found


def _whole_numbers(compositions: Compositions) -> NDArray[np.int64]:
    """Return the smallest whole numbers of atoms in the ratios of each formula, part by part.

    0 where there are none such.
    """
    amounts, rows = compositions.amounts, compositions.rows
    atoms = np.zeros(len(amounts), dtype=np.int64)
    left = np.ones(len(compositions), dtype=bool)
    for scale in SCALES:
        scaled = amounts * scale
        nearest = np.rint(scaled)
        odd = np.abs(scaled - nearest) > TOLERANCE * scale
        fits = left & (np.bincount(rows[odd], minlength=len(left)) == 0)
        chosen = fits[rows]
        atoms[chosen] = nearest[chosen]
        left &= ~fits
    if len(atoms):
        divisors = np.gcd.reduceat(atoms, compositions.starts[:-1][compositions.counts > 0])
        by_row = np.ones(len(left), dtype=np.int64)
        by_row[compositions.counts > 0] = np.maximum(divisors, 1)
        atoms //= by_row[rows]
    totals = np.bincount(rows, weights=atoms, minlength=len(left))
    # An amount that is none to this tolerance is left out of nothing: the formula is not judged.
    unread = (totals > MAX_ATOMS) | (np.bincount(rows[atoms == 0], minlength=len(left)) > 0)
    atoms[unread[rows]] = 0
    return atoms


def _judge(counts: Mapping[str, int]) -> int:
    smact = _smact()
    if len(counts) == 1 or smact.metals.issuperset(counts):
        return NEUTRAL
    if not smact.states.keys() >= counts.keys():
        return UNKNOWN
    if _balances([(smact.states[symbol], count, 1) for symbol, count in counts.items()]):
        return NEUTRAL
    if smact.mixed.isdisjoint(counts):
        return CHARGED
    atoms = [
        (smact.states[symbol], *((1, count) if symbol in smact.mixed else (count, 1)))
        for symbol, count in counts.items()
    ]
    return NEUTRAL if _balances(atoms) else CHARGED


def _balances(parts: list[tuple[tuple[int, ...], int, int]]) -> bool:
    """Return whether the charges of parts can add up to zero.

    A part is its states, the atoms that have one of them together, and how often that is chosen.
    Sums that can be reached are the bits of a number: so many as there are, whatever the order.
    """
    lowest = sum(min(states) * atoms * times for states, atoms, times in parts)
    reached = 1  # bit k: the charge `lowest` + k, once all parts are there
    for states, atoms, times in parts:
        least = min(states)
        for _ in range(times):
            shifted = 0
            for state in states:
                shifted |= reached << ((state - least) * atoms)
            reached = shifted
    return lowest <= 0 and bool(reached >> -lowest & 1)
