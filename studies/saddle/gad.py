"""Gentlest ascent dynamics in mass-weighted vibrational coordinates, with kicks along many modes.

E & Zhou, Nonlinearity 24, 1831 (2011), follow the gentlest direction v uphill and all others down:

    dx/dt = -grad V(x) + 2 (grad V(x) . v) v,    |v| = 1,
    dv/dt = -H(x) v + (v . H(x) v) v.

With the Hessian at hand, v is taken to the end of its own dynamics at every step: the mode of the
lowest eigenvalue. x are mass-weighted coordinates without translation and rotation
(`studies.saddle.eckart`), in angstrom u^1/2, and t is in angstrom^2 u/eV. A step is one of Euler's,
shortened where an atom would move by more than a trust radius.

Two controllers stand around the equation, and what they are is tuned:

- The time step follows the spectrum. `surplus` says how far eigenvalues are from having exactly one
  below zero; where it is 0, the length of the gradient says how far it is to the saddle point.
  Whenever this becomes smaller than it ever was, the step grows by `plateau_boost`; after
  `plateau_patience` steps without that, it shrinks by `plateau_shrink`.
- A search that has come to rest where more than one eigenvalue is negative, or none, is kicked
  (`_kick`). At rest means: over the last `escape_window` steps the atoms moved less than
  `escape_disp_threshold`, and the number of negative eigenvalues hardly changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError, suggest
from studies.saddle.calculators.registry import Calculator, FailedCalculationError, Floats
from studies.saddle.eckart import free_basis, vibrational_basis, vibrational_modes

# What is smaller than this share of the smallest value so far is progress, and no rounding.
_PROGRESS = 0.999
# eV/(angstrom^2 u), a wavenumber of 521 cm^-1: a mode much steeper than this is kicked by
# `escape_delta` alone.
_STEEP = 1.0


@dataclass(frozen=True)
class Settings:
    """The eleven hyperparameters; their defaults are the middles of the ranges searched.

    Attributes
    ----------
    dt_min, dt_max
        Bounds of the time step, in angstrom^2 u/eV; a search begins with the longest.
    plateau_patience
        Steps without progress before the time step shrinks.
    plateau_boost, plateau_shrink
        Factors of the time step, upon progress and upon a plateau.
    escape_disp_threshold
        Below this mean displacement per step, of the atom that moves farthest, in angstrom, a
        search is at rest.
    escape_window
        Over how many steps that mean is taken.
    escape_neg_vib_std
        At rest, the number of negative eigenvalues has no larger standard deviation.
    escape_delta
        How far a kick moves the atom that moves farthest, in angstrom.
    adaptive_delta_scale
        How much farther along flat modes: the kick along a mode of eigenvalue w is longer by
        1 + adaptive_delta_scale / (1 + |w|), w in eV/(angstrom^2 u).
    trust_radius_max
        How far an atom moves in one step at most, in angstrom.
    """

    dt_min: float = 1e-6
    dt_max: float = 0.0316
    plateau_patience: int = 12
    plateau_boost: float = 2.1
    plateau_shrink: float = 0.5
    escape_disp_threshold: float = 1e-4
    escape_window: int = 30
    escape_neg_vib_std: float = 0.55
    escape_delta: float = 0.275
    adaptive_delta_scale: float = 1.0
    trust_radius_max: float = 0.3

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """Return settings with some of them replaced.

        Raises
        ------
        ObjectiveError
            If a name is none of them.
        """
        names = [field.name for field in fields(cls)]
        for name in params:
            if name not in names:
                raise ObjectiveError(f"[space] {name}: no such setting; {suggest(name, names)}")
        return cls(**params)


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a search ended.

    Attributes
    ----------
    converged
        Whether exactly one vibrational eigenvalue is negative, and the gradient is small if that
        was asked for.
    steps
        How often the atoms were moved.
    kicks
        How many of these were kicks.
    negative
        How many vibrational eigenvalues are negative at the end.
    energy
        At the end, in eV.
    max_gradient
        Largest component of the gradient at the end, in eV/angstrom.
    positions
        Array of shape (n, d): the end, in angstrom.
    reason
        Why a calculator gave up; "" if it did not.
    """

    converged: bool
    steps: int
    kicks: int
    negative: int
    energy: float
    max_gradient: float
    positions: Floats
    reason: str = ""


def search(
    calculator: Calculator,
    numbers: NDArray[np.int64],
    masses: Floats,
    positions: Floats,
    settings: Settings,
    *,
    n_steps: int,
    max_gradient: float | None = None,
) -> Outcome:
    """Search for a first-order saddle point.

    Parameters
    ----------
    calculator
        The surface.
    numbers, masses
        Arrays of shape (n,): atomic numbers, and masses in unified atomic mass units.
    positions
        Array of shape (n, d), in angstrom: where the search begins.
    settings
        The hyperparameters.
    n_steps
        How often the atoms may be moved.
    max_gradient
        Largest component of the gradient, in eV/angstrom, that a saddle point may have; None
        where one negative eigenvalue is all that is asked for.
    """
    return _Search(calculator, numbers, masses, settings).run(positions, n_steps, max_gradient)


def surplus(eigenvalues: Floats) -> float:
    """Return how far eigenvalues are from having exactly one below zero, in their own unit.

    The sum of |w| over those that are negative beyond the first, or the lowest one if none is.
    """
    if not len(eigenvalues):
        return 0.0
    return float(max(eigenvalues[0], 0.0) - np.minimum(eigenvalues[1:], 0.0).sum())


