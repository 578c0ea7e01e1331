"""Symmetry by operations, names and numbers; and crystals of every group, written and read."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.symmetry.groups import SpaceGroup

from features.intake.cifs import read_cif
from features.intake.structure_checks import describe_checks
from tests.support.tables.cif_texts import (
    FACE_CENTRED,
    LIF,
    cif,
    formula_of,
    operations,
    refusal_of,
    remarks_on,
    rock_salt,
)

HEXAGONAL = (4.0, 4.0, 8.0, 90, 90, 120)
H_M = "_symmetry_space_group_name_H-M"


@pytest.mark.parametrize(
    "symmetry",
    [
        f"{H_M} Fm3m",
        f"{H_M} Fm-3m",
        f"{H_M} F_m_-3_m",
        f"{H_M} 'f m 3 m'",
        f"{H_M} 'F 4/m -3 2/m'",
        "_space_group_name_H-M_alt 'F m -3 m'",
        "_space_group_name_Hall '-F 4 2 3'",
        "_space_group_IT_number 225",
        "_symmetry_Int_Tables_number 225",
        f"{H_M} ?\n_symmetry_Int_Tables_number 225",
        f"{H_M} 'F m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz",
    ],
)
def test_a_group_by_its_name_is_the_group(symmetry):
    text = rock_salt(symmetry=symmetry)
    assert formula_of(text) == "Li4F4"
    assert describe_checks(text.encode())[1] == []


@pytest.mark.parametrize(
    ("symmetry", "reason"),
    [
        (f"{H_M} 'X y z'", "X y z: no such space group"),
        (f"{H_M} 'F m -3 x'\n_symmetry_Int_Tables_number 999", "no such space group"),
        (operations(["x,y,z", "x,y"]), "three parts are needed"),
        (operations(["x,y,z", "x,y,w"]), "is no symmetry operation"),
        (operations(["x,y,z", "2x,y,z"]), "does not keep the lattice"),
        (operations(["x,y,z", "1/0+x,y,z"]), "is no symmetry operation"),
        (
            operations(["x,y,z"]) + "\n" + operations(["-x,-y,-z"], "_symmetry_equiv_pos_as_xyz"),
            "list different operations",
        ),
    ],
)
def test_symmetry_that_cannot_be_read_is_never_p1(symmetry, reason):
    assert reason in refusal_of(rock_salt(symmetry=symmetry))


@pytest.mark.parametrize(
    "name",
    [
        "_symmetry_equiv_pos_as_xyz",
        "_space_group_symop_operation_xyz",
        "_symmetry_equiv.pos_as_xyz",
    ],
)
def test_operations_are_taken_as_they_are_listed(name):
    text = rock_salt(symmetry=operations(FACE_CENTRED, name))
    assert formula_of(text) == "Li4F4"
    assert describe_checks(text.encode())[1] == []


@pytest.mark.parametrize("setting", ["R -3 m", "R-3m", "R -3 m R", "R-3m:R"])
def test_rhombohedral_axes(setting):
    primitive = (3.5, 3.5, 3.5, 60.2, 60.2, 60.2)
    text = cif(primitive, LIF, symmetry=f"{H_M} '{setting}'")
    assert formula_of(text) == "Li1F1"
    assert describe_checks(text.encode())[1] == []


@pytest.mark.parametrize("setting", ["R -3 m", "R-3m", "R -3 m H", "R-3m:H"])
def test_hexagonal_axes_of_the_same_group(setting):
    atoms = (LIF[0], "F1 F 0 0 0.5 1")
    text = cif((3.5, 3.5, 8.6, 90, 90, 120), atoms, symmetry=f"{H_M} '{setting}'")
    assert formula_of(text) == "Li3F3"
    assert describe_checks(text.encode())[1] == []


def test_the_unique_axis_of_a_monoclinic_group_is_the_cells():
    atoms = ("Li1 Li 0.1 0.2 0.3 1", "F1 F 0.6 0.7 0.8 1")
    for angles in ((90, 105, 90), (105, 90, 90)):  # P 1 21/c 1, and P 21/c 1 1
        text = cif((5, 6, 7, *angles), atoms, symmetry=f"{H_M} 'P 21/c'")
        assert formula_of(text) == "Li4F4"
        assert not [line for line in describe_checks(text.encode())[1] if "symmetry" in line]


def test_an_origin_that_is_not_said_is_assumed_and_said():
    text = cif((8, 8, 8, 90, 90, 90), ("Si1 Si 0.125 0.125 0.125 1",), symmetry=f"{H_M} 'F d -3 m'")
    assert formula_of(text) == "Si8"
    assert "origin choice 2" in remarks_on(text)
    assert formula_of(text.replace("0.125", "0").replace("-3 m", "-3 m S")) == "Si8"


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("0.33", "0.67"),
        ("0.333", "0.667"),
        ("0.3333(2)", "0.6667(2)"),
        ("0.333", "0.666"),
        ("1/3", "2/3"),
        ("0.33333", "0.66666"),
        ("0.333", "-.333"),
    ],
)
@pytest.mark.parametrize("z", ["0.25", "0.250", "1/4"])
def test_rounded_special_positions_make_no_duplicates(x, y, z):
    atoms = (f"Li1 Li {x} {y} {z} 1", "F1 F 0.0 0.0 0.0 1")
    text = cif(HEXAGONAL, atoms, symmetry=f"{H_M} 'P 63/m m c'")
    read = read_cif(text.encode())
    assert read.structure.formula == "Li2 F2"
    assert ("special positions" in "; ".join(read.remarks)) == ("/" not in x)
    li = read.structure.frac_coords[0]
    assert sorted(li[:2] % 1.0) == pytest.approx([1 / 3, 2 / 3], abs=1e-12)


def test_split_positions_near_a_special_one_stay_split():
    atoms = ("Li1 Li 0.30 0.66 0.25 0.3333", "F1 F 0.0 0.0 0.0 1")
    text = cif(HEXAGONAL, atoms, symmetry=f"{H_M} 'P 63/m m c'")
    assert read_cif(text.encode()).multiplicities[0][2] > 2


# What is written is read ----------------------------------------------------------------------

CELLS = {
    1: lambda a, b, c, x, y: Lattice.from_parameters(a, b, c, 80 + x, 95 + y, 100 + x),
    3: lambda a, b, c, x, y: Lattice.monoclinic(a, b, c, 95 + 2 * x),
    16: lambda a, b, c, x, y: Lattice.orthorhombic(a, b, c),
    75: lambda a, b, c, x, y: Lattice.tetragonal(a, c),
    143: lambda a, b, c, x, y: Lattice.hexagonal(a, c),
    195: lambda a, b, c, x, y: Lattice.cubic(a),
}


@st.composite
def crystals(draw):
    """A crystal of any group: atoms on a general and on special positions."""
    number = draw(st.integers(1, 230))
    edges = [draw(st.integers(90, 130)) / 10.0 for _ in range(3)]
    skew = [draw(st.integers(1, 8)) for _ in range(2)]
    lattice = CELLS[max(first for first in CELLS if first <= number)](*edges, *skew)
    special = draw(st.sampled_from([(0, 0, 0), (0, 0, 0.5), (1 / 3, 2 / 3, 0.25), (0.5, 0.5, 0.5)]))
    places = [special, (0.137, 0.218, 0.061)]
    group = SpaceGroup.from_int_number(number)
    return Structure.from_spacegroup(group.symbol, lattice, ["Li", "O"], places, tol=1e-3), group


@settings(max_examples=60, deadline=None)
@given(
    made=crystals(),
    places=st.sampled_from([3, 4, 6]),
    listed=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_what_is_written_is_read_whatever_the_group(made, places, listed, newline):
    structure, group = made
    if len(structure) > 400:
        structure.remove_species(["O"])
    rows = []
    for element in structure.elements:
        first = next(site for site in structure if site.specie == element)
        # The first is the one that the group was applied to, up to lattice translations.
        rows.append((element.symbol, first.frac_coords))
    parameters = structure.lattice.parameters
    symmetry = (
        operations([op.as_xyz_str() for op in group.symmetry_ops])
        if listed
        else f"_space_group_IT_number {group.int_number}\n_symmetry_space_group_name_H-M "
        f"'{group.symbol}'"
    )
    atoms = [f"{s}1 {s} {' '.join(f'{x:.{places}f}' for x in at)} 1.0" for s, at in rows]
    text = cif([f"{value:.6f}" for value in parameters], atoms, symmetry=symmetry)
    found = read_cif(text.replace("\n", newline).encode())
    if any("origin choice 2" in remark for remark in found.remarks):
        return  # pymatgen takes the first, and a name does not say which
    read = found.structure
    assert read.formula == structure.formula
    assert float(read.density) == pytest.approx(float(structure.density), rel=1e-4)
    for site in read:
        apart = structure.lattice.get_all_distances([site.frac_coords], structure.frac_coords)
        same = [other.specie == site.specie for other in structure]
        assert apart[0][same].min() < 4 * structure.lattice.a * 10.0**-places


@settings(max_examples=12, deadline=None)
@given(made=crystals(), refined=st.booleans())
def test_what_pymatgen_writes_with_symmetry_is_read(made, refined):
    structure, _ = made
    structure.remove_species(["O"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = str(CifWriter(structure, symprec=0.01, refine_struct=refined))
        analyzer = SpacegroupAnalyzer(structure, symprec=0.01)
        expected = analyzer.get_refined_structure() if refined else structure
    read = read_cif(text.encode()).structure
    assert read.formula == expected.formula
    assert float(read.volume) == pytest.approx(float(expected.volume), rel=1e-6)
