"""ANI-1x: a machine-learned potential with Hessians by automatic differentiation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError
from studies.saddle.calculators.registry import (
    EV_PER_HARTREE,
    Evaluation,
    FailedCalculationError,
    Floats,
    MissingCalculatorError,
    checked,
    require,
)

INSTALL = "pip install '.[saddle-neural]' in the checkout"
N_MEMBERS = 8
# Others are unknown to the networks.
ELEMENTS = (1, 6, 7, 8)


class TorchAni:
    """One member of the ANI-1x ensemble, in double precision; H, C, N and O alone.

    Smith et al., J. Chem. Phys. 148, 241733 (2018), as it comes with TorchANI: Gao et al., J. Chem.
    Inf. Model. 60, 3408 (2020). The networks lie in the package; nothing is downloaded.

    Parameters
    ----------
    member
        Which of the eight networks, from 0 on.
    """

    packages: tuple[str, ...] = ("torch", "torchani")
    isolated = True

    def __init__(self, member: int = 0) -> None:
        if not 0 <= member < N_MEMBERS:
            raise ObjectiveError(f"torchani: member must be 0 to {N_MEMBERS - 1}, got {member}")
        self._torch = require("torch", "torch", INSTALL)
        torchani = require("torchani", "torchani", INSTALL)
        neurochem = require("torchani.neurochem", "torchani", INSTALL)
        folder = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
        if not folder.is_dir():
            raise MissingCalculatorError(
                f"torchani: this version keeps no ANI-1x in {folder}; install one that does: "
                f"{INSTALL}"
            )
        constants = neurochem.Constants(str(folder / "rHCNO-5.2R_16-3.5A_a4-8.params"))
        networks = folder / f"train{member}" / "networks"
        self._kinds = torchani.nn.SpeciesConverter(constants.species)
        self._model = self._torch.nn.Sequential(
            torchani.AEVComputer(**constants),
            neurochem.load_model(constants.species, str(networks)),
            neurochem.load_sae(str(folder / "sae_linfit.dat")),
        ).double()

    def evaluate(self, numbers: NDArray[np.int64], positions: Floats) -> Evaluation:
        """Return energy, gradient and Hessian; see `Calculator`."""
        torch, kinds = self._torch, self._kinds_of(numbers)
        place = torch.tensor(positions.ravel(), requires_grad=True)
        energy = self._energy(kinds, place)
        (gradient,) = torch.autograd.grad(energy, place)
        hessian = torch.autograd.functional.hessian(lambda at: self._energy(kinds, at), place)
        return checked(
            energy.item() * EV_PER_HARTREE,
            gradient.numpy().reshape(positions.shape) * EV_PER_HARTREE,
            hessian.numpy() * EV_PER_HARTREE,
        )

    def energy(self, numbers: NDArray[np.int64], positions: Floats) -> float:
        """Return the energy alone, in eV."""
        torch = self._torch
        with torch.no_grad():
            found = self._energy(self._kinds_of(numbers), torch.tensor(positions.ravel()))
        return float(found.item()) * EV_PER_HARTREE

    def _kinds_of(self, numbers: NDArray[np.int64]) -> Any:
        unknown = sorted({int(number) for number in numbers} - {*ELEMENTS})
        if unknown:
            raise FailedCalculationError(f"torchani: ANI-1x knows no element of number {unknown}")
        torch = self._torch
        nowhere = torch.zeros((1, len(numbers), 3), dtype=torch.float64)
        return self._kinds((torch.tensor(numbers)[None], nowhere))[0]

    def _energy(self, kinds: Any, place: Any) -> Any:
        return self._model((kinds, place.reshape(1, -1, 3))).energies[0]
