"""Saddle searches: surfaces with known saddle points, real molecules, and a study of them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shlex
import subprocess
import sys
import types
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

import hpo.study.fingerprint
from hpo.errors import HpoError, ObjectiveError
from hpo.spec.loading import load
from hpo.spec.sections import CustomObjectiveSpec
from hpo.study.fingerprint import fingerprint
from studies.saddle.calculators import (
    Evaluation,
    FailedCalculationError,
    MissingCalculatorError,
    make_calculator,
    versions,
)
from studies.saddle.commands import main
from studies.saddle.eckart import free_basis, vibrational_basis, vibrational_modes
from studies.saddle.gad import Settings, _TimeStep, search, surplus
from studies.saddle.geometries import G2Source, Transition1xSource, XyzSource, read_molecules
from studies.saddle.objective import Problem, SaddleSearch
from studies.saddle.results import write_params
from studies.saddle.samples import divide_molecules, hash_samples, make_samples
from studies.saddle.screening import Screened, select
from studies.saddle.validation import Run, compare, validate
from tests.support.requirements import unavailable
from tests.support.studies import ROOT

FOLDER = ROOT / "studies" / "saddle"
NOBODY = np.array([1])
UNIT = np.ones(1)
# As the report lists them.
RANGES = {
    "dt_min": (1e-7, 1e-5),
    "dt_max": (0.01, 0.1),
    "plateau_patience": (3, 20),
    "plateau_boost": (1.2, 3.0),
    "plateau_shrink": (0.3, 0.7),
    "escape_disp_threshold": (1e-5, 1e-3),
    "escape_window": (10, 50),
    "escape_neg_vib_std": (0.1, 1.0),
    "escape_delta": (0.05, 0.5),
    "adaptive_delta_scale": (0.0, 2.0),
    "trust_radius_max": (0.1, 0.5),
}


def installed(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        unavailable(extra, f"no {module}; pip install '.[{extra}]'")


@pytest.fixture
def ase():
    installed("ase", "saddle")


@pytest.fixture
def scine(ase):
    installed("scine_sparrow", "saddle")
    return make_calculator({"name": "scine"})


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


# Surfaces.


@pytest.mark.parametrize(("name", "dimensions"), [("mueller_brown", 2), ("double_wells", 3)])
def test_analytic_surfaces_have_the_derivatives_that_they_say(name, dimensions):
    calculator = make_calculator({"name": name})
    for point in np.random.default_rng(0).uniform(-1.0, 1.0, (5, 1, dimensions)):
        found = calculator.evaluate(NOBODY, point)
        gradient, hessian = differences(calculator, NOBODY, point, 1e-5)
        assert found.energy == pytest.approx(calculator.energy(NOBODY, point))
        np.testing.assert_allclose(found.gradient, gradient, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.hessian, hessian, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", [(-0.7, 1.0), (-0.75, 0.5), (0.0, 0.4), (0.55, 0.1)])
def test_a_search_on_mueller_browns_surface_ends_at_one_of_its_saddle_points(start):
    calculator = make_calculator({"name": "mueller_brown"})
    settings = Settings(dt_max=0.02, trust_radius_max=0.1)
    found = search(
        calculator, NOBODY, UNIT, np.array([start]), settings, n_steps=2000, max_gradient=1e-4
    )
    assert found.converged
    assert found.negative == 1
    assert found.max_gradient <= 1e-4
    saddles = np.array([(-0.8220, 0.6243), (0.2125, 0.2930)])
    assert np.linalg.norm(saddles - found.positions, axis=1).min() < 1e-3


@pytest.mark.parametrize("signs", [*itertools.product((0.0, 1.0), repeat=3)])
def test_a_search_leaves_every_stationary_point_that_is_no_saddle_point(signs):
    # At rest exactly on a minimum, a saddle point of higher order or a maximum, GAD moves nothing.
    calculator = make_calculator({"name": "double_wells"})
    settings = Settings(escape_window=5, escape_delta=0.2)
    found = search(
        calculator, NOBODY, UNIT, np.array([signs]), settings, n_steps=800, max_gradient=1e-3
    )
    assert found.converged
    assert (found.kicks == 0) == (found.steps == 0) == (signs.count(0.0) == 1)
    place = np.abs(found.positions[0])
    assert sorted(place.round(2)) == [0.0, 1.0, 1.0]


def test_without_kicks_a_search_stays_where_it_rests():
    calculator = make_calculator({"name": "double_wells"})
    top = np.zeros((1, 3))
    settings = Settings(escape_window=50)
    found = search(calculator, NOBODY, UNIT, top, settings, n_steps=40)
    assert (found.converged, found.kicks, found.negative, found.steps) == (False, 0, 3, 40)
    np.testing.assert_array_equal(found.positions, top)


def test_one_step_is_the_published_equation_and_no_longer_than_the_trust_radius():
    calculator = make_calculator({"name": "mueller_brown"})
    start, settings = np.array([[-0.7, 1.0]]), Settings(dt_max=0.01)
    here = calculator.evaluate(NOBODY, start)
    uphill = np.linalg.eigh(here.hessian)[1][:, 0]
    gradient = here.gradient[0]
    velocity = -gradient + 2 * (gradient @ uphill) * uphill
    mass = np.array([4.0])
    found = search(calculator, NOBODY, mass, start, settings, n_steps=1, max_gradient=1e-9)
    # q = sqrt(m) x: a time step of the gradient in x is divided by m.
    np.testing.assert_allclose(found.positions[0] - start[0], 0.01 * velocity / 4.0)
    short = replace(settings, trust_radius_max=1e-3)
    found = search(calculator, NOBODY, mass, start, short, n_steps=1, max_gradient=1e-9)
    assert np.linalg.norm(found.positions - start) == pytest.approx(1e-3)


def test_the_time_step_grows_upon_progress_and_shrinks_upon_a_plateau():
    settings = Settings(
        dt_min=0.02, dt_max=0.08, plateau_patience=2, plateau_boost=2.0, plateau_shrink=0.5
    )
    step = _TimeStep(settings)
    assert step.value == 0.08
    lengths = []
    for distance in (3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0):
        step.follow(distance, 1.0)
        lengths.append(step.value)
    assert lengths == [0.08, 0.08, 0.04, 0.04, 0.02, 0.02, 0.02, 0.04, 0.04]
    # Where the spectrum is right, the gradient says what progress is.
    step.restart()
    for slope in (1.0, 0.9, 0.8, 0.8, 0.8):
        step.follow(0.0, slope)
    assert step.value == 0.04
    step.follow(0.0, 0.7)
    assert step.value == 0.08


def test_surplus_is_zero_exactly_where_one_eigenvalue_is_negative():
    assert surplus(np.array([-2.0, 1.0, 3.0])) == 0.0
    assert surplus(np.array([0.5, 1.0])) == 0.5
    assert surplus(np.array([-2.0, -0.5, -0.25, 3.0])) == 0.75


def test_a_calculator_that_gives_up_ends_a_search_and_says_why():
    class Broken:
        packages: tuple[str, ...] = ()
        isolated, calls = False, 0

        def evaluate(self, numbers, positions):
            self.calls += 1
            if self.calls == 3:
                raise FailedCalculationError("no answer")
            return Evaluation(0.0, np.ones((1, 2)), np.eye(2))

        def energy(self, numbers, positions):
            return 0.0

    found = search(Broken(), NOBODY, UNIT, np.zeros((1, 2)), Settings(), n_steps=10)
    assert (found.converged, found.steps, found.reason) == (False, 2, "no answer")


# Vibrations.


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], 3),
        ([[0, 0, 0], [1.16, 0, 0], [-1.16, 0, 0]], 4),
        ([[0, 0, 0], [0, 0.6, 0.6]], 1),
    ],
)
def test_vibrations_are_what_translation_and_rotation_leave(positions, expected):
    positions = np.asarray(positions, dtype=float)
    masses = np.array([16.0, 1.0, 12.0])[: len(positions)]
    basis = vibrational_basis(masses, positions)
    assert basis.shape == (positions.size, expected)
    np.testing.assert_allclose(basis.T @ basis, np.eye(expected), atol=1e-12)
    weights = np.sqrt(masses)[:, None]
    for axis in np.eye(3):
        for rigid in (np.tile(axis, (len(masses), 1)), np.cross(axis, positions)):
            assert np.abs(basis.T @ (weights * rigid).ravel()).max() < 1e-12


def test_water_has_the_frequencies_of_its_force_constants_wherever_it_is(scine):
    water = molecule("H2O")
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    found = []
    for positions in (water.positions, water.positions @ turn.T + [5.0, -3.0, 2.0]):
        here = scine.evaluate(water.numbers, positions)
        basis = vibrational_basis(water.masses, positions)
        eigenvalues, modes, gradient = vibrational_modes(here, water.masses, basis)
        assert modes.shape == (9, 3)
        # Nothing of the gradient is lost: it moves neither the centre of mass nor turns.
        weights = np.repeat(np.sqrt(water.masses), 3)
        np.testing.assert_allclose(gradient, here.gradient.ravel() / weights, atol=1e-6)
        found.append(eigenvalues)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    # eV/(angstrom^2 u) to cm^-1: a bend and two stretches of water.
    bend, *stretches = 521.47 * np.sqrt(found[0])
    assert 1200 < bend < 1800
    assert all(3200 < stretch < 4200 for stretch in stretches)


def test_a_model_surface_keeps_all_of_its_directions():
    np.testing.assert_array_equal(free_basis(UNIT, np.zeros((1, 2))), np.eye(2))


# Calculators.


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
    assert opened == [
        {"checkpoint_path": str(checkpoint), "hessian_method": "predict", "device": "cpu"}
    ]
    point = np.array([[0.5, -0.3, 1.2]])
    found, expected = (one.evaluate(NOBODY, point) for one in (calculator, surface))
    assert found.energy == pytest.approx(expected.energy)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-6)
    np.testing.assert_allclose(found.hessian, expected.hessian, rtol=1e-6)
    assert calculator.energy(NOBODY, point) == pytest.approx(expected.energy)
    with pytest.raises(FailedCalculationError, match="hip: too large"):
        calculator.energy(np.array([1, 1]), np.zeros((2, 3)))


# Molecules and samples.


def test_g2_molecules_are_those_that_were_asked_for(ase):
    found = read_molecules(G2Source(source="g2", elements=("H", "O"), min_atoms=3, max_atoms=4))
    assert [molecule.name for molecule in found] == ["H2O", "H2O2", "O3"]
    assert found[0].masses[0] == pytest.approx(15.999)
    with pytest.raises(ObjectiveError, match="no molecule of Li alone with 3 to 9 atoms"):
        read_molecules(G2Source(source="g2", elements=("Li",)))


def test_xyz_folders_are_read_in_the_order_of_their_names(ase, tmp_path):
    for name, distance in (("b", 0.8), ("a", 0.7)):
        (tmp_path / f"{name}.xyz").write_text(f"2\n\nH 0 0 0\nH 0 0 {distance}\n")
    source = XyzSource(source="xyz", folder=tmp_path, min_atoms=2)
    assert [(m.name, m.positions[1, 2]) for m in read_molecules(source)] == [("a", 0.7), ("b", 0.8)]
    (tmp_path / "c.xyz").write_text("2\n\nH 0 0 0\n")
    with pytest.raises(ObjectiveError, match=r"c\.xyz: cannot be read as XYZ"):
        read_molecules(source)
    with pytest.raises(ObjectiveError, match=r"no \*\.xyz files"):
        read_molecules(XyzSource(source="xyz", folder=tmp_path / "none"))


def test_transition1x_files_are_read_by_split_and_state(ase, tmp_path):
    installed("h5py", "saddle")
    import h5py

    path, numbers = tmp_path / "t1x.h5", np.array([8, 1, 1])
    with h5py.File(path, "w") as handle:
        for k, reaction in enumerate(("rxn0", "rxn1")):
            group = handle.create_group(f"train/H2O/{reaction}")
            group["atomic_numbers"] = numbers
            group["positions"] = np.zeros((7, 3, 3))
            state = group.create_group("transition_state")
            state["atomic_numbers"] = numbers
            state["positions"] = np.full((1, 3, 3), float(k))
            group.create_group("product")["positions"] = np.full((1, 3, 3), 9.0)
    source = Transition1xSource(source="transition1x", file=path)
    found = read_molecules(source)
    assert [m.name for m in found] == ["H2O/rxn0", "H2O/rxn1"]
    assert found[1].positions.tolist() == np.ones((3, 3)).tolist()
    products = read_molecules(source.model_copy(update={"state": "product"}))
    assert products[0].positions[0, 0] == 9.0
    with pytest.raises(ObjectiveError, match=r"has no split 'val' \(it has train\)"):
        read_molecules(source.model_copy(update={"split": "val"}))
    with pytest.raises(ObjectiveError, match="reactant"):
        read_molecules(source.model_copy(update={"state": "reactant"}))
    with pytest.raises(ObjectiveError, match="cannot be read"):
        read_molecules(source.model_copy(update={"file": tmp_path / "none.h5"}))


def test_noise_depends_on_seed_and_molecule_alone(ase):
    molecules = read_molecules(G2Source(source="g2"))
    all_of_them = make_samples(molecules, [0, 7], 0.3)
    assert [s.name for s in all_of_them[:2]] == [f"{m.name} 0" for m in molecules[:2]]
    some = make_samples(molecules[3:5], [7], 0.3)
    np.testing.assert_array_equal(some[0].start, all_of_them[len(molecules) + 3].start)
    noise = np.concatenate([(s.start - s.molecule.positions).ravel() for s in all_of_them])
    assert np.std(noise) == pytest.approx(0.3, rel=0.05)
    assert hash_samples(some) == hash_samples(make_samples(molecules[3:5], [7], 0.3))
    assert hash_samples(some) != hash_samples(make_samples(molecules[3:5], [8], 0.3))


def test_molecules_held_out_stay_held_out_when_others_come(ase):
    molecules = read_molecules(G2Source(source="g2"))
    tuning, held_out = divide_molecules(molecules, 0.4)
    assert len(held_out) == round(0.4 * len(molecules))
    assert {m.name for m in tuning} | {m.name for m in held_out} == {m.name for m in molecules}
    more, _ = divide_molecules(molecules, 0.2)
    assert {m.name for m in tuning} < {m.name for m in more}


# Screening and selection.


def test_the_hardest_share_is_selected_and_some_easy_samples_are_watched():
    steps = [5, None, 90, 20, None, 0, 40, 60]
    screened = [
        Screened(str(k), converged=n is not None, steps=100 if n is None else n)
        for k, n in enumerate(steps)
    ]
    assert [row.difficulty for row in screened] == [5, 1000, 90, 20, 1000, 0, 40, 60]
    found = select(screened, 0.5, 3, 2, 100)
    assert found.hard == (1, 4, 2)
    assert found.watched == (5, 6)
    # What takes longer than a trial's searches may would be a regression of the steps alone.
    assert select(screened, 0.25, 3, 9, 45).watched == (5, 0, 3, 6)
    assert select(screened[1:2], 0.5, 3, 2, 100).hard == (0,)


def test_what_a_calculator_has_no_answer_for_is_left_out_and_said(scine, tmp_path, caplog):
    geometries = {"source": "g2", "elements": ["C", "H"], "min_atoms": 4, "max_atoms": 5}
    params = {**PARAMS, "geometries": {**geometries, "radicals": True}, "held_out": 0.0}
    radicals = SaddleSearch(None, seed=1, **params, screenings=str(tmp_path))
    reasons = {row.name: row.reason for row in radicals.screened}
    assert "spin multiplicity" in reasons["CH3 0"]
    assert not reasons["CH4 0"]
    assert "sample CH3 0 is left out" in caplog.text
    assert not any("CH3 " in part for part in radicals.parts)
    closed = SaddleSearch(
        None, seed=1, **{**params, "geometries": geometries}, screenings=str(tmp_path)
    )
    assert closed.parts == radicals.parts
    with pytest.raises(ObjectiveError, match="no answer for any sample; for x: why"):
        select([Screened("x", converged=False, steps=0, reason="why")], 0.5, 3, 2, 100)


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


@pytest.fixture
def objective(scine, tmp_path):
    return SaddleSearch(None, seed=1, **PARAMS, screenings=str(tmp_path / "screenings"))


def test_a_screening_is_made_once_and_again_where_it_is_damaged(objective, tmp_path, monkeypatch):
    (path,) = (tmp_path / "screenings").iterdir()
    text = path.read_text()
    path.write_text(text[:100])
    again = SaddleSearch(None, seed=1, **PARAMS, screenings=str(tmp_path / "screenings"))
    assert path.read_text() == text
    assert (again.parts, again.splits_hash) == (objective.parts, objective.splits_hash)

    def never(*_):
        raise AssertionError("screened again")

    monkeypatch.setattr("studies.saddle.screening._screen_one", never)
    SaddleSearch(None, seed=2, **PARAMS, screenings=str(tmp_path / "screenings"))
    other = {**PARAMS, "noise_angstrom": 0.5}
    with pytest.raises(AssertionError):
        SaddleSearch(None, seed=1, **other, screenings=str(tmp_path / "screenings"))


def test_parts_are_samples_and_the_default_settings_repeat_their_screening(objective):
    assert len(objective.parts) == objective.n_hard + 2 == 5
    assert [part.startswith("watched ") for part in objective.parts] == [False] * 3 + [True] * 2
    by_name = {row.name: row for row in objective.screened}
    parts = [objective.score_part({}, k) for k in range(5)]
    for sample, part in zip(objective.samples, parts, strict=True):
        assert part["converged"] == by_name[sample.name].converged
        assert part["steps"] == by_name[sample.name].steps
    assert all(part["converged"] and part["score"] == 0.0 for part in parts[3:])
    total = objective.combine(parts)
    assert total["regressions"] == 0
    assert total["watched_rate"] == 1.0


def test_the_score_is_the_rate_less_a_hundredth_of_the_normalised_steps(objective):
    def part(converged, steps):
        return {"score": 0.0, "converged": int(converged), "steps": steps}

    total = objective.combine([part(1, 4), part(0, 20), part(1, 8), part(0, 20), part(1, 2)])
    assert total["convergence_rate"] == pytest.approx(2 / 3)
    assert total["mean_steps"] == 6.0
    assert total["score"] == pytest.approx(2 / 3 - 0.01 * 6 / 20)
    assert (total["watched_rate"], total["regressions"]) == (0.5, 1)
    none = objective.combine([part(0, 20)] * 5)
    assert (none["score"], none["mean_steps"]) == (-0.01, 20.0)


def test_what_a_score_depends_on_is_part_of_the_fingerprint(objective, monkeypatch):
    spec = load(FOLDER / "g2_far.toml")
    before = fingerprint(spec, None, objective)
    assert "scine-sparrow=" in before["packages"]
    source = hpo.study.fingerprint._source
    for changed in ("studies.saddle.gad", "studies.saddle.scine"):

        def change(module, changed=changed):
            found = source(module)
            if module != changed:
                return found
            assert found is not None
            return found._replace(data=found.data + b"\nADDED = 1\n")

        monkeypatch.setattr("hpo.study.fingerprint._source", change)
        assert fingerprint(spec, None, objective)["code"] != before["code"], changed


def test_settings_that_are_none_are_refused(ase, objective):
    with pytest.raises(ObjectiveError, match="did you mean 'escape_delta'"):
        objective.score_part({"escape_detla": 0.1}, 0)
    with pytest.raises(HpoError, match=r"\[objective.params\]: nsteps: unknown key"):
        Problem({"nsteps": 3})
    with pytest.raises(ObjectiveError, match="leaves none for tuning"):
        Problem({**PARAMS, "held_out": 0.99, "geometries": {"source": "g2", "elements": ["O"]}})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("g2_*.toml")), ids=lambda path: path.stem)
def test_study_files_search_the_ranges_of_the_report(ase, path):
    space = load(path).model_dump()["space"]
    assert {name: (found["low"], found["high"]) for name, found in space.items()} == RANGES
    logarithmic = {name for name, found in space.items() if found["log"]}
    assert logarithmic == {"dt_min", "dt_max", "escape_disp_threshold"}
    for name, default in asdict(Settings()).items():
        low, high = RANGES[name]
        middle = np.sqrt(low * high) if name in logarithmic else (low + high) / 2
        assert default == pytest.approx(middle, rel=0.05), name
    assert Problem(params_of(path)).tuning


# Results.


def test_settings_are_written_for_shells_and_programs():
    params = {"escape_delta": 0.15, "escape_window": 25, "dt_min": 2.3e-6}
    exports = write_params(params, "exports").splitlines()
    assert len(exports) == len(fields(Settings)) == 11
    assert "export ESCAPE_DELTA=0.15" in exports
    assert "export DT_MIN=2.3e-06" in exports
    words = shlex.split(write_params(params, "arguments"))
    assert words[:2] == ["--dt-min", "2.3e-06"]
    assert words[words.index("--escape-window") + 1] == "25"
    assert json.loads(write_params(params, "json"))["trust_radius_max"] == 0.3


def test_a_difference_is_paired_and_resampled_by_molecule():
    def runs(converged):
        return [
            Run(f"m{k // 5}", k % 5, done, 10 if done else 99, 0, 1)
            for k, done in enumerate(converged)
        ]

    default, best = runs([False] * 40), runs([k % 2 == 0 for k in range(40)])
    found = compare("all", default, best, 50)
    assert (found.n_molecules, found.gained, found.lost) == (8, 20, 0)
    assert found.difference == 0.5
    # Wilson's interval of 0 of 40, by hand: z^2 / (n + z^2).
    assert found.default.interval == pytest.approx((0.0, 3.8415 / 43.8415), abs=1e-4)
    assert found.best.mean_steps == 10.0
    assert found.default.mean_steps is None
    assert found.best.mean_steps_spent == 30.0
    assert found.steps_difference == -20.0
    low, high = found.difference_interval
    assert 0.4 <= low < 0.5 < high <= 0.6
    # Starts of one molecule that go together leave less to be sure of.
    apart = compare("all", default, runs([k // 5 % 2 == 0 for k in range(40)]), 50)
    assert apart.difference_interval[0] < low


def test_validation_says_the_same_with_one_process_and_with_two(objective):
    best = {"escape_window": 10, "plateau_patience": 3}
    alone, runs = validate(objective.problem, best, [1000], 1)
    assert [c.name.split()[0] for c in alone] == ["molecules", "molecules", "all"]
    assert alone[0].n_molecules + alone[1].n_molecules == alone[2].n_molecules
    together, same = validate(objective.problem, best, [1000], 2)
    assert (together, same) == (alone, runs)


STUDY = """
trials = 3
[objective]
name = "studies.saddle.objective:SaddleSearch"
[objective.params]
geometries = { source = "g2", elements = ["H", "C", "O"], min_atoms = 4, max_atoms = 5 }
held_out = 0.3
noise_angstrom = 0.4
noise_seeds = 2
screening_steps = 20
n_steps = 20
n_samples = 3
n_watched = 2
[space]
escape_delta = { type = "float", low = 0.05, high = 0.5 }
escape_window = { type = "int", low = 10, high = 15 }
"""


def test_a_study_runs_and_its_results_can_be_used(hpo, capsys):
    installed("scine_sparrow", "saddle")
    Path("tiny.toml").write_text(STUDY)
    assert "report: " in hpo("run", "tiny.toml", "--workers", "2").stdout

    def saddle(*arguments, code=0):
        assert main([*arguments, "--storage", "sqlite:///hpo.db"]) == code
        return capsys.readouterr()

    rows = json.loads(saddle_without_storage(capsys, "screen", "tiny.toml", "--json"))
    assert sorted(row["role"] for row in rows if row["role"]) == ["hard"] * 3 + ["watched"] * 2
    words = saddle("results", "tiny", "--as", "arguments").out.split()
    results = json.loads(Path("hpo_results.json").read_text())
    assert len(results["trials"]) == 3
    best = max(results["trials"], key=lambda trial: trial["score"])
    assert results["best_trial"] == best["number"]
    assert results["best_params"] == best["params"]
    assert results["best_convergence_rate"] == best["convergence_rate"]

    searched = saddle_without_storage(
        capsys, "search", "tiny.toml", "--json", "--geometries", "found", *words
    )
    found = {row["sample"]: row for row in json.loads(searched)}
    assert len(list(Path("found").glob("*.xyz"))) == sum(r["converged"] for r in found.values())
    # What is exported makes the very same searches.
    objective = SaddleSearch(None, seed=1, **params_of(Path("tiny.toml")))
    for k, sample in enumerate(objective.samples):
        part = objective.score_part(best["params"], k)
        assert (found[sample.name]["converged"], found[sample.name]["steps"]) == (
            part["converged"],
            part["steps"],
        )

    assert "seeds 0 to 1" in saddle("validate", "tiny", "--first-seed", "1", code=2).err
    assert "molecules held out" in saddle("validate", "tiny", "--seeds", "1").out
    validated = json.loads(Path("tiny_validation.json").read_text())
    assert validated["params"] == results["best_params"]
    assert len(validated["runs"]["best"]) == validated["comparisons"][-1]["best"]["n_samples"]
    near = saddle("validate", "tiny", "--seeds", "1", "--set", "noise_angstrom=0.0", "--json")
    assert json.loads(near.out)["changed"] == ["noise_angstrom=0.0"]
    assert "no complete trial 7" in saddle("results", "tiny", "--trial", "7", code=2).err
    assert "did you mean 'tiny'" in saddle("results", "tinny", code=2).err


def saddle_without_storage(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_commands_refuse_studies_of_something_else(capsys):
    assert main(["screen", str(ROOT / "studies" / "transport" / "seebeck.toml")]) == 2
    assert "is no search for saddle points" in capsys.readouterr().err


def test_settings_may_come_from_the_environment(scine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(STUDY)
    rows = []
    for delta in ("0.05", "0.5", "wide"):
        monkeypatch.setenv("ESCAPE_WINDOW", "2")
        monkeypatch.setenv("ESCAPE_DISP_THRESHOLD", "1")
        monkeypatch.setenv("ESCAPE_DELTA", delta)
        if delta == "wide":
            with pytest.raises(SystemExit, match="2"):
                main(["search", "tiny.toml"])
            break
        rows.append(json.loads(saddle_without_storage(capsys, "search", "tiny.toml", "--json")))
    assert sum(row["kicks"] for row in rows[0]) > 0
    assert rows[0] != rows[1]


@pytest.mark.parametrize("command", ["screen", "search", "results", "validate"])
def test_every_command_is_documented_and_explains_itself(command, capsys):
    assert f"python -m studies.saddle {command}" in (FOLDER / "README.md").read_text()
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"usage: python -m studies.saddle {command}" in capsys.readouterr().out


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "studies.saddle", "serch"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "invalid choice: 'serch'" in done.stderr
