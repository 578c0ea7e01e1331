"""The four checks of a structure: what fails them, with which figures, and what does not."""

from __future__ import annotations

import pytest

from features.chemistry.elements import ELEMENTS
from features.intake.structure_checks import check_composition, describe_checks
from tests.support.tables.cif_texts import CUBIC, LIF, cif, operations, rock_salt

H_M = "_symmetry_space_group_name_H-M"
PRIMITIVE = ("Li1 Li 0 0 0 1", "F1 F 0.5 0.5 0.5 1")


def failed(text: str) -> list[str]:
    values, reasons = describe_checks(text.encode())
    assert values[-1] == 1.0, reasons
    return reasons


def fractions_of(text: str) -> dict[str, float]:
    values, _ = describe_checks(text.encode())
    return {s: v for s, v in zip(ELEMENTS, values, strict=False) if v > 0.0}


# Composition ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        ({"Li": 1.0, "F": 1.0}, None),
        ({"Li": 12.0, "F": 12.0}, None),
        ({"Li": 0.9, "Na": 0.1, "F": 1.0}, None),  # 5 at-% of the parent's Li
        ({"Li": 0.88, "Na": 0.12, "F": 1.0}, "50.0 at-% Li in the CIF, 44.0 in the formula"),
        ({"Li": 7.0, "La": 3.0, "Zr": 2.0, "O": 12.0}, "50.0 at-% F in the CIF, 0.0"),
        ({"Li": 1.0, "F": 1.0, "H": 1.0}, "0.0 at-% H in the CIF, 33.3 in the formula"),
    ],
)
def test_composition_is_compared_with_the_row(amounts, said):
    reasons = check_composition(fractions_of(rock_salt()), amounts)
    assert bool(reasons) == (said is not None)
    assert said is None or (reasons[0].startswith("composition: ") and said in reasons[0])


@pytest.mark.parametrize("isotope", ["D", "T", "H"])
def test_isotopes_are_hydrogen_and_occupancies_count(isotope):
    text = rock_salt((f"H1 {isotope} 0 0 0 0.5", LIF[1]))
    assert fractions_of(text) == pytest.approx({"H": 1 / 3, "F": 2 / 3})


# Distances ------------------------------------------------------------------------------------

LARGE = (6.0, 6.0, 6.0, 90, 90, 90)


@pytest.mark.parametrize(
    ("atoms", "fails"),
    [
        (("Li1 Li 0 0 0 1", "O1 O 0.15 0 0 1"), True),  # 0.9 A
        (("Li1 Li 0 0 0 1", "O1 O 0.3 0 0 1"), False),  # 1.8 A
        (("Li1 Li 0 0 0 1", "Li2 Li 0.95 0 0 1"), True),  # through the wall
        (("Li1 Li 0 0 0 0.5", "Li2 Li 0.1 0 0 0.5"), False),  # halves of a split position
        (("Li1 Li 0 0 0 0.55", "Li2 Li 0.1 0 0 0.55"), False),  # the same, as well as refined
        (("Li1 Li 0 0 0 0.7", "Li2 Li 0.1 0 0 0.6"), True),
        (("Li1 Li 0 0 0 0.3", "O1 O 0.15 0 0 1"), True),
        (("O1 O 0 0 0 1", "H1 H 0.16 0 0 1"), False),  # 0.96 A
        (("O1 O 0 0 0 1", "D1 D 0.05 0 0 1"), True),
        (("Li1 Li 0 0 0 0.5", "Na1 Na 0 0 0 0.5", "O1 O 0.4 0 0 1"), False),  # one place
        (("C1 C 0 0 0 1", "N1 N 0.19 0 0 1"), False),  # cyanide, 1.14 A
        (("V1 V 0 0 0 1", "O1 O 0.263 0 0 1"), False),  # vanadyl, 1.58 A
    ],
)
def test_atoms_that_are_there_together_need_room(atoms, fails):
    reasons = [line for line in failed(cif(LARGE, atoms)) if line.startswith("distance")]
    assert bool(reasons) == fails
    assert not fails or ("A apart" in reasons[0] and "is the least" in reasons[0])


def test_atoms_of_a_wrong_symmetry_clash():
    """Fluorite's operations without the centring put what belongs into one place twice."""
    text = rock_salt(("Li1 Li 0.03 0 0 1", LIF[1]))
    assert any("distance: Li and Li are 0.17 A apart" in line for line in failed(text))


