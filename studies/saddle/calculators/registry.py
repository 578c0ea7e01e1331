"""Potential energy surfaces as a search sees them: energy, gradient and Hessian of a geometry.

Units are the same everywhere: positions in angstrom, energies in eV, gradients in eV/angstrom,
Hessians in eV/angstrom^2, masses in unified atomic mass units.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpo.errors import HpoError, ObjectiveError, suggest

Floats = NDArray[np.float64]

# CODATA 2018, which ASE and SCINE agree with to better than 1e-8.
EV_PER_HARTREE = 27.211386245988
BOHR_PER_ANGSTROM = 1.0 / 0.529177210903


class MissingCalculatorError(HpoError):
    """A calculator's package, or a file that it needs, is not here."""


class FailedCalculationError(ObjectiveError):
    """A calculator has no answer for a geometry; a search that meets one ends unconverged."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A surface at one geometry of n atoms in d dimensions, 3 unless the surface is a model's.

    Attributes
    ----------
    energy
        In eV.
    gradient
        Array of shape (n, d), in eV/angstrom.
    hessian
        Array of shape (n * d, n * d), symmetric, in eV/angstrom^2; coordinates in the order of
        `gradient.ravel()`.
    """

    energy: float
    gradient: Floats
    hessian: Floats


class Calculator(Protocol):
    """A surface of molecules.

    Attributes
    ----------
    packages
        Packages whose version decides its numbers, by their names in a registry.
    isolated
        Whether the molecule is alone in space: wherever it is and however it is turned, its
        energy is the same, and these motions have to be projected out.
    """

    packages: tuple[str, ...]
    isolated: bool

    def evaluate(self, numbers: NDArray[np.int64], positions: Floats, /) -> Evaluation:
        """Return energy, gradient and Hessian.

        Parameters
        ----------
        numbers
            Array of shape (n,): atomic numbers.
        positions
            Array of shape (n, d), in angstrom.

        Raises
        ------
        FailedCalculationError
            If there is no finite answer.
        """

    def energy(self, numbers: NDArray[np.int64], positions: Floats, /) -> float:
        """Return the energy alone, in eV; arguments are those of `evaluate`."""


def checked(energy: float, gradient: Floats, hessian: Floats) -> Evaluation:
    """Return an evaluation with its Hessian made symmetric, having made sure that it is finite.

    Raises
    ------
    FailedCalculationError
        If a number is not finite.
    """
    if not (np.isfinite(energy) and np.isfinite(gradient).all() and np.isfinite(hessian).all()):
        raise FailedCalculationError("energy, gradient or Hessian is not finite")
    return Evaluation(float(energy), gradient, 0.5 * (hessian + hessian.T))


INSTALL = "pip install '.[saddle]' in the checkout"


def require(module: str, package: str, install: str = INSTALL) -> Any:
    """Import what a calculator needs.

    Raises
    ------
    MissingCalculatorError
        Naming the package and how it is installed.
    """
    try:
        with warnings.catch_warnings():
            # What packages warn of when they are imported concerns those who write them.
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            return importlib.import_module(module)
    except ImportError as exc:
        raise MissingCalculatorError(
            f"{package}: cannot be imported ({exc}); install it: {install}"
        ) from exc


# By the name in a study file: the module and the class that is called with the other settings.
_CLASSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "scine": ("studies.saddle.calculators.scine", "Scine"),
        "tblite": ("studies.saddle.calculators.xtb", "Tblite"),
        "torchani": ("studies.saddle.calculators.neural", "TorchAni"),
        "hip": ("studies.saddle.calculators.hip", "Hip"),
        "mueller_brown": ("studies.saddle.calculators.analytic", "MuellerBrown"),
        "double_wells": ("studies.saddle.calculators.analytic", "DoubleWells"),
    }
)


def make_calculator(settings: Mapping[str, Any]) -> Calculator:
    """Return the calculator that `name` and the other settings describe.

    Raises
    ------
    ObjectiveError
        If there is none of that name, or it has no such setting.
    MissingCalculatorError
        If what it needs is not installed.
    """
    name = str(settings.get("name", ""))
    if name not in _CLASSES:
        raise ObjectiveError(f"calculator '{name}': unknown; {suggest(name, _CLASSES)}")
    module, attribute = _CLASSES[name]
    make: Callable[..., Calculator] = getattr(importlib.import_module(module), attribute)
    others = {key: value for key, value in settings.items() if key != "name"}
    try:
        return make(**others)
    except TypeError as exc:
        raise ObjectiveError(f"calculator {name}: does not take {others}: {exc}") from exc


def versions(calculator: Calculator) -> str:
    """Return `package=version` of all that decides a calculator's numbers."""
    found = []
    for package in calculator.packages:
        try:
            found.append(f"{package}={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package}=not installed")
    return " ".join(found)
