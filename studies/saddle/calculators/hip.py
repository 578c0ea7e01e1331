"""HIP: a machine-learned potential that predicts Hessians, from a checkpoint of the user's own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.saddle.calculators.registry import (
    Evaluation,
    FailedCalculationError,
    Floats,
    MissingCalculatorError,
    checked,
    require,
)

INSTALL = "from a checkout of its repository, pip install . (it is on no package registry)"


class Hip:
    """HIP (Burger et al., "Shoot from the HIP", arXiv:2509.21624).

    Its package `hip` and a checkpoint (about 220 MB) have to be brought along.

    Parameters
    ----------
    checkpoint
        Path of the checkpoint file.
    device
        Torch's name of where it runs, cpu or cuda.
    """

    packages: tuple[str, ...] = ("hip", "torch")
    isolated = True

    def __init__(self, checkpoint: str = "", device: str = "cpu") -> None:
        path = Path(checkpoint)
        if not checkpoint or not path.is_file():
            raise MissingCalculatorError(
                f"hip: no checkpoint at '{checkpoint}'; download it (hip_v2.ckpt) where there is "
                'a network, and name it: calculator = { name = "hip", checkpoint = "/PATH" }'
            )
        self._torch = require("torch", "torch", "pip install torch")
        self._module = require("hip.equiformer_torch_calculator", "hip", INSTALL)
        self._path, self._device = str(path), device

    @cached_property
    def _model(self) -> Any:
        """The model, loaded by who evaluates it: a node that only submits may have no GPU."""
        return self._module.EquiformerTorchCalculator(
            checkpoint_path=self._path, hessian_method="predict", device=self._device
        )

    def evaluate(self, numbers: NDArray[np.int64], positions: Floats) -> Evaluation:
        """Return energy, gradient and Hessian; see `Calculator`."""
        found = self._predict(numbers, positions)
        size = positions.size
        return checked(
            float(found["energy"]),
            -self._array(found["forces"]).reshape(positions.shape),
            self._array(found["hessian"]).reshape(size, size),
        )

    def energy(self, numbers: NDArray[np.int64], positions: Floats) -> float:
        """Return the energy alone, in eV."""
        return float(self._predict(numbers, positions)["energy"])

    def _predict(self, numbers: NDArray[np.int64], positions: Floats) -> Any:
        torch = self._torch
        try:
            return self._model.predict(
                coords=torch.as_tensor(positions, dtype=torch.float32),
                atomic_nums=torch.as_tensor(numbers),
            )
        except RuntimeError as exc:
            raise FailedCalculationError(f"hip: {exc}") from exc

    def _array(self, tensor: Any) -> Floats:
        return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