# Density and cell -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"cell": [40.27, 40.27, 40.27, 90, 90, 90]}, "density 0.00264 g/cm^3, not between"),
        ({"cell": [2.0, 2.0, 2.0, 90, 90, 90]}, "volume per atom 1 A^3"),
        ({"more": {"_cell_volume": "65.30(2)"}}, None),
        ({"more": {"_cell_volume": "130.6"}}, "_cell_volume is 130.6, and 65.3 follows"),
        ({"more": {"_exptl_crystal_density_diffrn": "2.64"}}, None),
        ({"more": {"_exptl_crystal_density_diffrn": "1.32"}}, "_diffrn is 1.32, and 2.638 follows"),
        ({"more": {"_exptl_crystal_density_diffrn": "?"}}, None),
        ({"more": {"_cell_volume": "about 65"}}, None),
    ],
)
def test_density_and_cell(changes, said):
    reasons = [line for line in failed(rock_salt(**changes)) if line.startswith("cell")]
    assert bool(reasons) == (said is not None)
    assert said is None or said in reasons[0]


def test_an_angle_that_hardly_opens_the_cell():
    text = cif((30, 30, 8, 90, 90, 8), PRIMITIVE)
    assert any("angle gamma 8 degrees, not between 10 and 170" in line for line in failed(text))


# Symmetry -------------------------------------------------------------------------------------

CENTRED = operations(["x,y,z", "x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "x+1/2,y+1/2,z"])


@pytest.mark.parametrize(
    ("symmetry", "said"),
    [
        (CENTRED, None),
        (
            f"{CENTRED}\n{H_M} 'F m -3 m'",
            "'F m -3 m' is space group 225, and its 4 operations make 1",
        ),
        (
            f"{CENTRED}\n_space_group_IT_number 2",
            "'2' is space group 2, and its 4 operations make 1",
        ),
        (f"{CENTRED}\n{H_M} 'P 1'", None),
        (f"{CENTRED}\n{H_M} 'of my own'", None),  # that name says nothing
        (operations(["x,y,z", "x,y+1/2,z+1/2", "x+1/2,y,z+1/2"]), "the 3 operations listed are no"),
        (operations(["-x,-y,-z"]), "the 1 operations listed are no group"),
        (f"{H_M} 'F m -3 m'\n_space_group_IT_number 216", "'216' is space group 216"),
        ("_note none", "none is given, neither operations nor a space group"),
        (f"{H_M} ?", "none is given"),
        ("_space_group_magn.name_BNS \"P4/mm'm'\"", "of a magnetic structure alone"),
        (f"{H_M} 'P 63/m m c'", "changes the cell by"),
    ],
)
def test_symmetry_is_compared_with_itself(symmetry, said):
    reasons = [line for line in failed(rock_salt(symmetry=symmetry)) if "symmetry: " in line]
    assert bool(reasons) == (said is not None)
    assert said is None or said in reasons[0]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ((4.0, 4.0, 4.01, 90, 90, 90), None),  # as well as measured
        ((4.0, 4.0, 4.4, 90, 90, 90), "operation"),
        ((4.0, 4.0, 4.0, 90, 90, 92), "operation"),
    ],
)
def test_the_cell_is_that_of_the_group(cell, said):
    reasons = [line for line in failed(rock_salt(cell=cell)) if "changes the cell by" in line]
    assert bool(reasons) == (said is not None)


MULTIPLICITY = ("label", "type_symbol", "symmetry_multiplicity", "fract_x", "fract_y", "fract_z")


@pytest.mark.parametrize(
    ("multiplicities", "said"),
    [
        (("4", "4"), None),
        (("48", "48"), None),  # the order of the site symmetry, as some programs have it
        (("?", "?"), None),
        (("8", "4"), "Li1 has 4 places, and the CIF says 8"),
    ],
)
def test_multiplicities_are_those_that_the_file_lists(multiplicities, said):
    atoms = [
        f"Li1 Li {multiplicities[0]} 0 0 0",
        f"F1 F {multiplicities[1]} 0.5 0.5 0.5",
    ]
    reasons = failed(rock_salt(atoms, columns=MULTIPLICITY))
    assert reasons == ([] if said is None else [f"symmetry: {said}"])


def test_several_failures_are_all_said():
    text = rock_salt(cell=[40.27, *CUBIC[1:]], more={"_cell_volume": "65.3"})
    assert [line.split(":")[0] for line in failed(text)] == ["cell", "symmetry"]
