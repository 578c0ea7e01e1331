"""Oxidation states by linear programming: one average per element, fractions allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

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
    ladders = {symbol: _ladder(symbol) for symbol in fractions}
    mixed = _solve(fractions, ladders)
    pure = _branch(fractions, ladders, mixed)
    return (mixed if abs(mixed.slack) < abs(pure.slack) - SMALLEST_SHARE else pure).states()


@dataclass(frozen=True)
class _Solution:
    """A division of each element's atoms over its states, what it costs, what it lacks."""

    cost: float
    shares: Mapping[str, Mapping[int, float]]
    slack: float

    def states(self) -> OxidationStates:
        average = {
            symbol: sum(state * share for state, share in parts.items())
            for symbol, parts in self.shares.items()
        }
        return OxidationStates(average, self.slack)


@dataclass(frozen=True, eq=False)
class _Ladder:
    """What an element's states cost, and the steps of their lower convex hull, bottom to top."""

    costs: Mapping[int, float]
    lowest: int
    steps: tuple[tuple[float, str, int, int], ...]  # slope, the element, from state, to state


def _branch(
    fractions: Mapping[str, float], ladders: Mapping[str, _Ladder], solution: _Solution
) -> _Solution:
    """Return the cheapest solution in which no element has states of both signs."""
    for symbol, parts in solution.shares.items():
        if min(parts) < 0 < max(parts):
            halves = ({**ladders, symbol: _ladder(symbol, sign)} for sign in (-1, 1))
            found = (_branch(fractions, half, _solve(fractions, half)) for half in halves)
            return min(found, key=lambda branch: branch.cost)
    return solution


def _solve(fractions: Mapping[str, float], ladders: Mapping[str, _Ladder]) -> _Solution:
    """Return the solution of one linear program.

    Neutrality is all that couples the elements, so the optimum is reached by going from the lowest
    states upwards along the lower convex hulls of cost against state, the cheapest step of all
    elements first, until the charges add up to zero: no more than one element is left between two
    states.
    """
    shares: dict[str, Mapping[int, float]] = {}
    steps: list[tuple[float, str, int, int]] = []
    charge = 0.0
    for symbol, fraction in fractions.items():
        ladder = ladders[symbol]
        shares[symbol] = {ladder.lowest: 1.0}
        steps += ladder.steps
        charge += fraction * ladder.lowest
    for _slope, symbol, low, high in sorted(steps):
        if charge >= 0.0:
            break
        whole = fractions[symbol] * (high - low)
        share = -charge / whole
        if share >= 1.0 - SMALLEST_SHARE:
            shares[symbol] = {high: 1.0}
            charge = charge + whole if share > 1.0 else 0.0
        else:
            shares[symbol] = (
                {low: 1.0 - share, high: share} if share > SMALLEST_SHARE else {low: 1.0}
            )
            charge = 0.0
    cost = SLACK_COST * abs(charge)
    for symbol, parts in shares.items():
        for state, part in parts.items():
            cost += fractions[symbol] * ladders[symbol].costs[state] * part
    return _Solution(cost, shares, charge)


@cache
def _ladder(symbol: str, sign: int = 0) -> _Ladder:
    """Return an element's states: all of them, those below 0 (-1), or the others (1)."""
    states = _states(symbol)
    costs = {s: states[s] for s in sorted(states) if sign == 0 or (s < 0) is (sign < 0)}
    hull: list[int] = []
    for state in costs:
        # A state above the line between its neighbours is never worth a stop.
        while len(hull) > 1 and _slope(costs, hull[-2], hull[-1]) >= _slope(costs, hull[-1], state):
            hull.pop()
        hull.append(state)
    steps = tuple((_slope(costs, low, high), symbol, low, high) for low, high in pairwise(hull))
    return _Ladder(costs, hull[0], steps)


def _slope(costs: Mapping[int, float], low: int, high: int) -> float:
    return (costs[high] - costs[low]) / (high - low)


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
