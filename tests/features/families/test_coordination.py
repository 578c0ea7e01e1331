"""Coordination numbers: pymatgen's own, for one site of each orbit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pymatgen.analysis.local_env import CrystalNN
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from features.families.structure.coordination import coordination_numbers, describe_coordination
from features.families.structure.voronoi import voronoi_cell
from tests.benchmarks.structure_features import crystal
from tests.support.tables.materials import LICL, ROCK_SALT


def by_pymatgen(structure: Structure) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finder = CrystalNN()
        return [finder.get_cn(structure, site) for site in range(len(structure))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LiF rock salt", {"Li": 6, "F": 6}),
        ("LiCoO2 layered", {"Li": 6, "Co": 6, "O": 6}),
        ("LiMn2O4 spinel", {"Li": 4, "Mn": 6, "O": 4}),
    ],
)
def test_numbers_by_hand(name, expected):
    structure = crystal(name)
    found = coordination_numbers(structure)
    assert [expected[site.specie.symbol] for site in structure] == found.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_pymatgens_where_nothing_is_symmetric(seed):
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(4.0, 6.5, 3), *rng.uniform(75, 105, 3))
    symbols = rng.choice(["Li", "La", "P", "O", "S", "Cl", "Ar"], 5).tolist()
    frac = (np.indices((2, 2, 2)).reshape(3, -1).T[:5] + rng.uniform(0.05, 0.45, (5, 3))) / 2.0
    structure = Structure(lattice, symbols, frac)
    assert coordination_numbers(structure).tolist() == by_pymatgen(structure)


def test_an_atom_alone_in_a_large_cell_is_found_its_images():
    structure = Structure(Lattice.cubic(8.0), ["Li"], [[0.1, 0.2, 0.3]])
    assert coordination_numbers(structure).tolist() == by_pymatgen(structure)


def test_the_areas_of_a_cube():
    cell = voronoi_cell(2.0 * np.vstack([np.eye(3), -np.eye(3)]))
    assert cell is not None
    np.testing.assert_allclose(cell.areas, 4.0)
    np.testing.assert_allclose(cell.vectors, 2.0 * np.vstack([np.eye(3), -np.eye(3)])[cell.points])


def test_a_cif_is_described_by_kind_of_atom():
    assert describe_coordination(LICL) == ([6.0, 0.0, 6.0, 1.0], [])
    structure = crystal("LiCoO2 layered")
    cif = str(CifWriter(structure)).encode()
    assert describe_coordination(cif) == ([6.0, 6.0, 6.0, 1.0], [])


def test_what_cannot_be_described_is_said():
    disordered = ROCK_SALT.format(occupancy="0.5").encode()
    values, reasons = describe_coordination(disordered)
    assert values == [0.0] * 4
    assert "disordered" in reasons[-1]
    values, reasons = describe_coordination(b"data_nothing")
    assert values == [0.0] * 4
    assert "cannot be parsed" in reasons[-1]
