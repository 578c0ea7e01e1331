"""Percolation of periodic energy landscapes: the level at which something gets through."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import Array

Integers = NDArray[np.intp]

# One of each pair d, -d of the steps to the 26 neighbours of a grid point.
STEPS = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)])


def percolation_levels(landscape: Array, highest: float = math.inf) -> tuple[float, float, float]:
    """Return the lowest levels at which a region is connected in one, two and three directions.

    The region of all points up to a level is connected in as many directions as there are
    linearly independent lattice translations from a point of one of its parts to an image of
    that point in the same part, as of a periodic graph: Cohen and Megiddo, "Recognizing
    properties of periodic graphs", DIMACS Ser. 4, 135 (1991). A point has 26 neighbours. The
    level is a value of the landscape, found by bisection: on the grid it is exact.

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
    values = np.unique(landscape[landscape <= highest])
    crossings = _Crossings(landscape)
    known: dict[int, int] = {}

    def directions(position: int) -> int:
        if position not in known:
            known[position] = crossings.directions(values[position])
        return known[position]

    levels = []
    first = 0
    for wanted in (1, 2, 3):
        low, high = first, len(values)
        while low < high:
            middle = (low + high) // 2
            if directions(middle) >= wanted:
                high = middle
            else:
                low = middle + 1
        first = low
        levels.append(float(values[low]) if low < len(values) else math.inf)
    return levels[0], levels[1], levels[2]


class _Crossings:
    """A landscape, and its pairs of neighbours on two sides of a face of the cell."""

    def __init__(self, landscape: Array) -> None:
        self.landscape = landscape
        shape = np.array(landscape.shape)
        points = np.stack(np.unravel_index(_outermost(landscape.shape), landscape.shape), axis=-1)
        beside = points[:, None, :] + STEPS
        cells = np.floor_divide(beside, shape)
        crosses = cells.any(axis=-1)
        one = np.broadcast_to(points[:, None, :], beside.shape)[crosses]
        other = (beside - cells * shape)[crosses]
        self.one = np.ravel_multi_index(tuple(one.T), landscape.shape)
        self.other = np.ravel_multi_index(tuple(other.T), landscape.shape)
        # From -1, 0, 1 on each axis to one number.
        self.shift = (cells[crosses] + 1) @ np.array([9, 3, 1])
        # With the lowest first, those below a level are the first so many.
        flat = landscape.ravel()
        barrier = np.maximum(flat[self.one], flat[self.other])
        order = np.argsort(barrier, kind="stable")
        self.barrier = barrier[order]
        self.one, self.other, self.shift = self.one[order], self.other[order], self.shift[order]

    def directions(self, level: float) -> int:
        """Return in how many directions the region up to `level` is connected."""
        from scipy.ndimage import label

        labels, n_parts = label(self.landscape <= level, structure=np.ones((3, 3, 3)))
        count = int(np.searchsorted(self.barrier, level, side="right"))
        flat = labels.ravel()
        one = flat[self.one[:count]].astype(np.int64)
        other = flat[self.other[:count]]
        codes = np.unique((one * (n_parts + 1) + other) * 27 + self.shift[:count])
        pairs, shift = np.divmod(codes, 27)
        one, other = np.divmod(pairs, n_parts + 1)
        shifts = np.stack(np.unravel_index(shift, (3, 3, 3)), axis=-1) - 1
        return periodic_rank(one.tolist(), other.tolist(), shifts.tolist())


def _outermost(shape: tuple[int, ...]) -> Integers:
    """Return the flat indices of the points on the six faces of a block."""
    inside = np.zeros(shape, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = True
    return np.flatnonzero(~inside)


def periodic_rank(one: Sequence[int], other: Sequence[int], shifts: Sequence[Sequence[int]]) -> int:
    """Return the largest number of directions in which a part of a periodic graph goes on.

    Parameters
    ----------
    one, other, shifts
        An edge joins node `one[n]` of a cell to node `other[n]` of the cell `shifts[n]`
        away.
    """
    neighbours: dict[int, list[tuple[int, Sequence[int]]]] = {}
    for a, b, (x, y, z) in zip(one, other, shifts, strict=True):
        neighbours.setdefault(a, []).append((b, (x, y, z)))
        neighbours.setdefault(b, []).append((a, (-x, -y, -z)))
    cell_of: dict[int, tuple[int, int, int]] = {}
    largest = 0
    for start in neighbours:
        if start in cell_of:
            continue
        cell_of[start] = (0, 0, 0)
        waiting, loops = [start], set()
        while waiting:
            node = waiting.pop()
            here = cell_of[node]
            for beside, (x, y, z) in neighbours[node]:
                there = (here[0] + x, here[1] + y, here[2] + z)
                if beside not in cell_of:
                    cell_of[beside] = there
                    waiting.append(beside)
                known = cell_of[beside]
                # The way there and the known way back: a translation of the lattice.
                loops.add((there[0] - known[0], there[1] - known[1], there[2] - known[2]))
        largest = max(largest, int(np.linalg.matrix_rank(np.array(sorted(loops)))))
    return largest
