"""Saddle searches on surfaces with known saddle points, and the vibrations of molecules."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from studies.saddle.calculators.registry import Evaluation, FailedCalculationError, make_calculator
from studies.saddle.eckart import free_basis, vibrational_basis, vibrational_modes
from studies.saddle.gad import Settings, _TimeStep, search, surplus
from tests.support.saddle import (
    NOBODY,
    UNIT,
    differences,
    molecule,
)


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
