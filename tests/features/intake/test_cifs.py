"""CIFs of every kind that there is: read as they are meant, or refused with the reason."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from features.intake.cifs import read_cif, read_first_cell, read_structure
from features.intake.structure_checks import N_VALUES, describe_checks
from tests.support.tables.cif_texts import CUBIC, LIF, cif, operations, rock_salt

HEXAGONAL = (4.0, 4.0, 8.0, 90, 90, 120)
DENSITY_LIF = 2.638  # g/cm^3
WHOLE = rock_salt()


def formula_of(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return read_cif(data).structure.formula.replace(" ", "")


def remarks_on(text: str) -> str:
    return "; ".join(read_cif(text.encode()).remarks)


def refusal_of(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ValueError, match="CIF cannot be parsed") as caught:
        read_structure(data)
    values, failed = describe_checks(data)
    assert (values, failed) == ([0.0] * N_VALUES, [str(caught.value)])
    return str(caught.value)


def test_rock_salt_is_read_whole_and_without_a_remark():
    read = read_cif(WHOLE.encode())
    assert read.structure.formula == "Li4 F4"
    assert float(read.structure.density) == pytest.approx(DENSITY_LIF, rel=1e-3)
    assert read.remarks == []
    assert describe_checks(WHOLE.encode())[1] == []


# The text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        WHOLE.replace("\n", "\r\n").encode(),
        WHOLE.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + WHOLE.encode(),
        WHOLE.encode("utf-16"),
        WHOLE.replace("data_made", "data_made\n_publ_author_name 'M\u00fcller'").encode("latin-1"),
        WHOLE.replace("data_made", "# of #1\nDATA_made").replace("loop_", "LOOP_").encode(),
        WHOLE.replace("_cell_length_a", "_CELL_LENGTH_A").replace("fract_x", "Fract_X").encode(),
        WHOLE.replace("_cell_length_a", "_cell.length_a").replace("site_f", "site.f").encode(),
        WHOLE.replace("data_made", "data_made\n_note\n;\ndata_x 'it\nloop_ _a\n;").encode(),
        WHOLE.replace("data_made", "data_made\n_note 'it's # 5' # not\n_a \"b 'c\"").encode(),
        WHOLE.replace("data_made", "data_made\nloop_\n_empty\n_too").encode(),
        WHOLE.replace("data_made", "data_empty\ndata_made").encode(),
        WHOLE.replace("data_made", "data_a\nloop_\n_pd_meas\n1\n2\ndata_made").encode(),
        WHOLE.replace(" 4.027", "\n4.027(12)").encode(),
        WHOLE.replace(" 90", " .").encode(),  # whose default the dictionary says
        WHOLE.replace("0.5 0.5 0.5", ".5 +5e-1 1/2").encode(),
        (WHOLE + "#END").encode(),
    ],
)
def test_ways_of_writing_the_same(data):
    assert formula_of(data) == "Li4F4"
    assert read_first_cell(data) == CUBIC


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no data_ block"),
        ("\x00\xff", "before the first data_"),
        ("<html>not found</html>", "before the first data_"),
        ("data_x\n", "no _atom_site_fract_x"),
        (WHOLE[: WHOLE.index("F1 F") + 8], "a loop of 6 columns has"),
        (WHOLE.replace("F1 F 0.5", "F1 F"), "a loop of 6 columns has 11 values"),
        (WHOLE.replace("data_made", "data_made\n_note\n;\ntext"), "never closed"),
        (WHOLE.replace("_cell_length_b 4.027", ""), "no _cell_length_b"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b ?"), "_cell_length_b is not given"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b"), "_cell_length_b is not given"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b 4,027"), "decimal point is needed"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b 4.027 A"), "'4.027 A' is no number"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b nan"), "'nan' is no number"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b -4.027"), "_cell_length_b is -4.0"),
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b 1e-9"), "enclose no volume"),
        (WHOLE.replace("gamma 90", "gamma 180"), "_cell_angle_gamma is 180"),
        (WHOLE.replace("alpha 90", "alpha 2"), "A thin"),
        (WHOLE.replace("4.027", "402.7"), "are its lengths in angstrom?"),
        (WHOLE.replace("_cell_length_b", "_cell_length_a 5\n_cell_length_b"), "is there twice"),
        (WHOLE.replace("0.5 0.5 0.5", "0,5 0,5 0,5"), "x of F1: '0,5' is no number"),
        (WHOLE.replace("0.5 0.5 0.5", ". 0.5 0.5"), "x of F1 is not given ('.')"),
        (WHOLE.replace("0.5 0.5 0.5", "0.5 ? 0.5"), "y of F1 is not given ('?')"),
        (WHOLE.replace("0.5 0.5 0.5", "0.5 0.5 1e9"), "cells from the origin"),
        (WHOLE.replace("fract", "Cartn"), "Cartesian coordinates alone"),
        (WHOLE.replace("_cell_length_b", "stray\n_cell_length_b"), "'stray' belongs to no item"),
        (WHOLE.replace("data_made", "data_made\nloop_\n1 2"), "a loop_ without names"),
    ],
)
def test_what_cannot_be_read_has_a_reason(text, reason):
    assert reason in refusal_of(text)


def test_of_several_structures_the_first_is_taken_and_said():
    text = WHOLE + rock_salt(("Na1 Na 0 0 0 1",)).replace("data_made", "data_other")
    assert formula_of(text) == "Li4F4"
    assert "2 structures in one CIF: the first is taken" in remarks_on(text)


def test_a_value_of_several_words_is_read_as_one_and_said():
    text = rock_salt(symmetry="_symmetry_space_group_name_H-M F m -3 m")
    assert formula_of(text) == "Li4F4"
    assert "is taken for 'F m -3 m'" in remarks_on(text)


# Sites ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("Li", "Li"),
        ("Li+", "Li"),
        ("Li1+", "Li"),
        ("Li+1", "Li"),
        ("Fe2+", "Fe"),
        ("Fe(III)", "Fe"),
        ("O-2", "O"),
        ("O2-", "O"),
        ("D", "H"),
        ("LI", "Li"),
        ("CL", "Cl"),
        ("fe", "Fe"),
        ("Ow", "O"),
        (".", "Li"),
        ("?", "Li"),
        ("T", "H"),
    ],
)
def test_site_types_that_are_elements(kind, read):
    text = rock_salt((f"Li1A {kind} 0 0 0 1", LIF[1]))
    found = read_cif(text.encode())
    assert {str(e) for e in found.structure.elements} == {read, "F"}
    # Whatever is not the symbol of an element is said.
    assert bool(found.remarks) == (kind in ("LI", "CL", "fe", "Ow", "?", "T"))


@pytest.mark.parametrize(
    "kind", ["OH", "NH3", "NH", "CO", "X", "M", "Wat", "Nh", "Cn", "Q", "Lix", "Li/Na", "1", "H2O"]
)
def test_site_types_that_are_none_are_refused(kind):
    assert f"site type '{kind}' is no element" in refusal_of(
        rock_salt((f"A {kind} 0 0 0 1", LIF[1]))
    )


@pytest.mark.parametrize(
    ("label", "read"),
    [
        ("Li1", "Li"),
        ("Li1A", "Li"),
        ("Li_1", "Li"),
        ("Li(1)", "Li"),
        ("LI1", "Li"),
        ("Fe2+", "Fe"),
        ("O-2", "O"),
        ("O1W", "O"),
        ("OW1", "O"),
        ("Hw1", "H"),
        ("D1", "H"),
        ("Va1", None),
        ("Vac", None),
        ("SI1", "may be Si or S"),
        ("CA1", "may be Ca or C"),
        ("OH1", "begins with no element"),
        ("NH3", "begins with no element"),
        ("X1", "begins with no element"),
        ("M2", "begins with no element"),
        ("Wat1", "begins with no element"),
        ("?", "neither a type nor a label"),
    ],
)
def test_labels_where_there_are_no_types(label, read):
    columns = ("label", "fract_x", "fract_y", "fract_z")
    text = rock_salt((f"{label} 0 0 0", "F1 0.5 0.5 0.5"), columns=columns)
    if read is not None and " " in read:
        assert read in refusal_of(text)
        return
    found = read_cif(text.encode())
    assert {str(e) for e in found.structure.elements} == {read, "F"} - {None}
    assert ("hold no atom and are left out" in remarks_on(text)) == (read is None)


def test_a_label_in_capitals_is_told_apart_by_the_formula():
    columns = ("label", "fract_x", "fract_y", "fract_z")
    parts: dict[str, Any] = {"columns": columns, "more": {"_chemical_formula_sum": "'Ca4 O4'"}}
    assert formula_of(rock_salt(("CA1 0 0 0", "O1 0.5 0.5 0.5"), **parts)) == "Ca4O4"


@pytest.mark.parametrize(
    ("occupancy", "formula", "remark"),
    [
        ("1", "Li4F4", ""),
        (".", "Li4F4", ""),
        ("?", "Li4F4", "not known ('?') count as 1"),
        ("0.5", "Li2F4", ""),
        ("0.250(3)", "Li1F4", ""),
        ("1.005", "Li4F4", "counts as 1"),
        ("1.03(4)", "Li4F4", "counts as 1"),
        ("0", "F4", "hold no atom"),
        ("-0.5", None, "the occupancy of Li1 is -0.5, below 0"),
        ("1.2", None, "the occupancy of Li1 is 1.2, above 1"),
        ("1,0", None, "'1,0' is no number"),
        ("full", None, "'full' is no number"),
    ],
)
def test_occupancies(occupancy, formula, remark):
    text = rock_salt((f"Li1 Li 0 0 0 {occupancy}", LIF[1]))
    if formula is None:
        assert remark in refusal_of(text)
    else:
        assert formula_of(text) == formula
        assert remark in remarks_on(text) if remark else remarks_on(text) == ""


def test_sites_on_one_place_share_it_and_more_than_one_atom_is_refused():
    shared = ("Li1 Li 0 0 0 0.75", "Na1 Na 0 0 0 0.25", LIF[1])
    assert formula_of(rock_salt(shared)) == "Na1Li3F4"
    thirds = ("Li1 Li 0 0 0 0.334", "Na1 Na 0 0 0 0.334", "K1 K 0 0 0 0.334", LIF[1])
    assert "count as 1" in remarks_on(rock_salt(thirds))
    twice = (*LIF, "Na1 Na 0.5 0 0.5 1")  # an image of the Li
    assert "2.000 atoms are on the place of Li1, Na1" in refusal_of(rock_salt(twice))


def test_dummies_and_attached_hydrogen():
    columns = ("label", "fract_x", "fract_y", "fract_z", "calc_flag", "attached_hydrogens")
    atoms = ("Li1 0 0 0 d .", "O1 0.5 0.5 0.5 d 1", "Cen ? ? ? dum .")
    text = rock_salt(atoms, columns=columns)
    assert formula_of(text) == "Li4O4"
    assert "hydrogen is attached" in remarks_on(text)
    assert "(Cen)" in remarks_on(text)


def test_elements_of_the_cifs_own_formula_that_its_atoms_lack_are_said():
    text = rock_salt(more={"_chemical_formula_sum": "'H4 Li4 F4'"})
    assert "H: in the CIF's formula alone" in remarks_on(text)


# Symmetry -------------------------------------------------------------------------------------

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


FACE_CENTRED = ("x,y,z", "x,y+1/2,z+1/2", "X+.5, Y, Z+.5", "1/2+x,0.5+y,z")


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
    from pymatgen.symmetry.groups import SpaceGroup

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


# Damage ---------------------------------------------------------------------------------------

BYTES = st.sampled_from(b" '\"\n\r?.0-;#_9x\xff\x00,()/+")


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), BYTES), max_size=12),
    end=st.none() | st.integers(1, 10_000),
    listed=st.booleans(),
)
def test_no_damage_ends_in_anything_but_a_structure_or_a_reason(edits, end, listed):
    symmetry = operations(FACE_CENTRED) if listed else f"{H_M} 'F m -3 m'"
    whole = rock_salt(("Li1 Li 0 0 0 .", LIF[1]), symmetry=symmetry).encode()
    damaged = bytearray(whole)
    for at, byte in edits:
        damaged[at % len(damaged)] = byte
    data = bytes(damaged[: end and end % len(damaged)])
    structure, reason = None, ""
    try:
        structure, _ = read_structure(data)
    except ValueError as exc:
        reason = str(exc)
    assert (structure is None) == reason.startswith("CIF cannot be parsed (")
    assert "Error:" not in reason, "an exception of a library is no reason"
    assert structure is None or np.isfinite(structure.frac_coords).all()
    values, _ = describe_checks(data)
    assert len(values) == N_VALUES
    assert np.isfinite(values).all()


# Bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_atoms", "edge", "reason"),
    [
        (20_000, 40.0, "its cell has 20000 places or more"),
        (200, 5.0, "200 places are in a cell of 125 A^3"),
    ],
)
def test_too_much_for_a_cell_is_refused_before_it_is_computed(n_atoms, edge, reason):
    atoms = [f"Li{n} Li {n / n_atoms:.6f} 0.{n % 97:02d} 0.{n % 89:02d} 1" for n in range(n_atoms)]
    assert reason in refusal_of(cif((edge, edge, edge, 90, 90, 90), atoms))


def test_a_site_times_its_operations_is_bounded():
    atoms = [f"Li{n} Li 0.{n:03d} 0.{n * 7 % 1000:03d} 0.{n * 13 % 1000:03d} 1" for n in range(50)]
    assert "places or more" in refusal_of(rock_salt(atoms, (30.0, 30.0, 30.0, 90, 90, 90)))


def test_a_text_of_any_length_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("features.intake.cif_syntax.MAX_TEXT_BYTES", 100)
    assert "MB are more than" in refusal_of(WHOLE)
