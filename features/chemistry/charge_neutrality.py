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
from fractions import Fraction
from functools import cache
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.chemistry.formulas import Compositions

# Amounts are read as fractions with such denominators, of cells with so many atoms.
MAX_DENOMINATOR, MAX_ATOMS = 1000, 10_000

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
    known: dict[tuple[tuple[str, int], ...], int] = {}
    found = np.full(len(compositions), UNKNOWN, dtype=np.int8)
    for row in range(len(compositions)):
        counts = whole_numbers(compositions[row])
        if counts is None:
            continue
        key = tuple(counts.items())
        if key not in known:
            known[key] = _judge(counts)
        found[row] = known[key]
    return found


def whole_numbers(amounts: Mapping[str, float]) -> dict[str, int] | None:
    """Return the smallest whole numbers of atoms in these ratios; None if there are none such."""
    if not amounts:
        return None
    if all(amount.is_integer() for amount in amounts.values()):
        counts = {symbol: int(amount) for symbol, amount in amounts.items()}
    else:
        ratios = {s: Fraction(a).limit_denominator(MAX_DENOMINATOR) for s, a in amounts.items()}
        common = lcm(*(ratio.denominator for ratio in ratios.values()))
        counts = {symbol: int(ratio * common) for symbol, ratio in ratios.items()}
    divisor = int(np.gcd.reduce(list(counts.values())))
    if divisor == 0 or sum(counts.values()) > MAX_ATOMS * divisor:
        return None
    return {symbol: count // divisor for symbol, count in counts.items() if count}


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
