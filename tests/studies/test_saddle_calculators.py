"""Calculators of saddle searches: what they say of energies, and what of themselves."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from hpo.errors import ObjectiveError
from studies.saddle.calculators.registry import (
    FailedCalculationError,
    MissingCalculatorError,
    make_calculator,
    versions,
)
from tests.support.saddle import (
    NOBODY,
    differences,
    installed,
)


@pytest.mark.parametrize("method", ["DFTB0", "PM6"])
def test_scine_agrees_with_its_own_differences_and_prints_nothing(method, capfd):
    installed("scine_sparrow", "saddle")
    calculator = make_calculator({"name": "scine", "method": method})
    _compare_with_differences(calculator, atol=0.06)
    assert capfd.readouterr() == ("", "")
    assert "scine-sparrow=" in versions(calculator)


def test_tblite_agrees_with_its_own_differences(capfd):
    installed("tblite", "saddle")
    _compare_with_differences(make_calculator({"name": "tblite"}), atol=0.03)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_ani_agrees_with_its_own_differences():
    installed("torchani", "saddle-neural")
    calculator = make_calculator({"name": "torchani"})
    _compare_with_differences(calculator, atol=0.01, step=1e-4)
    with pytest.raises(FailedCalculationError, match=r"no element of number \[14\]"):
        calculator.energy(np.array([14]), np.zeros((1, 3)))


def _compare_with_differences(calculator, atol, step=1e-3):
    """At a geometry of water that is no minimum, and after another molecule."""
    calculator.energy(np.array([6, 8]), np.array([[0.0, 0, 0], [1.15, 0, 0]]))
    numbers = np.array([8, 1, 1])
    positions = np.array([[0.02, 0, 0], [0.99, 0.05, 0], [-0.3, 0.9, 0.04]])
    found = calculator.evaluate(numbers, positions)
    gradient, hessian = differences(calculator, numbers, positions, step)
    np.testing.assert_allclose(found.gradient, gradient, atol=5e-3)
    np.testing.assert_allclose(found.hessian, hessian, atol=atol)
    np.testing.assert_array_equal(found.hessian, found.hessian.T)


def test_scine_reports_elements_that_a_method_does_not_know(scine):
    with pytest.raises(FailedCalculationError, match="H and Si"):
        scine.energy(np.array([14, 1]), np.array([[0.0, 0, 0], [1.5, 0, 0]]))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "scin"}, ObjectiveError, "did you mean 'scine'"),
        ({"name": "scine", "method": "DFTB9"}, ObjectiveError, "no method 'DFTB9'"),
        ({"name": "scine", "colour": "red"}, ObjectiveError, "does not take"),
        ({"name": "tblite", "method": "GFN9"}, ObjectiveError, "no method 'GFN9'"),
        ({"name": "torchani", "member": 8}, ObjectiveError, "member must be 0 to 7, got 8"),
        ({"name": "hip"}, MissingCalculatorError, "no checkpoint at ''"),
        ({"name": "hip", "checkpoint": "no.ckpt"}, MissingCalculatorError, "at 'no.ckpt'"),
    ],
)
def test_a_calculator_that_cannot_be_made_says_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        make_calculator(settings)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    checkpoint = tmp_path / "hip.ckpt"
    checkpoint.write_text("")
    for module in ("torch", "hip", "scine_sparrow", "tblite.ase"):
        monkeypatch.setitem(sys.modules, module, None)
    for settings in (
        {"name": "scine"},
        {"name": "tblite"},
        {"name": "torchani"},
        {"name": "hip", "checkpoint": str(checkpoint)},
    ):
        with pytest.raises(MissingCalculatorError, match="install it: "):
            make_calculator(settings)


class Tensor:
    """As much of a tensor as is asked of what HIP returns."""

    def __init__(self, values):
        self.values = np.asarray(values, dtype=np.float32)

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.values

    def __float__(self):
        return float(self.values.reshape(()))


def test_hip_is_asked_by_its_checkpoint_and_its_forces_point_downhill(tmp_path, monkeypatch):
    # A stand-in: neither the package nor its checkpoint can be installed from a registry.
    surface, opened = make_calculator({"name": "double_wells"}), []

    class Model:
        def __init__(self, **settings):
            opened.append(settings)

        def predict(self, coords, atomic_nums):
            if len(atomic_nums) > 1:
                raise RuntimeError("too large")
            found = surface.evaluate(atomic_nums, coords)
            return {
                "energy": Tensor([found.energy]),
                "forces": Tensor(-found.gradient),
                "hessian": Tensor(found.hessian.reshape(1, 3, 1, 3)),
            }

    torch, hip = types.ModuleType("torch"), types.ModuleType("hip")
    vars(torch).update(as_tensor=lambda values, dtype=None: np.asarray(values), float32=None)
    calculator_module = types.ModuleType("hip.equiformer_torch_calculator")
    vars(calculator_module)["EquiformerTorchCalculator"] = Model
    for module in (torch, hip, calculator_module):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    checkpoint = tmp_path / "hip_v2.ckpt"
    checkpoint.touch()
    calculator = make_calculator({"name": "hip", "checkpoint": str(checkpoint)})
    # A node that only begins a study may lack the device.
    assert not opened
    point = np.array([[0.5, -0.3, 1.2]])
    found, expected = (one.evaluate(NOBODY, point) for one in (calculator, surface))
    assert opened == [
        {"checkpoint_path": str(checkpoint), "hessian_method": "predict", "device": "cpu"}
    ]
    assert found.energy == pytest.approx(expected.energy)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-6)
    np.testing.assert_allclose(found.hessian, expected.hessian, rtol=1e-6)
    assert calculator.energy(NOBODY, point) == pytest.approx(expected.energy)
    with pytest.raises(FailedCalculationError, match="hip: too large"):
        calculator.energy(np.array([1, 1]), np.zeros((2, 3)))
