"""Oxidation states by linear programming: one average per element, fractions allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

# An element with two states in one compound is common, an uncompensated charge is not.
SLACK_COST = 1e3
# A state outside the element's usual ones is this much less likely than its frequency says: most
# of what a database holds of P(4+) is one family of crystals.
UNUSUAL = 100.0
SMALLEST_SHARE = 1e-9  # of an element's atoms; less is rounding
# The most electronegative elements are anions wherever anything else is there to be the cation.
_NEVER_POSITIVE = frozenset({"O", "F"})


@dataclass(frozen=True)
class OxidationStates:
    """Average oxidation state by element, and the charge in e per atom that is left over."""

    average: Mapping[str, float]
    slack: float


def assign_states(amounts: Mapping[str, float]) -> OxidationStates:
    """Return the likeliest oxidation states that make a composition neutral.

    Each element's atoms are divided over its known states so that the charges add up to zero and
    the sum over the atoms of -log p(state | element) is smallest: a linear program, whose
    solutions are fractions where two states are mixed. States of both signs are mixed in one
    element only where nothing else balances, as in B12H12: else the program is split in two.
    p is how often a state of the element occurs in the ICSD, as pymatgen tabulates it for its own
    guesses (Ong et al., Comput. Mater. Sci. 68, 314 (2013)), which need integer amounts, divided
    by ``UNUSUAL`` for unusual states. Where no states balance, ``slack`` is the net charge per
    atom of the least charged solution.
    """
    total = sum(amounts.values())
    fractions = {symbol: amount / total for symbol, amount in amounts.items() if amount > 0.0}
    states = {symbol: _states(symbol) for symbol in fractions}
    _cost, mixed = _relaxed(fractions, states)
    _cost, pure = _branch(fractions, states)
    return mixed if abs(mixed.slack) < abs(pure.slack) - SMALLEST_SHARE else pure


def _branch(
    fractions: Mapping[str, float], states: dict[str, dict[int, float]]
) -> tuple[float, OxidationStates]:
    """Return the cheapest solution in which no element has states of both signs, and its cost."""
    shares = _solve(fractions, states)[1]
    for symbol, parts in shares.items():
        if min(parts) < 0 < max(parts):
            halves = (
                {state: value for state, value in states[symbol].items() if (state < 0) is negative}
                for negative in (True, False)
            )
            found = (_branch(fractions, {**states, symbol: half}) for half in halves)
            return min(found, key=lambda solution: solution[0])
    return _relaxed(fractions, states)


def _relaxed(
    fractions: Mapping[str, float], states: Mapping[str, Mapping[int, float]]
) -> tuple[float, OxidationStates]:
    """Return the cheapest solution, whatever it mixes, and its cost."""
    cost, shares, slack = _solve(fractions, states)
    average = {
        symbol: sum(state * share for state, share in parts.items())
        for symbol, parts in shares.items()
    }
    return cost, OxidationStates(average, slack)


def _solve(
    fractions: Mapping[str, float], states: Mapping[str, Mapping[int, float]]
) -> tuple[float, dict[str, dict[int, float]], float]:
    """Return cost, share of each state of each element, and slack of one linear program."""
    from scipy.optimize import linprog

    columns = [(symbol, state) for symbol in fractions for state in states[symbol]]
    elements = list(fractions)
    n = len(columns)
    equalities = np.zeros((len(elements) + 1, n + 2))
    for position, (symbol, state) in enumerate(columns):
        equalities[elements.index(symbol), position] = 1.0
        equalities[-1, position] = fractions[symbol] * state
    equalities[-1, n:] = (1.0, -1.0)
    found = linprog(
        [*(fractions[e] * states[e][state] for e, state in columns), SLACK_COST, SLACK_COST],
        A_eq=equalities,
        b_eq=[1.0] * len(elements) + [0.0],
        method="highs",
    )
    shares: dict[str, dict[int, float]] = {symbol: {} for symbol in elements}
    for (symbol, state), share in zip(columns, found.x[:n], strict=True):
        if share > SMALLEST_SHARE:
            shares[symbol][state] = float(share)
    # What is missing to neutrality, with the sign of the charge that the atoms have.
    return float(found.fun), shares, float(found.x[n + 1] - found.x[n])


@cache
def _states(symbol: str) -> dict[int, float]:
    """Return -log of the likelihood of each known state of an element."""
    from pymatgen.core.periodic_table import Element

    element = Element(symbol)
    usual = {int(state) for state in element.common_oxidation_states}
    known = usual | {int(state) for state in element.icsd_oxidation_states}
    counts = occurrences().get(symbol, {})
    likely = {
        state: counts.get(state, 1.0) / (1.0 if state in usual else UNUSUAL)
        for state in sorted(known - {0}) or [0]
        if not (symbol in _NEVER_POSITIVE and state > 0)
    }
    total = sum(likely.values())
    return {state: -float(np.log(weight / total)) for state, weight in likely.items()}


@cache
def occurrences() -> dict[str, dict[int, float]]:
    """Return how often each integer state of each element occurs in the ICSD."""
    from pymatgen.core.composition import Composition

    Composition("LiF").oxi_state_guesses()  # loads the table
    counts: dict[str, dict[int, float]] = {}
    for species, count in (Composition.oxi_prob or {}).items():
        state = float(species.oxi_state or 0)
        if state.is_integer():
            counts.setdefault(species.symbol, {})[int(state)] = float(count)
    return counts
