"""Bond-valence site energies against plain sums, and percolation against known landscapes."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from features.chemistry.crystals import Crystal, crystal_of
from features.chemistry.oxidation_states import OxidationStates
from features.chemistry.percolation import PeriodicNetwork, percolation_levels
from features.chemistry.periodic_sums import Interaction, sum_on_grid
from features.datasets.cif_files import read_cifs
from features.families.registry import FAMILIES
from features.families.structure import bvse
from features.families.structure.bvse import (
    R_MIN,
    attraction,
    describe_bvse,
    energies_at,
    energy_grid,
    grid_shape,
    morse_parameters,
    repulsion,
)

NAMES = [column.name for column in FAMILIES["bvse"].columns]
# Depth of the Morse energy of Li+ in eV, as softBV tabulates it: Chen and Adams, IUCrJ 4, 614.
DEPTHS = {
    "N": 2.054953,
    "O": 0.98816,
    "F": 0.49611,
    "S": 1.04027,
    "Cl": 0.49302,
    "Se": 0.8875,
    "Br": 0.4491,
    "Te": 0.88544,
    "I": 0.44117,
}


def cif_of(structure):
    for site in structure:
        site.label = None  # those of a supercell are not unique
    return str(CifWriter(structure)).encode()


def described(structure):
    values, reasons = describe_bvse(cif_of(structure))
    return dict(zip(NAMES, values, strict=True)), reasons


def lithium_fluoride():
    sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.027), ["Li", "F"], sites)


def disordered():
    """A triclinic cell with a shared Li site, a mixed anion site and a half-filled one."""
    lattice = Lattice.from_parameters(5.1, 5.9, 6.7, 81.0, 97.0, 108.0)
    species = [{"Li": 0.7, "Mg": 0.1}, {"Li": 0.5}, {"P": 0.9}, {"O": 1.0}, {"O": 0.5, "S": 0.5}]
    sites = [[0.1, 0.2, 0.3], [0.6, 0.7, 0.15], [0.5, 0.3, 0.6], [0.3, 0.5, 0.5], [0.8, 0.1, 0.9]]
    return Structure(lattice, [*species, {"O": 0.5}], [*sites, [0.55, 0.4, 0.95]])


def waves(sizes, heights):
    axes = np.meshgrid(*(2.0 * np.pi * np.arange(n) / n for n in sizes), indexing="ij")
    return sum(height * np.cos(axis) for height, axis in zip(heights, axes, strict=True))


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))))
def test_barriers_of_a_sum_of_cosines(order):
    # The lowest way along an axis leads over its saddle, twice the height of its wave.
    heights = np.array([0.3, 0.7, 1.1])[list(order)]
    landscape = waves((8, 10, 12), heights)
    levels = np.array(percolation_levels(landscape)) - landscape.min()
    np.testing.assert_allclose(levels, [0.6, 1.4, 2.2], rtol=1e-12)


def test_a_channel_goes_one_way():
    landscape = np.full((6, 7, 8), 5.0)
    landscape[2, 3, :] = 0.0
    assert percolation_levels(landscape) == (0.0, 5.0, 5.0)
    assert percolation_levels(landscape, highest=4.0) == (0.0, math.inf, math.inf)
    landscape[2, :, 4] = np.minimum(landscape[2, :, 4], 1.0)
    assert percolation_levels(landscape) == (0.0, 1.0, 5.0)
    # Closed at one place, it leads nowhere.
    landscape[2, 3, 6] = 3.0
    assert percolation_levels(landscape) == (1.0, 3.0, 5.0)


def test_channels_that_do_not_meet_are_not_one_network():
    landscape = np.full((8, 8, 8), 5.0)
    landscape[1, 1, :] = 0.0
    landscape[5, :, 5] = 0.0
    assert percolation_levels(landscape) == (0.0, 5.0, 5.0)
    landscape[1:6, 1, 5] = np.minimum(landscape[1:6, 1, 5], 2.0)
    assert percolation_levels(landscape) == (0.0, 2.0, 5.0)


def test_a_pocket_across_the_faces_of_the_cell_is_closed():
    landscape = np.full((8, 8, 8), 5.0)
    for corner in itertools.product((-1, 0, 1), repeat=3):
        landscape[corner] = 0.0
    assert percolation_levels(landscape, highest=1.0) == (math.inf,) * 3


def test_a_diagonal_channel_goes_one_way():
    landscape = np.full((6, 6, 6), 5.0)
    landscape[range(6), range(6), range(6)] = 0.0
    assert percolation_levels(landscape) == (0.0, 5.0, 5.0)


@pytest.mark.parametrize(
    ("edges", "rank"),
    [
        ([], 0),
        ([(1, 2, (1, 0, 0)), (1, 2, (1, 0, 0))], 0),
        ([(1, 2, (1, 0, 0)), (1, 2, (0, 0, 0))], 1),
        ([(1, 2, (1, 0, 0)), (2, 1, (1, 0, 0))], 1),  # comes back two cells away
        ([(1, 1, (1, 0, 0)), (2, 2, (0, 1, 0))], 1),
        ([(1, 1, (1, 0, 0)), (2, 2, (0, 1, 0)), (1, 2, (0, 0, 0))], 2),
        ([(1, 1, (1, 1, 0)), (1, 1, (1, -1, 0)), (1, 1, (0, 1, 0))], 2),
        ([(1, 1, (1, 1, 0)), (1, 1, (0, 1, 1)), (1, 1, (1, 0, 1))], 3),
    ],
)
def test_directions_of_a_periodic_graph(edges, rank):
    network = PeriodicNetwork()
    assert max((network.join(*edge) for edge in edges), default=0) == rank


def flooded_directions(landscape, level):
    """Walk from point to point over the endless lattice, without any labels."""
    shape = landscape.shape
    free = {tuple(point) for point in np.argwhere(landscape <= level)}
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]
    best, seen = 0, {}
    for start in free:
        if start in seen:
            continue
        seen[start] = (0, 0, 0)
        waiting, loops = [start], [(0, 0, 0)]
        while waiting:
            point = waiting.pop()
            for step in steps:
                reached = [p + d for p, d in zip(point, step, strict=True)]
                there = tuple(r % n for r, n in zip(reached, shape, strict=True))
                if there not in free:
                    continue
                wraps = (r // n for r, n in zip(reached, shape, strict=True))
                cell = tuple(c + w for c, w in zip(seen[point], wraps, strict=True))
                if there not in seen:
                    seen[there] = cell
                    waiting.append(there)
                loops.append(tuple(c - s for c, s in zip(cell, seen[there], strict=True)))
        best = max(best, int(np.linalg.matrix_rank(np.array(loops))))
    return best


def walked_levels(landscape, highest=math.inf):
    values = np.unique(landscape[landscape <= highest])
    directions = np.array([flooded_directions(landscape, value) for value in values])
    return tuple(
        float(values[np.argmax(directions >= wanted)]) if max(directions) >= wanted else math.inf
        for wanted in (1, 2, 3)
    )


@pytest.mark.parametrize("kind", ["points", "plateaus", "channels"])
@pytest.mark.parametrize("seed", range(6))
def test_levels_agree_with_a_walk_over_the_lattice(seed, kind):
    rng = np.random.default_rng(seed)
    shape = ((3, 4, 4), (5, 3, 2), (1, 4, 5), (2, 4, 4), (4, 4, 1), (1, 2, 6))[seed]
    # Squares, so that few points are low and the ways between them matter.
    landscape = rng.normal(size=shape) ** 2
    if kind == "plateaus":
        landscape = np.floor(4.0 * landscape)
    if kind == "channels":
        landscape[rng.random(shape) > 0.3] = 9.0
    for highest in (math.inf, float(np.quantile(landscape, 0.5)), -1.0):
        if highest >= 0.0:
            assert percolation_levels(landscape, highest) == walked_levels(landscape, highest)
        else:
            assert percolation_levels(landscape, highest) == (math.inf,) * 3


def test_levels_depend_on_neither_origin_nor_choice_of_cell():
    rng = np.random.default_rng(7)
    landscape = waves((8, 9, 7), (0.2, 0.5, 0.4)) + 0.4 * rng.normal(size=(8, 9, 7))
    levels = percolation_levels(landscape)
    assert len(set(levels)) == 3
    assert percolation_levels(np.roll(landscape, (3, 5, 1), axis=(0, 1, 2))) == levels
    assert percolation_levels(np.tile(landscape, (2, 1, 1))) == levels
    assert percolation_levels(np.tile(landscape, (1, 2, 3))) == levels


@pytest.mark.parametrize("anion", sorted(DEPTHS))
def test_morse_energies_have_the_tabulated_depth_and_place(anion):
    distances = np.linspace(1.0, 5.0, 4001)
    energies = attraction(anion).at(distances)
    # Half of the tabulated depth counts, as in bvlain.
    assert energies.min() == pytest.approx(-0.5 * DEPTHS[anion], rel=2e-4)
    assert distances[energies.argmin()] == pytest.approx(R_MIN[anion][1], abs=1e-3)


def test_what_is_not_tabulated_is_estimated_as_the_tabulated_would_be():
    from features.families.structure.bond_valence import PARAMETERS

    errors = [r0 + b * math.log(4) - R_MIN[anion][1] for anion, (r0, b) in PARAMETERS.items()]
    assert max(map(abs, errors)) < 0.09
    assert math.sqrt(np.mean(np.square(errors))) < 0.055
    assert morse_parameters("P")[0] == 3
    assert morse_parameters("H")[0] == 1
    # Li3P has them at 2.4 to 2.7 angstrom, LiH at 2.04.
    assert morse_parameters("P")[1] == pytest.approx(2.55, abs=0.15)
    assert morse_parameters("H")[1] == pytest.approx(2.04, abs=0.25)


def test_repulsion_by_hand():
    # P(5+): covalent radii 1.28 and 1.07 angstrom, principal quantum numbers 2 and 3.
    rho = 0.74 * (1.28 + 1.07)
    expected = 14.39964548 * 5.0 / math.sqrt(2 * 3) / 2.5 * math.erfc(2.5 / rho)
    assert repulsion("P", 5.0).at(np.array([2.5]))[0] == pytest.approx(expected, rel=1e-9)
    assert repulsion("P", 5.0).at(np.array([0.0]))[0] < math.inf


def plain_energy(crystal, place):
    """Sum pair by pair over the images of every ion, with the parameters written out."""
    morse = {"O": (0.98816, 1.940013, 1.937984), "S": (1.04027, 2.40971, 1.531394)}
    radius, shell = {"Mg": 1.41, "P": 1.07}, {"Mg": 3, "P": 3}
    total = 0.0
    for site, frac in enumerate(crystal.frac):
        for cell in itertools.product(range(-3, 4), repeat=3):
            distance = math.dist((frac + np.array(cell)) @ crystal.matrix, place)
            if distance < 1e-3 or distance > 12.0:
                continue
            for symbol, amount in zip(crystal.symbols, crystal.occupancy[site], strict=True):
                if symbol in morse:
                    depth, r_min, alpha = morse[symbol]
                    pair = depth * ((math.exp(alpha * (r_min - distance)) - 1.0) ** 2 - 1.0) / 2.0
                elif symbol in radius:
                    rho = 0.74 * (1.28 + radius[symbol])
                    pair = 14.39964548 * crystal.states.average[symbol] / distance
                    pair *= math.erfc(distance / rho) / math.sqrt(2 * shell[symbol])
                else:
                    continue
                total += amount * pair
    return total


def energies_at_li(crystal):
    places = crystal.frac[crystal.li_occupancy > 0.0]
    return energies_at(crystal, places, np.ones(len(places), dtype=bool))


def test_energies_are_the_plain_sum():
    crystal = crystal_of(disordered())
    shape = (4, 5, 3)
    found = energy_grid(crystal, shape)
    places = np.argwhere(np.ones(shape)) / shape @ crystal.matrix
    expected = np.array([plain_energy(crystal, place) for place in places])
    # What is cut off adds up to a few meV.
    np.testing.assert_allclose(found.ravel(), expected, atol=5e-3, rtol=2e-4)
    at_li = crystal.frac[crystal.li_occupancy > 0.0] @ crystal.matrix
    alone = [plain_energy(crystal, place) for place in at_li]
    np.testing.assert_allclose(energies_at_li(crystal), alone, atol=5e-3, rtol=2e-4)


def crystal_from(species, frac):
    """A cube of 5 angstrom; each site as {element: amount}, charges as they usually are."""
    usual = {"Li": 1.0, "P": 5.0, "O": -2.0, "S": -2.0}
    symbols = tuple(sorted({symbol for site in species for symbol in site}))
    return Crystal(
        matrix=5.0 * np.eye(3),
        frac=np.array(frac),
        symbols=symbols,
        occupancy=np.array([[site.get(symbol, 0.0) for symbol in symbols] for site in species]),
        states=OxidationStates({symbol: usual[symbol] for symbol in symbols}, 0.0),
    )


def test_two_half_ions_are_one():
    li, cation, anion = [0.1, 0.1, 0.2], [0.5, 0.6, 0.5], [0.3, 0.9, 0.7]
    whole = crystal_from([{"Li": 1}, {"P": 1}, {"O": 1}], [li, cation, anion])
    halves = crystal_from([{"Li": 1}, {"P": 1}, {"O": 0.5}, {"O": 0.5}], [li, cation, anion, anion])
    shape = (6, 5, 7)
    expected = energy_grid(whole, shape)
    np.testing.assert_allclose(energy_grid(halves, shape), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(energies_at_li(halves), energies_at_li(whole), rtol=1e-12)
    # A mixed site is the average of the two pure ones.
    sulfide = crystal_from([{"Li": 1}, {"P": 1}, {"S": 1}], [li, cation, anion])
    mixed = crystal_from([{"Li": 1}, {"P": 1}, {"O": 0.25, "S": 0.75}], [li, cation, anion])
    average = 0.25 * expected + 0.75 * energy_grid(sulfide, shape)
    np.testing.assert_allclose(energy_grid(mixed, shape), average, rtol=1e-12, atol=1e-12)


def random_crystal(seed):
    """Four ions of a random triclinic cell with room for each; none is Li."""
    rng = np.random.default_rng(seed)
    edges, angles = rng.uniform(3.2, 4.4, size=3), rng.uniform(70.0, 110.0, size=3)
    corners = np.array([[0.1, 0.1, 0.1], [0.6, 0.6, 0.1], [0.6, 0.1, 0.6], [0.1, 0.6, 0.6]])
    found = crystal_from(
        [{"O": 1.0}, {"S": 0.4, "O": 0.6}, {"P": rng.uniform(0.2, 1.0)}, {"S": 1.0}],
        np.mod(corners + rng.uniform(-0.08, 0.08, size=(4, 3)), 1.0),
    )
    return replace(found, matrix=Lattice.from_parameters(*edges, *angles).matrix)


def looped_energy(crystal, place, reach=4):
    """Add the energies of one ion after the other, one cell after the other."""
    total = 0.0
    cells = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    for interaction, sites, amounts in bvse.interactions(crystal):
        for site, amount in zip(sites, amounts, strict=True):
            vectors = (crystal.frac[site] + cells - place) @ crystal.matrix
            total += amount * interaction.at(np.linalg.norm(vectors, axis=1)).sum()
    return total


@pytest.mark.parametrize("seed", range(8))
def test_barriers_are_those_of_plain_loops(seed, monkeypatch):
    crystal = random_crystal(seed)
    monkeypatch.setattr(bvse, "SPACING_ANGSTROM", 0.75)  # a grid of which all can be walked
    monkeypatch.setattr(bvse, "HIGHEST_BARRIER_EV", (10.0, 0.8)[seed % 2])
    monkeypatch.setattr(bvse, "read_crystal", lambda cif: (with_li(crystal), []))
    values, reasons = describe_bvse(b"")
    shape = grid_shape(crystal)
    places = np.argwhere(np.ones(shape)) / shape
    landscape = np.reshape([looped_energy(crystal, place) for place in places], shape)
    lowest = landscape.min()
    levels = walked_levels(landscape, lowest + bvse.HIGHEST_BARRIER_EV)
    expected = np.minimum(np.array(levels) - lowest, bvse.HIGHEST_BARRIER_EV)
    np.testing.assert_allclose(values[:3], expected, atol=1e-3)
    assert len(reasons) == sum(map(math.isinf, levels))
    at_li = min(looped_energy(crystal, LI) - lowest, bvse.HIGHEST_BARRIER_EV)
    assert values[NAMES.index("bvse_li_energy")] == pytest.approx(at_li, abs=1e-3)


LI = np.array([0.3, 0.35, 0.3])


def with_li(crystal):
    return replace(
        crystal,
        frac=np.vstack([crystal.frac, LI]),
        symbols=(*crystal.symbols, "Li"),
        occupancy=np.block([[crystal.occupancy, np.zeros((4, 1))], [np.zeros((1, 3)), 1.0]]),
        states=OxidationStates({**crystal.states.average, "Li": 1.0}, 0.0),
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_grid_is_within_a_millielectronvolt_of_the_sum_over_pairs(seed):
    crystal = random_crystal(seed)
    landscape = energy_grid(crystal, grid_shape(crystal))
    low = np.argwhere(landscape < landscape.min() + 5.0)
    places = low / landscape.shape
    expected = energies_at(crystal, places, np.zeros(len(places), dtype=bool))
    np.testing.assert_allclose(landscape[tuple(low.T)], expected, atol=1e-3)


def test_what_shares_a_place_counts_unless_it_is_left_out():
    place = [0.1, 0.2, 0.3]
    crystal = crystal_from([{"Li": 0.9, "P": 0.1}, {"O": 1.0}], [place, [0.6, 0.7, 0.8]])
    within, alone = energies_at(crystal, np.array([place, place]), np.array([False, True]))
    assert within == pytest.approx(looped_energy(crystal, place), abs=1e-9)
    assert within - alone == pytest.approx(0.1 * repulsion("P", 5.0).at(np.zeros(1))[0])


def test_energies_that_end_near_are_summed_as_they_are():
    near = Interaction(lambda distance: 2.0 - distance, 1.5)
    places, shape = np.array([[0.0, 0.0, 0.0]]), (16, 1, 1)
    found = sum_on_grid(4.0 * np.eye(3), [(near, places, np.ones(1))], shape)
    distance = np.minimum(np.arange(16), 16 - np.arange(16)) * 0.25
    np.testing.assert_allclose(found.ravel(), near.at(distance), atol=1e-12)


def test_energies_repeat_with_the_cell_and_move_with_the_origin():
    structure = disordered()
    landscape = energy_grid(crystal_of(structure), (6, 7, 8))
    doubled = energy_grid(
        crystal_of(structure.make_supercell([1, 2, 1], in_place=False)), (6, 14, 8)
    )
    np.testing.assert_allclose(doubled, np.tile(landscape, (1, 2, 1)), rtol=1e-9, atol=1e-9)
    moved = disordered()
    moved.translate_sites(range(len(moved)), [2 / 6, 3 / 7, 7 / 8])
    rolled = energy_grid(crystal_of(moved), (6, 7, 8))
    np.testing.assert_allclose(
        rolled, np.roll(landscape, (2, 3, 7), axis=(0, 1, 2)), rtol=1e-9, atol=1e-9
    )


def test_values_depend_on_neither_origin_nor_choice_of_cell():
    values, reasons = described(disordered())
    assert reasons == []
    assert values["has_bvse"] == 1.0
    moved = disordered()
    moved.translate_sites(range(len(moved)), [0.013, 0.027, 0.009])
    for other in (disordered().make_supercell([2, 1, 1], in_place=False), moved):
        again, _ = described(other)
        for name, value in values.items():
            assert again[name] == pytest.approx(value, abs=0.05), name


def test_lithium_fluoride_is_the_same_in_every_direction():
    values, reasons = described(lithium_fluoride())
    assert reasons == []
    first, second, third = (values[f"bvse_barrier_{n}d"] for n in (1, 2, 3))
    assert first == second == third
    assert 0.2 < first < 1.0
    # Li sits at the lowest point, and the more energy, the more room.
    assert values["bvse_li_energy"] == pytest.approx(0.0, abs=0.02)
    assert 0.0 < values["bvse_share_within_half_ev"] < values["bvse_share_within_one_ev"] < 1.0


def test_a_barrier_beyond_the_highest_is_the_highest_and_says_so(monkeypatch):
    monkeypatch.setattr(bvse, "HIGHEST_BARRIER_EV", 0.1)
    values, reasons = described(lithium_fluoride())
    assert [values[f"bvse_barrier_{n}d"] for n in (1, 2, 3)] == [0.1] * 3
    assert len(reasons) == 3
    assert "cannot move in 3 directions with 0.1 eV" in reasons[2]


def test_what_has_no_landscape_says_why():
    metal = Structure(Lattice.cubic(3.5), ["Li"], [[0.0] * 3])
    values, reasons = describe_bvse(cif_of(metal))
    assert not any(values)
    assert reasons[0].endswith("no anion in the CIF: the bond-valence site-energy columns are 0")


def test_what_is_estimated_is_said():
    phosphide = Structure(Lattice.cubic(4.0), ["Li", "P"], [[0.0] * 3, [0.5] * 3])
    _, reasons = describe_bvse(cif_of(phosphide))
    assert "Morse parameters of Li-P are estimated" in reasons


def test_the_grid_is_no_coarser_than_it_says():
    crystal = crystal_of(disordered())
    steps = np.linalg.norm(crystal.matrix, axis=1) / grid_shape(crystal)
    assert steps.max() <= bvse.SPACING_ANGSTROM


@pytest.fixture(scope="module")
def conductors(obelix_dir):
    """The CIFs of the training rows, and their reduced compositions by ID."""
    with (obelix_dir / "train.csv").open(encoding="utf-8", newline="") as file:
        formula_of = {row["ID"]: row["Reduced Composition"] for row in csv.DictReader(file)}
    return read_cifs(obelix_dir / "train_cifs.tar.gz").cifs, formula_of


@pytest.mark.slow
def test_fast_conductors_have_lower_barriers_than_lithium_phosphate(conductors):
    cifs, formula_of = conductors

    def barriers(formula):
        members = [cif for name, cif in cifs.items() if formula_of[name] == formula]
        assert members
        return [describe_bvse(cif)[0][NAMES.index("bvse_barrier_3d")] for cif in members]

    insulator = min(barriers("Li3PO4"))
    assert max(barriers("Li10GeP2S12")) < insulator
    assert max(barriers("Li6PS5Cl")) < 0.5 * insulator


@pytest.mark.slow
def test_cifs_with_li_have_a_landscape(conductors):
    cifs, _ = conductors
    found = [describe_bvse(cif) for cif in list(cifs.values())[::16]]
    assert len(found) == 16
    for values, reasons in found:
        assert np.isfinite(values).all()
        assert values[-1] == 1.0 or "no Li in the CIF" in reasons[0]
        assert 0.0 <= values[0] <= values[1] <= values[2] <= bvse.HIGHEST_BARRIER_EV
    assert sum(values[-1] for values, _ in found) >= 15
