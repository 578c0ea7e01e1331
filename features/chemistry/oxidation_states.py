"""Oxidation states by linear programming: one average per element, fractions allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from features.chemistry.formulas import SYMBOLS, add_up

# An element with two states in one compound is common, an uncompensated charge is not.
SLACK_COST = 1e3
# A state outside the element's usual ones is this much less likely than its frequency says: most
# of what a database holds of P(4+) is one family of crystals.
UNUSUAL = 100.0
SMALLEST_SHARE = 1e-9  # of an element's atoms; less is rounding
# The most electronegative elements are anions wherever anything else is there to be the cation.
_NEVER_POSITIVE = frozenset({"O", "F"})
# An element has a ladder of all its states, one of those below 0, and one of the others.
_SIGNS = (0, -1, 1)

Array = NDArray[np.float64]
Ranks = NDArray[np.int64]


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
    by `UNUSUAL` for unusual states. Where no states balance, `slack` is the net charge per
    atom of the least charged solution.
    """
    present = {symbol: amount for symbol, amount in amounts.items() if amount > 0.0}
    if not present:
        return OxidationStates({}, 0.0)
    fractions = np.array([list(present.values())]) / sum(amounts.values())
    elements = np.array([[SYMBOLS.index(symbol) for symbol in present]])
    average, slack = average_states(elements, fractions)
    return OxidationStates(dict(zip(present, average[0].tolist(), strict=True)), float(slack[0]))


def average_states(elements: Ranks, fractions: Array) -> tuple[Array, Array]:
    """Do what `assign_states` does for many compositions of equally many elements.

    Parameters
    ----------
    elements, fractions : arrays of shape (n_compositions, n_elements)
        Positions in `features.chemistry.formulas.SYMBOLS`, and atomic fractions above 0.

    Returns
    -------
    average : array of shape (n_compositions, n_elements)
    slack : array of shape (n_compositions,)
    """
    ladders = len(_SIGNS) * elements
    mixed = _solve(fractions, ladders)
    pure = _branch(fractions, ladders, mixed)
    found = _choose(np.abs(mixed.slack) < np.abs(pure.slack) - SMALLEST_SHARE, mixed, pure)
    return found.average, found.slack


@dataclass(frozen=True, eq=False)
class _Solution:
    """A division of each element's atoms over its states, what it costs, what it lacks.

    One for each composition: `average` of shape (n_compositions, n_elements), the others of
    (n_compositions,). `torn` is the place of the element with states of both signs, or -1.
    """

    average: Array
    cost: Array
    slack: Array
    torn: Ranks


def _choose(where: NDArray[np.bool_], one: _Solution, other: _Solution) -> _Solution:
    return _Solution(
        np.where(where[:, None], one.average, other.average),
        np.where(where, one.cost, other.cost),
        np.where(where, one.slack, other.slack),
        np.where(where, one.torn, other.torn),
    )


@dataclass(frozen=True, eq=False)
class _Ladder:
    """What an element's states cost, and the steps of their lower convex hull, bottom to top."""

    costs: Mapping[int, float]
    lowest: int
    steps: tuple[tuple[float, str, int, int], ...]  # slope, the element, from state, to state


@dataclass(frozen=True, eq=False)
class _Ladders:
    """The ladders of all elements as arrays: of element k for each of `_SIGNS`, from 3 k on.

    `steps` of shape (n_ladders, n_steps) names steps by their order, the cheapest first; what a
    ladder has less than the longest is `len(low)`.
    """

    lowest: Array
    lowest_cost: Array
    steps: Ranks
    low: Array
    high: Array
    low_cost: Array
    high_cost: Array


def _branch(fractions: Array, ladders: Ranks, solution: _Solution) -> _Solution:
    """Return the cheapest solutions in which no element has states of both signs."""
    rows = np.flatnonzero(solution.torn >= 0)
    if not len(rows):
        return solution
    torn = solution.torn[rows]
    halves = []
    for sign in (-1, 1):
        half = ladders[rows]
        half[np.arange(len(rows)), torn] += _SIGNS.index(sign)
        halves.append(_branch(fractions[rows], half, _solve(fractions[rows], half)))
    found = _choose(halves[0].cost <= halves[1].cost, *halves)
    whole = replace(solution, **{name: value.copy() for name, value in vars(solution).items()})
    for name, value in vars(whole).items():
        value[rows] = getattr(found, name)
    return whole


def _solve(fractions: Array, ladders: Ranks) -> _Solution:
    """Return the solution of one linear program for each composition.

    Neutrality is all that couples the elements, so the optimum is reached by going from the lowest
    states upwards along the lower convex hulls of cost against state, the cheapest step of all
    elements first, until the charges add up to zero: no more than one element is left between two
    states.
    """
    known = _all_ladders()
    average, costs = known.lowest[ladders], known.lowest_cost[ladders]
    charge = add_up((fractions * average).T)
    torn = np.full(len(fractions), -1)
    steps = known.steps[ladders].reshape(len(fractions), -1)
    order = np.argsort(steps, axis=1, kind="stable")
    for position in order.T:
        rows = np.flatnonzero(charge < 0.0)
        step = steps[rows, position[rows]]
        rows, step = rows[step < len(known.low)], step[step < len(known.low)]
        if not len(rows):
            break
        place = position[rows] // known.steps.shape[1]
        low, high = known.low[step], known.high[step]
        whole = fractions[rows, place] * (high - low)
        share = -charge[rows] / whole
        charge[rows] = np.where(share > 1.0, charge[rows] + whole, 0.0)
        is_split = (share > SMALLEST_SHARE) & (share < 1.0 - SMALLEST_SHARE)
        torn[rows] = np.where(is_split & (low < 0.0) & (high > 0.0), place, -1)
        share = np.where(is_split, share, share > 0.5)
        average[rows, place] = low * (1.0 - share) + high * share
        low_cost, high_cost = known.low_cost[step], known.high_cost[step]
        costs[rows, place] = low_cost * (1.0 - share) + high_cost * share
    cost = SLACK_COST * np.abs(charge) + add_up((fractions * costs).T)
    return _Solution(average, cost, charge, torn)


@cache
def _all_ladders() -> _Ladders:
    ladders = [_ladder(symbol, sign) for symbol in SYMBOLS for sign in _SIGNS]
    steps = sorted({step for ladder in ladders for step in ladder.steps})
    rank = {step: position for position, step in enumerate(steps)}
    ranks = np.full((len(ladders), max(len(ladder.steps) for ladder in ladders)), len(steps))
    for row, ladder in zip(ranks, ladders, strict=True):
        row[: len(ladder.steps)] = [rank[step] for step in ladder.steps]
    costs = [_states(symbol) for _, symbol, *_ in steps]
    ends = [(low, high) for *_, low, high in steps]
    return _Ladders(
        lowest=np.array([ladder.lowest for ladder in ladders], dtype=np.float64),
        lowest_cost=np.array([ladder.costs.get(ladder.lowest, 0.0) for ladder in ladders]),
        steps=ranks,
        low=np.array([low for low, _ in ends], dtype=np.float64),
        high=np.array([high for _, high in ends], dtype=np.float64),
        low_cost=np.array([cost[low] for cost, (low, _) in zip(costs, ends, strict=True)]),
        high_cost=np.array([cost[high] for cost, (_, high) in zip(costs, ends, strict=True)]),
    )


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
    return _Ladder(costs, hull[0] if hull else 0, steps)


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
