"""Surfaces whose saddle points are known; one particle, nothing to project out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from studies.saddle.calculators.registry import Evaluation, Floats


class MuellerBrown:
    """The surface of Müller & Brown, Theor. Chim. Acta 53, 75 (1979); one particle in a plane.

        V(x, y) = sum_k A_k exp(a_k (x - x_k)^2 + b_k (x - x_k)(y - y_k) + c_k (y - y_k)^2)

    Its units are read as eV and angstrom, with A_k divided by `scale`. First-order saddle points
    are at (-0.8220, 0.6243) and (0.2125, 0.2930).
    """

    packages: tuple[str, ...] = ()
    isolated = False
    _A = np.array([-200.0, -100.0, -170.0, 15.0])
    _a = np.array([-1.0, -1.0, -6.5, 0.7])
    _b = np.array([0.0, 0.0, 11.0, 0.6])
    _c = np.array([-10.0, -10.0, -6.5, 0.7])
    _centres = np.array([[1.0, 0.0], [0.0, 0.5], [-0.5, 1.5], [-1.0, 1.0]])

    def __init__(self, scale: float = 100.0) -> None:
        self._scale = scale

    def evaluate(self, _numbers: NDArray[np.int64], positions: Floats) -> Evaluation:
        """Return value and derivatives at one point, an array of shape (1, 2)."""
        dx, dy = (positions[0] - self._centres).T
        terms = self._terms(positions)
        first = np.stack([2 * self._a * dx + self._b * dy, self._b * dx + 2 * self._c * dy])
        second = np.array([[2 * self._a, self._b], [self._b, 2 * self._c]])
        hessian = ((first[:, None] * first[None] + second) * terms).sum(axis=2)
        return Evaluation(float(terms.sum()), (first * terms).sum(axis=1).reshape(1, 2), hessian)

    def energy(self, _numbers: NDArray[np.int64], positions: Floats) -> float:
        """Return the value alone."""
        return float(self._terms(positions).sum())

    def _terms(self, positions: Floats) -> Floats:
        dx, dy = (positions[0] - self._centres).T
        exponent = self._a * dx**2 + self._b * dx * dy + self._c * dy**2
        terms: Floats = self._A / self._scale * np.exp(exponent)
        return terms


class DoubleWells:
    """A double well along each of three axes, V(x) = sum_i h_i (x_i^2 - 1)^2; one particle.

    All of its 27 stationary points are known: each coordinate is -1, 0 or 1, and the number of
    zeros is the number of negative eigenvalues, -4 h_i.
    """

    packages: tuple[str, ...] = ()
    isolated = False

    def __init__(self, heights: tuple[float, float, float] = (1.0, 0.7, 0.4)) -> None:
        self._heights = np.asarray(heights, dtype=np.float64)

    def evaluate(self, _numbers: NDArray[np.int64], positions: Floats) -> Evaluation:
        """Return value and derivatives at one point, an array of shape (1, 3)."""
        x = positions[0]
        gradient = 4.0 * self._heights * x * (x**2 - 1.0)
        hessian = np.diag(4.0 * self._heights * (3.0 * x**2 - 1.0))
        return Evaluation(self.energy(_numbers, positions), gradient.reshape(1, 3), hessian)

    def energy(self, _numbers: NDArray[np.int64], positions: Floats) -> float:
        """Return the value alone."""
        return float((self._heights * (positions[0] ** 2 - 1.0) ** 2).sum())
