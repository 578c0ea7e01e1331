"""SCINE Sparrow: semi-empirical methods with Hessians of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError, suggest
from studies.saddle.calculators.registry import (
    BOHR_PER_ANGSTROM,
    EV_PER_HARTREE,
    Evaluation,
    FailedCalculationError,
    Floats,
    checked,
    require,
)

METHODS = ("AM1", "DFTB0", "DFTB2", "DFTB3", "MNDO", "PM3", "PM6", "RM1")


class Scine:
    """Methods of SCINE Sparrow, by name.

    Bosia et al., "SCINE Sparrow", J. Chem. Phys. 158, 054118 (2023). DFTB0 is not
    self-consistent: it always has an answer, and a Hessian of nine atoms in milliseconds.

    Parameters
    ----------
    method
        One of `METHODS`.
    charge
        Of the molecule, in elementary charges. Its spin is the lowest one that its electrons allow;
        DFTB0 has no answer for an odd number of them.
    """

    packages: tuple[str, ...] = ("scine-sparrow", "scine-utilities")
    isolated = True

    def __init__(self, method: str = "DFTB0", charge: int = 0) -> None:
        if method not in METHODS:
            raise ObjectiveError(f"scine: no method '{method}'; {suggest(method, METHODS)}")
        self._scine = require("scine_utilities", "scine-utilities")
        require("scine_sparrow", "scine-sparrow")
        self._method, self._charge = method, charge
        # A molecule's calculator is made once; a search moves its atoms.
        self._of: tuple[int, ...] = ()
        self._calculator: Any = None

    def evaluate(self, numbers: NDArray[np.int64], positions: Floats) -> Evaluation:
        """Return energy, gradient and Hessian; see `Calculator`."""
        properties = self._scine.Property
        found = self._calculate(
            numbers, positions, [properties.Energy, properties.Gradients, properties.Hessian]
        )
        return checked(
            found.energy * EV_PER_HARTREE,
            np.asarray(found.gradients) * EV_PER_HARTREE * BOHR_PER_ANGSTROM,
            np.asarray(found.hessian) * EV_PER_HARTREE * BOHR_PER_ANGSTROM**2,
        )

    def energy(self, numbers: NDArray[np.int64], positions: Floats) -> float:
        """Return the energy alone, in eV."""
        found = self._calculate(numbers, positions, [self._scine.Property.Energy])
        return float(found.energy) * EV_PER_HARTREE

    def _calculate(
        self, numbers: NDArray[np.int64], positions: Floats, properties: list[Any]
    ) -> Any:
        try:
            calculator = self._load(numbers)
            calculator.positions = positions * BOHR_PER_ANGSTROM
            calculator.set_required_properties(properties)
            found = calculator.calculate()
        except RuntimeError as exc:
            raise FailedCalculationError(f"{self._method}: {exc}") from exc
        if not found.successful_calculation:
            raise FailedCalculationError(f"{self._method}: the calculation failed")
        return found

    def _load(self, numbers: NDArray[np.int64]) -> Any:
        key = tuple(int(number) for number in numbers)
        if self._of != key:
            scine = self._scine
            calculator = scine.core.ModuleManager.get_instance().get("calculator", self._method)
            # Self-consistent methods would print every iteration.
            calculator.log = scine.core.Log.silent()
            calculator.settings["molecular_charge"] = self._charge
            calculator.settings["spin_multiplicity"] = 1 + (sum(key) - self._charge) % 2
            elements = [scine.ElementInfo.element_from_symbol(_symbol(number)) for number in key]
            # Apart from one another: the positions come with each calculation.
            apart = np.zeros((len(key), 3))
            apart[:, 0] = 4.0 * np.arange(len(key))
            calculator.structure = scine.AtomCollection(elements, apart)
            self._of, self._calculator = key, calculator
        return self._calculator


def _symbol(number: int) -> str:
    # An extra of its own: see pyproject.toml.
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])