@dataclass(frozen=True, eq=False)
class _View:
    """What a search sees of the surface from where it is; as `vibrational_modes` returns it."""

    energy: float
    max_gradient: float
    eigenvalues: Floats
    modes: Floats
    gradient: Floats

    @property
    def negative(self) -> int:
        """How many eigenvalues are negative."""
        return int((self.eigenvalues < 0.0).sum())

    def is_saddle(self, max_gradient: float | None) -> bool:
        """Whether a search ends here."""
        flat = max_gradient is None or self.max_gradient <= max_gradient
        return self.negative == 1 and flat


# Before anything was seen.
_NOWHERE = _View(np.nan, np.nan, np.empty(0), np.empty((0, 0)), np.empty(0))


class _TimeStep:
    """The length of the next step, in angstrom^2 u/eV."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.restart()

    def restart(self) -> None:
        """Begin with the longest step, and with no progress to compare with."""
        self.value = self._settings.dt_max
        self._best, self._stale = (np.inf, np.inf), 0

    def follow(self, distance: float, slope: float) -> None:
        """Lengthen the step upon progress, shorten it when there has been none for long.

        `distance` is that of the spectrum, `slope` the length of the gradient.
        """
        settings, (nearest, flattest) = self._settings, self._best
        there = distance == nearest == 0.0
        if distance < nearest * _PROGRESS or (there and slope < flattest * _PROGRESS):
            self._best, self._stale = (distance, slope), 0
            self.value = min(self.value * settings.plateau_boost, settings.dt_max)
            return
        self._stale += 1
        if self._stale >= settings.plateau_patience:
            self._stale = 0
            self.value = max(self.value * settings.plateau_shrink, settings.dt_min)


class _Search:
    def __init__(
        self,
        calculator: Calculator,
        numbers: NDArray[np.int64],
        masses: Floats,
        settings: Settings,
    ) -> None:
        self._calculator, self._numbers, self._masses = calculator, numbers, masses
        self._settings = settings
        self._step = _TimeStep(settings)
        self._moved: deque[float] = deque(maxlen=settings.escape_window)
        self._negative: deque[int] = deque(maxlen=settings.escape_window)

    def run(self, positions: Floats, n_steps: int, max_gradient: float | None) -> Outcome:
        here, kicks, reason = _NOWHERE, 0, ""
        for steps in range(n_steps + 1):
            try:
                here = self._look(positions)
                if here.is_saddle(max_gradient) or steps == n_steps:
                    break
                positions, kicked = self._move(here, positions)
                kicks += kicked
            except FailedCalculationError as exc:
                reason = str(exc)
                break
        return Outcome(
            converged=not reason and here.is_saddle(max_gradient),
            steps=steps,
            kicks=kicks,
            negative=here.negative,
            energy=here.energy,
            max_gradient=here.max_gradient,
            positions=positions,
            reason=reason,
        )

    def _look(self, positions: Floats) -> _View:
        """Evaluate the surface."""
        basis_of = vibrational_basis if self._calculator.isolated else free_basis
        found = self._calculator.evaluate(self._numbers, positions)
        basis = basis_of(self._masses, positions)
        return _View(
            found.energy,
            float(np.abs(found.gradient).max()),
            *vibrational_modes(found, self._masses, basis),
        )

    def _move(self, here: _View, positions: Floats) -> tuple[Floats, bool]:
        """Return where to go from here, and whether that is a kick."""
        self._negative.append(here.negative)
        self._step.follow(surplus(here.eigenvalues), float(np.linalg.norm(here.gradient)))
        if here.negative != 1 and self._at_rest():
            return self._kick(here, positions), True
        return self._ascend(here, positions), False

    def _ascend(self, here: _View, positions: Floats) -> Floats:
        """Make one step of gentlest ascent."""
        uphill = here.modes[:, 0]
        velocity = -here.gradient + 2.0 * (here.gradient @ uphill) * uphill
        moved = self._cartesian(self._step.value * velocity, positions.shape)
        longest, allowed = _longest(moved), self._settings.trust_radius_max
        if longest > allowed:
            moved *= allowed / longest
        self._moved.append(min(longest, allowed))
        return positions + moved

    def _at_rest(self) -> bool:
        settings = self._settings
        if len(self._moved) < settings.escape_window:
            return False
        still = float(np.mean(self._moved)) < settings.escape_disp_threshold
        return still and float(np.std(self._negative)) <= settings.escape_neg_vib_std

    def _kick(self, here: _View, positions: Floats) -> Floats:
        """Move along every negative mode beyond the first, or along the first if none is negative.

        Each to the side on which the energy is lower, one after the other.
        """
        settings = self._settings
        for index in range(1, here.negative) if here.negative else (0,):
            along = self._cartesian(here.modes[:, index], positions.shape)
            flatness = 1.0 / (1.0 + abs(here.eigenvalues[index]) / _STEEP)
            length = settings.escape_delta * (1.0 + settings.adaptive_delta_scale * flatness)
            along *= length / _longest(along)
            sides = (positions + along, positions - along)
            energies = [self._calculator.energy(self._numbers, side) for side in sides]
            positions = sides[int(np.argmin(energies))]
        self._step.restart()
        self._moved.clear()
        self._negative.clear()
        return positions

    def _cartesian(self, mass_weighted: Floats, shape: tuple[int, ...]) -> Floats:
        moved: Floats = mass_weighted.reshape(shape) / np.sqrt(self._masses)[:, None]
        return moved


def _longest(moved: Floats) -> float:
    """Return how far the atom that moves farthest moves."""
    return float(np.linalg.norm(moved, axis=1).max())
