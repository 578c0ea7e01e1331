"""Sums of pair energies on the points of a grid in a cell that repeats itself.

Split as Ewald does (Ann. Phys. 369, 253 (1921)): what is smooth of an energy is summed over waves,
by a fast Fourier transform, and the rest, which ends near each ion, from point to point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import Array

# Of the cell, and of what surrounds a point of it: some seconds and 0.5 GB.
MAX_POINTS = 8_000_000
# Nearer than this, two ions repel each other as at this distance: a grid point may lie on an ion.
NEAREST_ANGSTROM = 0.1

# Beyond `NEAR_ANGSTROM` an energy is smooth, and inside it goes on as a polynomial of this order
# in the square of the distance. The waves beyond `HIGHEST_WAVE_NUMBER`, which are left out, add
# 0.2 meV at most where two ions can be.
NEAR_ANGSTROM = 2.0
ORDER = 8
HIGHEST_WAVE_NUMBER = 12.0  # in 1 / angstrom; a grid of 0.26 angstrom has these waves
WAVE_NUMBERS = np.linspace(0.0, HIGHEST_WAVE_NUMBER, 401)

# Of the numbers that are worked on at once: what keeps memory bounded.
NUMBERS_AT_ONCE = 500_000


@dataclass(frozen=True)
class Interaction:
    """The energy in eV between two ions by their distance in angstrom, 0 beyond the cut-off."""

    energy: Callable[[Array], Array]
    cutoff: float

    def at(self, distance: Array) -> Array:
        """Return the energy at each distance."""
        energies = self.energy(np.maximum(distance, NEAREST_ANGSTROM))
        return np.where(distance <= self.cutoff, energies, 0.0)

    @property
    def near(self) -> float:
        """Distance up to which the energy is another than its smooth part, in angstrom."""
        return min(self.cutoff, NEAR_ANGSTROM)

    @cached_property
    def smooth(self) -> Callable[[Array], Array]:
        """The smooth part within `near`, by the square of the distance: 0 if there is no other."""
        if self.cutoff <= NEAR_ANGSTROM:
            return np.zeros_like
        from numpy.polynomial import Chebyshev, Polynomial

        # Taylor's, by an interpolation that is exact to ten digits.
        middle = NEAR_ANGSTROM**2
        found = Chebyshev.interpolate(
            lambda square: self.energy(np.sqrt(square)), 30, domain=[0.6 * middle, 1.4 * middle]
        )
        terms = []
        for order in range(ORDER + 1):
            terms.append(float(found(middle)) / math.factorial(order))
            found = found.deriv()
        polynomial = Polynomial(terms)
        return lambda square: np.asarray(polynomial(square - middle))

    @cached_property
    def waves(self) -> Callable[[Array], Array]:
        """The Fourier transform of the smooth part in eV angstrom^3, by wave number."""
        from scipy.interpolate import CubicSpline

        if self.cutoff <= NEAR_ANGSTROM:
            return np.zeros_like
        total = np.zeros_like(WAVE_NUMBERS)
        for first, last, count in ((0.0, self.near, 60), (self.near, self.cutoff, 100)):
            points, weights = _quadrature(count)
            half = 0.5 * (last - first)
            distance = first + half * (points + 1.0)
            part = self.smooth(distance**2) if first == 0.0 else self.energy(distance)
            kernel = np.sinc(np.outer(WAVE_NUMBERS, distance / math.pi))
            total += kernel @ (4.0 * math.pi * half * weights * distance**2 * part)
        spline: Callable[[Array], Array] = CubicSpline(WAVE_NUMBERS, total)
        return spline


@cache
def _quadrature(count: int) -> tuple[Array, Array]:
    """Return points and weights of Gauss and Legendre on [-1, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return points, weights


# An interaction, the sites of the ions as fractional coordinates, and how many atoms each holds.
Ions = tuple[Interaction, Array, Array]


def sum_on_grid(matrix: Array, ions: Iterable[Ions], shape: tuple[int, int, int]) -> Array:
    """Return the sum of all ions' energies on the points (i / n, j / m, k / l) of the cell.

    What an energy jumps by at its cut-off is spread over the 0.3 angstrom around it; for each ion
    that is near, the sum is within 0.2 meV where two ions can be.

    Parameters
    ----------
    matrix : array of shape (3, 3)
        Lattice vectors in angstrom, one a row.

    Raises
    ------
    ValueError
        The points are too many.
    """
    ions = list(ions)
    total = _sum_of_waves(matrix, ions, shape)
    steps = matrix / np.array(shape)[:, None]  # from a point of the grid to the next, one a row
    for interaction, places, amounts in ions:
        _add_near(total, steps, interaction, places, amounts)
    return total


def bound_points(n_points: int, which: str) -> None:
    """Raise ValueError where there are more points than are looked at."""
    if n_points > MAX_POINTS:
        raise ValueError(f"a grid of {n_points:.3g} {which}, of at most {MAX_POINTS:.3g}")


def _sum_of_waves(matrix: Array, ions: list[Ions], shape: tuple[int, int, int]) -> Array:
    """Return the sum of the smooth parts."""
    from scipy.fft import irfftn

    # Where k is a sum of reciprocal vectors times integers, an integer is k a / 2 pi.
    most = (HIGHEST_WAVE_NUMBER * np.linalg.norm(matrix, axis=1) / (2.0 * math.pi)).astype(int)
    times = [max(1, math.ceil((2 * m + 1) / n)) for m, n in zip(most, shape, strict=True)]
    fine = [n * t for n, t in zip(shape, times, strict=True)]
    bound_points(math.prod(fine), "points of its cell")
    waves = np.zeros((fine[0], fine[1], fine[2] // 2 + 1), dtype=np.complex128)
    reciprocal = 2.0 * math.pi * np.linalg.inv(matrix).T
    volume = abs(float(np.linalg.det(matrix)))
    counts = [np.arange(-m, m + 1) for m in most[:2]]
    rows = np.stack(np.meshgrid(*counts, indexing="ij"), axis=-1).reshape(-1, 2)
    last = np.arange(most[2] + 1)
    along = last[:, None] * reciprocal[2]
    counts = [*counts, last]
    phases = [
        [np.exp(-2j * math.pi * np.outer(*pair)) for pair in zip(places.T, counts, strict=True)]
        for _, places, _ in ions
    ]
    n_sites = max((len(places) for _, places, _ in ions), default=0)
    at_once = NUMBERS_AT_ONCE // (n_sites + len(last)) + 1
    for part in np.array_split(rows, len(rows) // at_once + 1):
        vectors = (part @ reciprocal[:2])[:, None, :] + along
        numbers = np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))
        inside = numbers <= HIGHEST_WAVE_NUMBER
        total = np.zeros(numbers.shape, dtype=np.complex128)
        for (interaction, _, amounts), (x, y, z) in zip(ions, phases, strict=True):
            first = x[:, part[:, 0] + most[0]] * y[:, part[:, 1] + most[1]] * amounts[:, None]
            strength = np.zeros(numbers.shape)
            strength[inside] = interaction.waves(numbers[inside]) / volume
            total += strength * (first.T @ z)
        waves[part[:, 0] % fine[0], part[:, 1] % fine[1], : len(last)] = total
    found: Array = irfftn(waves, s=fine, norm="forward", overwrite_x=True)
    return np.ascontiguousarray(found[:: times[0], :: times[1], :: times[2]])


def _add_near(
    total: Array, steps: Array, interaction: Interaction, places: Array, amounts: Array
) -> None:
    """Add what the energy is other than its smooth part, at the points near each site."""
    shape = np.array(total.shape)
    offsets, vectors = _ball(steps, interaction.near)
    squares = np.einsum("ij,ij->j", vectors, vectors)
    spots = places * shape
    nearest = np.rint(spots)
    apart = (nearest - spots) @ steps
    strides = (total.shape[1] * total.shape[2], total.shape[2], 1)
    reach = np.abs(offsets).max(axis=0)
    at_once = NUMBERS_AT_ONCE // len(offsets) + 1
    for part in np.array_split(np.arange(len(places)), len(places) // at_once + 1):
        square = squares + 2.0 * apart[part] @ vectors + (apart[part] ** 2).sum(axis=1)[:, None]
        inside = square <= interaction.near**2
        point = np.zeros(square.shape, dtype=np.intp)
        for axis, stride in enumerate(strides):
            steps_on = np.arange(-reach[axis], reach[axis] + 1)
            wrapped = (nearest[part, axis, None].astype(int) + steps_on) % shape[axis] * stride
            point += np.take(wrapped, offsets[:, axis] + reach[axis], axis=1)
        square = np.maximum(square[inside], 0.0)
        energies = interaction.at(np.sqrt(square)) - interaction.smooth(square)
        energies *= np.broadcast_to(amounts[part, None], inside.shape)[inside]
        np.add.at(total.reshape(-1), point[inside], energies)


def _ball(steps: Array, radius: float) -> tuple[NDArray[np.intp], Array]:
    """Return all grid steps that may end within `radius` of a point near the origin.

    Returns
    -------
    offsets : integer array of shape (n, 3)
    vectors : array of shape (3, n)
        The same in angstrom.
    """
    # No point is farther from the next of the grid than half the sum of the steps.
    radius += 0.5 * float(np.linalg.norm(steps, axis=1).sum())
    reach = np.ceil(radius * np.linalg.norm(np.linalg.inv(steps), axis=0)).astype(int)
    bound_points(math.prod((2 * reach + 1).tolist()), "points around each atom")  # in a skewed cell
    x, y, z = (np.arange(-n, n + 1)[:, None] * step for n, step in zip(reach, steps, strict=True))
    vectors = x[:, None, None] + y[:, None] + z
    inside = (vectors**2).sum(axis=-1) <= radius**2
    return np.argwhere(inside) - reach, np.ascontiguousarray(vectors[inside].T)
