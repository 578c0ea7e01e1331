"""CIFs of every kind that there is: read as they are meant, or refused with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.intake.cifs import read_cif, read_first_cell, read_structure
from features.intake.structure_checks import N_VALUES, describe_checks
from tests.support.tables.cif_texts import (
    CUBIC,
    FACE_CENTRED,
    LIF,
    ROCK_SALT_GROUP,
    cif,
    formula_of,
    operations,
    refusal_of,
    remarks_on,
    rock_salt,
)

HEXAGONAL = (4.0, 4.0, 8.0, 90, 90, 120)
DENSITY_LIF = 2.638  # g/cm^3
WHOLE = rock_salt()


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
        (WHOLE.replace("_cell_length_b 4.027", "_cell_length_b 1e999"), "'1e999' is no number"),
        (WHOLE.replace("_cell_length_b 4.027", f"_cell_length_b {'9' * 400}"), "is no number"),
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


# Damage ---------------------------------------------------------------------------------------

BYTES = st.sampled_from(b" '\"\n\r?.0-;#_9x\xff\x00,()/+")


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), BYTES), max_size=12),
    end=st.none() | st.integers(1, 10_000),
    listed=st.booleans(),
)
def test_no_damage_ends_in_anything_but_a_structure_or_a_reason(edits, end, listed):
    symmetry = operations(FACE_CENTRED) if listed else ROCK_SALT_GROUP
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
