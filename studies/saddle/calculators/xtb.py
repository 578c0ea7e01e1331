"""GFN tight binding by tblite, through ASE."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError, suggest
from studies.saddle.calculators.registry import (
    Evaluation,
    FailedCalculationError,
    Floats,
    checked,
    require,
)

METHODS = ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")


class Tblite:
    """GFN2-xTB and its kin; Hessians are central differences of gradients.

    Bannwarth, Ehlert & Grimme, J. Chem. Theory Comput. 15, 1652 (2019).

    Parameters
    ----------
    method
        One of `METHODS`.
    step_angstrom
        How far an atom is moved to both sides for the Hessian.
    """

    packages: tuple[str, ...] = ("tblite", "ase")
    isolated = True

    def __init__(self, method: str = "GFN2-xTB", step_angstrom: float = 0.005) -> None:
        if method not in METHODS:
            raise ObjectiveError(f"tblite: no method '{method}'; {suggest(method, METHODS)}")
        self._make = require("tblite.ase", "tblite").TBLite
        self._atoms = require("ase", "ase").Atoms
        self._method, self._step = method, step_angstrom
        self._of: tuple[int, ...] = ()
        self._molecule: Any = None

    def evaluate(self, numbers: NDArray[np.int64], positions: Floats) -> Evaluation:
        """Return energy, gradient and Hessian; see `Calculator`."""
        rows = []
        for index in np.ndindex(positions.shape):
            sides = []
            for step in (self._step, -self._step):
                moved = positions.copy()
                moved[index] += step
                sides.append(self._gradient(numbers, moved).ravel())
            rows.append((sides[0] - sides[1]) / (2.0 * self._step))
        gradient = self._gradient(numbers, positions)
        return checked(self.energy(numbers, positions), gradient, np.array(rows))

    def energy(self, numbers: NDArray[np.int64], positions: Floats) -> float:
        """Return the energy alone, in eV."""
        return float(self._ask(numbers, positions, "get_potential_energy"))

    def _gradient(self, numbers: NDArray[np.int64], positions: Floats) -> Floats:
        return -np.asarray(self._ask(numbers, positions, "get_forces"), dtype=np.float64)

    def _ask(self, numbers: NDArray[np.int64], positions: Floats, what: str) -> Any:
        key = tuple(int(number) for number in numbers)
        if self._of != key:
            self._molecule = self._atoms(numbers=numbers, positions=positions)
            self._molecule.calc = self._make(method=self._method, verbosity=0)
            self._of = key
        self._molecule.set_positions(positions)
        try:
            return getattr(self._molecule, what)()
        except Exception as exc:  # ASE has an error of its own, tblite another one
            # What a failed calculation left behind is not started from.
            self._of = ()
            raise FailedCalculationError(f"{self._method}: {exc}") from exc
