"""What tests of saddle searches share."""

from __future__ import annotations

import importlib.util
import json

import numpy as np

from hpo.spec.loading import load
from hpo.spec.objectives import CustomObjectiveSpec
from studies.saddle.geometries import G2Source, read_molecules
from studies.saddle.objective import SaddleSearch
from tests.support.requirements import unavailable
from tests.support.studies import ROOT

FOLDER = ROOT / "studies" / "saddle"

NOBODY = np.array([1])

UNIT = np.ones(1)


def installed(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        unavailable(extra, f"no {module}; pip install '.[{extra}]'")


def params_of(path):
    objective = load(path).objective
    assert isinstance(objective, CustomObjectiveSpec)
    return objective.params


def molecule(name):
    (found,) = [m for m in read_molecules(G2Source(source="g2")) if m.name == name]
    return found


def differences(calculator, numbers, positions, step=1e-3):
    """Gradient and Hessian by central differences."""
    gradient, hessian = [], []
    for index in np.ndindex(positions.shape):
        sides = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[index] += sign * step
            sides.append(moved)
        energies = [calculator.energy(numbers, side) for side in sides]
        gradients = [calculator.evaluate(numbers, side).gradient.ravel() for side in sides]
        gradient.append((energies[0] - energies[1]) / (2 * step))
        hessian.append((gradients[0] - gradients[1]) / (2 * step))
    return np.array(gradient).reshape(positions.shape), np.array(hessian)


PARAMS = {
    "geometries": {"source": "g2", "elements": ("H", "C", "O"), "min_atoms": 4, "max_atoms": 5},
    "held_out": 0.3,
    "noise_angstrom": 0.4,
    "noise_seeds": 2,
    "screening_steps": 20,
    "n_steps": 20,
    "n_samples": 3,
    "n_watched": 2,
}


def prepared(folder, **params):
    """Return an objective whose samples are screened, as a worker makes it."""
    objective = SaddleSearch(None, seed=1, **{**PARAMS, **params})
    found = objective.prepare(folder, lambda done, total: None)
    objective.set_prepared(json.loads(json.dumps(found)))
    return objective
