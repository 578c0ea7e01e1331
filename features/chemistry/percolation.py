"""Percolation of periodic energy landscapes: the level at which something gets through."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import Array

Integers = NDArray[np.integer[Any]]
Shift = tuple[int, int, int]

# The steps from a grid point to itself and to its 26 neighbours; one of each pair d, -d of these.
STEPS_27 = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
STEPS = STEPS_27[14:]
# A lattice translation as one number, so that sums of translations are sums of numbers.
BASE = 1 << 21
UNITS = (BASE * BASE, BASE, 1)
# Shares of the points that are looked at first: most landscapes percolate far below their top.
SHARES = (0.1, 0.3)
POINTS_AT_ONCE = 300_000  # what keeps memory bounded


def percolation_levels(landscape: Array, highest: float = math.inf) -> tuple[float, float, float]:
    """Return the lowest levels at which a region is connected in one, two and three directions.

    The region of all points up to a level is connected in as many directions as there are
    linearly independent lattice translations from a point of one of its parts to an image of
    that point in the same part, as of a periodic graph: Cohen and Megiddo, "Recognizing
    properties of periodic graphs", DIMACS Ser. 4, 135 (1991). A point has 26 neighbours. The
    level is a value of the landscape: on the grid it is exact.

    From each point the steepest way down ends in a minimum and stays in every region that the
    point is in. So the minima stand for all points, and two of them are connected from the level
    of the lowest pass between their basins on: the passes are opened from the lowest up, as
    Kruskal does for a minimum spanning tree.

    Parameters
    ----------
    landscape : array of shape (n, m, l)
        Values on the points (i / n, j / m, k / l) of a cell that repeats itself.
    highest
        Levels above this one are not looked at.

    Returns
    -------
    levels : tuple of float
        Infinite where the region up to `highest` is not connected in so many directions.
    """
    values = landscape[landscape <= highest]
    if not values.size:
        return math.inf, math.inf, math.inf
    basins = _basins(landscape)
    places = [int(share * values.size) for share in SHARES]
    levels = (math.inf, math.inf, math.inf)
    for bound in (*np.partition(values, places)[places].tolist(), float(values.max())):
        levels = _levels_of(basins.passes(bound))
        if math.isfinite(levels[2]):
            break
    return levels


class _Passes(NamedTuple):
    """Ways from basin `one` to basin `other` in the cell `shift` away."""

    level: Array
    one: Integers
    other: Integers
    shift: Integers

    def lowest(self) -> _Passes:
        """Return the lowest between the same two basins, by level."""
        order = np.lexsort((self.level, self.shift, self.other, self.one))
        kinds = np.stack([self.one, self.other, self.shift])[:, order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (kinds[:, 1:] != kinds[:, :-1]).any(axis=0)
        chosen = order[first]
        chosen = chosen[np.argsort(self.level[chosen], kind="stable")]
        one, other, shift = (part[chosen] for part in (self.one, self.other, self.shift))
        return _Passes(self.level[chosen], one, other, shift)


class _Basins(NamedTuple):
    """The minimum that is reached from each point, in arrays with a border of one point more.

    Attributes
    ----------
    landscape, minimum, shift : arrays of shape (n + 2, m + 2, l + 2)
        Values; flat index of the minimum within the cell; translation, in `UNITS`, from the cell
        inside the border to the one that the minimum is in.
    """

    landscape: Array
    minimum: Integers
    shift: Integers

    def passes(self, bound: float) -> _Passes:
        """Return the lowest pass of each kind, those up to `bound`, by level."""
        values, minimum, shift = self.landscape.ravel(), self.minimum.ravel(), self.shift.ravel()
        low = np.zeros(self.landscape.shape, dtype=bool)
        low[_INSIDE] = self.landscape[_INSIDE] <= bound
        points = np.flatnonzero(low)
        found = []
        for here in np.array_split(points, len(points) // POINTS_AT_ONCE + 1):
            pairs = []
            for step in STEPS @ _strides(self.landscape.shape):
                there = here + step
                crosses = (minimum[there] != minimum[here]) | (shift[there] != shift[here])
                crosses &= values[there] <= bound
                pairs.append((here[crosses], there[crosses]))
            a, b = map(np.concatenate, zip(*pairs, strict=True))
            level = np.maximum(values[a], values[b])
            found.append(_Passes(level, minimum[a], minimum[b], shift[b] - shift[a]).lowest())
        return _Passes(*map(np.concatenate, zip(*found, strict=True))).lowest()


_INSIDE = (slice(1, -1),) * 3


def _strides(shape: tuple[int, ...]) -> Integers:
    return np.array([shape[1] * shape[2], shape[2], 1])


def _basins(landscape: Array) -> _Basins:
    """Follow the steepest way down from each point to its end."""
    shape = landscape.shape
    bordered = np.pad(landscape, 1, mode="wrap")
    # Indices as numbers of 32 bits: a grid of more points has no room in memory anyway.
    there = np.arange(bordered.size, dtype=np.int32).reshape(bordered.shape)[_INSIDE].ravel()
    there += (STEPS_27 @ _strides(bordered.shape)).astype(np.int32)[_steepest(bordered).ravel()]
    cell = np.arange(landscape.size, dtype=np.int32).reshape(shape)
    home: Integers = np.pad(cell, 1, mode="wrap").ravel()
    shift = np.zeros(bordered.shape, dtype=np.int64)
    _add_border(shift)
    minimum, by = home[there], shift.ravel()[there]
    del cell, there, shift
    while True:
        further = minimum[minimum]
        if np.array_equal(further, minimum):
            break
        by += by[minimum]
        minimum = further
    shift = np.pad(by.reshape(shape), 1, mode="wrap")
    _add_border(shift)
    return _Basins(bordered, minimum[home].reshape(bordered.shape), shift)


def _steepest(bordered: Array) -> NDArray[np.int8]:
    """Return which of `STEPS_27` leads to the lowest point, for each inside the border.

    Only what is lower counts: a point of a plateau stays, and no way goes round in a circle.
    """
    lowest, step = bordered, np.full(bordered.shape, 13, dtype=np.int8)
    # The lowest of three along one axis after the other is the lowest of 27.
    for axis, count in enumerate((9, 3, 1)):
        before = (slice(None),) * axis
        here, *beside = ((*before, part) for part in (slice(1, -1), slice(2, None), slice(-2)))
        least, taken = lowest[here].copy(), step[here].copy()
        for there, by in zip(beside, (count, -count), strict=True):
            lower = lowest[there] < least
            np.copyto(least, lowest[there], where=lower)
            np.copyto(taken, step[there] + np.int8(by), where=lower)
        lowest, step = least, taken
    return step


def _add_border(shift: Integers) -> None:
    """Add to each point of the border the translation to the cell that it lies in."""
    for axis, unit in enumerate(UNITS):
        before = (slice(None),) * axis
        shift[(*before, slice(0, 1))] -= unit
        shift[(*before, slice(-1, None))] += unit


def _levels_of(passes: _Passes) -> tuple[float, float, float]:
    """Return the levels at which these passes lead on in one, two and three directions."""
    network = PeriodicNetwork()
    levels: list[float] = []
    ways = zip(passes.one.tolist(), passes.other.tolist(), _decoded(passes.shift), strict=True)
    for level, way in zip(passes.level.tolist(), ways, strict=True):
        levels += [level] * (network.join(*way) - len(levels))
        if len(levels) == 3:
            break
    first, second, third = (*levels, *[math.inf] * (3 - len(levels)))
    return first, second, third


def _decoded(shifts: Integers) -> Iterator[Shift]:
    parts = []
    for _ in UNITS:
        last = (shifts + BASE // 2) % BASE - BASE // 2
        parts.append(last.tolist())
        shifts = (shifts - last) // BASE
    yield from zip(*reversed(parts), strict=True)


class PeriodicNetwork:
    """Nodes of a cell that repeats itself, and in how many directions what is joined goes on."""

    def __init__(self) -> None:
        self._above: dict[int, tuple[int, Shift]] = {}  # the next node, and the cell it is in
        self._loops: dict[int, list[Shift]] = {}  # independent ones, of the topmost nodes

    def join(self, one: int, other: int, shift: Shift) -> int:
        """Join node `one` to node `other` of the cell `shift` away.

        Returns
        -------
        rank : int
            Number of independent translations within the part that they belong to now.
        """
        top, cell = self._top_of(one)
        other_top, other_cell = self._top_of(other)
        # From the cell of the one's topmost node to that of the other's.
        way = (
            shift[0] + other_cell[0] - cell[0],
            shift[1] + other_cell[1] - cell[1],
            shift[2] + other_cell[2] - cell[2],
        )
        loops = self._loops.setdefault(top, [])
        if top == other_top:
            more = [way]
        else:
            more = self._loops.pop(other_top, [])
            self._above[other_top] = top, (-way[0], -way[1], -way[2])
        for loop in more:
            if _is_independent(loops, loop):
                loops.append(loop)
        return len(loops)

    def _top_of(self, node: int) -> tuple[int, Shift]:
        """Return the node that stands for all of a part, and its cell as seen from `node`."""
        way: list[tuple[int, Shift]] = []
        top = node
        while top in self._above:
            way.append((top, self._above[top][1]))
            top = self._above[top][0]
        x = y = z = 0
        for below, (dx, dy, dz) in reversed(way):
            x, y, z = x + dx, y + dy, z + dz
            self._above[below] = top, (x, y, z)
        return top, (x, y, z)


def _is_independent(loops: list[Shift], loop: Shift) -> bool:
    """Return whether a translation is none that the others, independent ones, add up to."""
    if len(loops) < 2:
        a, b = (*loops, loop)[0], loop
        return any(loop) and (not loops or any(_cross(a, b)))
    normal = _cross(*loops[:2])
    return len(loops) == 2 and sum(n * x for n, x in zip(normal, loop, strict=True)) != 0


def _cross(a: Shift, b: Shift) -> Shift:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
