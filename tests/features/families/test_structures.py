"""Features of cells and crystals against pymatgen, and against what can be worked out by hand."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from features.chemistry.cell_geometry import cell_volume
from features.chemistry.formulas import Compositions
from features.families.registry import FAMILIES
from features.families.structure.cell_shape import cell_shape
from features.families.structure.li_environment import describe_cif
from features.rows import Rows
from features.table import CsvSpec, FeatureTable, Target, build, read

# Edges in angstrom and angles in degrees.
CELLS = {
    "cubic": (4.027, 4.027, 4.027, 90.0, 90.0, 90.0),
    "hexagonal": (5.2, 5.2, 13.9, 90.0, 90.0, 120.0),
    "monoclinic": (5.1, 10.2, 8.3, 90.0, 126.6, 90.0),
    "triclinic": (5.5071, 6.0425, 5.5231, 116.912, 120.867, 62.234),
}

A_LIF, A_LI2O = 4.027, 4.619  # angstrom


def rock_salt() -> Structure:
    lattice = Lattice.cubic(A_LIF)
    sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    return Structure.from_spacegroup("Fm-3m", lattice, ["Li", "F"], sites)


def antifluorite() -> Structure:
    lattice = Lattice.cubic(A_LI2O)
    sites = [[0.25, 0.25, 0.25], [0.0, 0.0, 0.0]]
    return Structure.from_spacegroup("Fm-3m", lattice, ["Li", "O"], sites)


def cif_of(structure: Structure, symprec: float | None = None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, when symmetry is asked for
        return str(CifWriter(structure, symprec=symprec))


WHOLE_CIF = cif_of(Structure(Lattice.cubic(4.0), ["Li", "F"], [[0.0] * 3, [0.5] * 3])).encode()


def describe(structure: Structure, symprec: float | None = None) -> dict[str, float]:
    values, reasons = describe_cif(cif_of(structure, symprec).encode())
    assert reasons == []
    return dict(zip((name for name, _ in FAMILIES["li_environment"].fields), values, strict=True))


def table_of(folder: Path, lines: list[str], **settings: object) -> FeatureTable:
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    raw = {"dataset": "csv", "path": "data.csv", "id": "id", "test_fraction": 0.0, **settings}
    spec = CsvSpec.model_validate(raw)
    done = build(spec, data_dir=None, tables_dir=folder / "tables", base_dir=folder)
    return read(done.path)


def column(table: FeatureTable, name: str) -> np.ndarray:
    return np.asarray(table.X[:, table.feature_names.index(name)])


@pytest.mark.slow
@pytest.mark.parametrize("symprec", [None, 0.01])
def test_li_in_rock_salt(symprec):
    found = describe(rock_salt(), symprec)
    assert found["has_cif_struct"] == 1.0
    assert found["li_fraction"] == pytest.approx(0.5)
    assert found["li_concentration"] == pytest.approx(4 / A_LIF**3)
    assert found["framework_density"] == pytest.approx(4 / A_LIF**3)
    assert found["li_anion_distance"] == pytest.approx(2.0135)
    assert found["li_li_distance"] == pytest.approx(A_LIF / math.sqrt(2))
    assert found["li_coordination_number"] == 6.0
    assert found["li_site_multiplicity"] == 4.0


@pytest.mark.slow
def test_li_in_antifluorite():
    found = describe(antifluorite())
    assert found["li_fraction"] == pytest.approx(2 / 3)
    assert found["li_concentration"] == pytest.approx(8 / A_LI2O**3)
    assert found["framework_density"] == pytest.approx(4 / A_LI2O**3)
    assert found["li_anion_distance"] == pytest.approx(math.sqrt(3) / 4 * A_LI2O)
    assert found["li_li_distance"] == pytest.approx(A_LI2O / 2)
    assert found["li_coordination_number"] == 4.0
    assert found["li_site_multiplicity"] == 8.0


@pytest.mark.slow
def test_li_environment_does_not_depend_on_the_cell_chosen():
    primitive, supercell = antifluorite().get_primitive_structure(), antifluorite() * (2, 1, 1)
    here, there = describe(primitive), describe(supercell)
    for name in here.keys() - {"li_site_multiplicity"}:  # which counts atoms of the cell
        assert here[name] == pytest.approx(there[name], rel=1e-4), name
    assert (here["li_site_multiplicity"], there["li_site_multiplicity"]) == (2.0, 16.0)


def test_one_li_in_a_long_cell_sees_its_own_image():
    lattice = Lattice.orthorhombic(9.0, 10.0, 11.0)
    found = describe(Structure(lattice, ["Li", "O"], [[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]]))
    assert found["li_li_distance"] == pytest.approx(9.0)
    assert found["li_anion_distance"] == pytest.approx(1.8)
    assert found["li_coordination_number"] == 1.0


def test_half_occupied_li_counts_by_halves_and_has_no_distances():
    structure = rock_salt()
    structure.replace_species({"Li": {"Li": 0.5}})
    values, reasons = describe_cif(cif_of(structure).encode())
    assert values[:4] == pytest.approx([1.0, 1 / 3, 2 / A_LIF**3, 4 / A_LIF**3])
    assert values[4:] == [0.0] * 4
    assert any("disordered" in reason for reason in reasons)


def test_a_crystal_without_li_says_so():
    structure = rock_salt()
    structure.replace_species({"Li": "Na"})
    values, reasons = describe_cif(cif_of(structure).encode())
    assert values == [1.0] + [0.0] * 7
    assert any("no Li in the CIF" in reason for reason in reasons)


@pytest.mark.parametrize("name", CELLS)
def test_volume_agrees_with_pymatgen(name):
    assert cell_volume(*CELLS[name]) == pytest.approx(Lattice.from_parameters(*CELLS[name]).volume)


def test_angles_that_close_no_cell_have_no_volume():
    assert math.isnan(cell_volume(5.0, 5.0, 5.0, 60.0, 60.0, 150.0))
    assert math.isnan(cell_volume(5.0, 5.0, 5.0, 120.0, 120.0, 120.0))  # flat, but for rounding


@pytest.mark.parametrize("name", CELLS)
def test_density_agrees_with_pymatgen(tmp_path, name):
    # Two formula units of Li7BiO6, wherever the atoms may sit.
    species = ["Li"] * 14 + ["Bi"] * 2 + ["O"] * 12
    structure = Structure(Lattice.from_parameters(*CELLS[name]), species, np.zeros((28, 3)))
    lines = ["id,formula,target,a,b,c,alpha,beta,gamma,Z"]
    lines.append(f"x,Li7BiO6,1,{','.join(map(str, CELLS[name]))},2")
    table = table_of(tmp_path, lines, families=["cell"])
    assert column(table, "density")[0] == pytest.approx(float(structure.density), rel=1e-6)
    assert column(table, "volume_per_atom")[0] == pytest.approx(structure.volume / 28, rel=1e-8)
    assert table.X[0, 2:].tolist() == [14.0, 2.0]


def test_space_groups_are_one_hot(tmp_path):
    numbers = [1, 2, 62, 225, 230]
    lines = ["id,formula,target,space_group"]
    lines += [f"r{number},Li{number}O,1,{number}" for number in numbers]
    table = table_of(tmp_path, [*lines, "none,LiF,1,"], families=["space_group"])
    assert set(np.unique(table.X)) == {0.0, 1.0}
    assert table.X[:-1].sum(axis=1).tolist() == [1.0] * 5
    assert (table.X[:-1].argmax(axis=1) + 1).tolist() == numbers
    assert table.feature_names[61] == "sg_62"
    assert table.X[-1].sum() == 0.0
    assert [row.id for row in table.partial] == ["none"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A row per cell in CELLS, one that is nearly cubic and one whose CIF has no cell."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "cifs").mkdir()
    nearly = (4.0, 4.02, 4.0, 90.0, 90.5, 90.0)
    for name, cell in {**CELLS, "nearly": nearly, "skewed": (4, 4, 4, 90, 91.5, 90)}.items():
        structure = Structure(Lattice.from_parameters(*cell), ["Li"], [[0, 0, 0]])
        (folder / "cifs" / f"{name}.cif").write_text(cif_of(structure))
    (folder / "cifs" / "broken.cif").write_text("data_x\n_cell_length_a ?\n")
    names = [*CELLS, "nearly", "skewed", "broken", "absent"]
    lines = ["id,formula,target", *(f"{name},LiF,{n}" for n, name in enumerate(names))]
    families = ["cell_shape", "li_environment"]
    return table_of(folder, lines, families=families, cifs="cifs", failed_structures="use")


def test_cell_shape(shapes):
    found = dict(zip(shapes.ids.tolist(), shapes.X[:, :4].tolist(), strict=True))
    assert found["cubic"] == [1.0, 1.0, 0.0, 1.0]
    assert found["hexagonal"] == pytest.approx([1.0, 13.9 / 5.2, 10.0, 0.0])
    assert found["monoclinic"] == pytest.approx([2.0, 8.3 / 10.2, 12.2, 0.0])
    assert found["triclinic"] == pytest.approx(
        [6.0425 / 5.5071, 5.5231 / 6.0425, (26.912 + 30.867 + 27.766) / 3, 0.0], rel=1e-6
    )
    assert found["nearly"][3] == 1.0
    assert found["skewed"][3] == 0.0
    assert found["broken"] == found["absent"] == [0.0] * 4


def test_a_broken_and_an_absent_cif_are_accounted_for_in_each_family(shapes):
    for family in ("cell_shape", "li_environment"):
        said = {row.id: row.reason for row in shapes.partial if row.family == family}
        assert said["*"].startswith("a CIF that is left out for 1 of 8 rows (broken)")
    said = {row.id: row.reason for row in shapes.partial if row.family == "cif"}
    assert said["broken"].startswith("left out: CIF cannot be parsed")
    assert said["cubic"].startswith("used: composition: 0.0 at-% F in the CIF, 50.0 in the formula")
    assert any(row.reason.startswith("no CIF for 1 of 8 rows (absent)") for row in shapes.partial)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("_cell_length_b ", "_cell_length_b ?\n#", "_cell_length_b is not given"),
        ("_cell_angle_beta ", "_cell_angle_beta -", "is no number"),
        ("loop_\n", "loop_\n1 2\n", "a loop_ without names"),
        ("_cell_length_a ", "stray\n_cell_length_a ", "'stray' belongs to no item"),
    ],
)
def test_a_damaged_cif_is_a_remark(tmp_path, good, bad, said):
    (tmp_path / "cifs").mkdir()
    whole = cif_of(rock_salt())
    assert good in whole
    (tmp_path / "cifs" / "whole.cif").write_text(whole)
    (tmp_path / "cifs" / "damaged.cif").write_text(whole.replace(good, bad, 1))
    lines = ["id,formula,target", "whole,LiF,1", "damaged,LiF,2"]
    table = table_of(tmp_path, lines, families=["cell_shape"], cifs="cifs")
    assert table.X[0].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert {row.id for row in table.partial} == {"damaged", "*"}
    assert said in "\n".join(row.reason for row in table.partial)


@pytest.mark.parametrize(
    "cell",
    [{"_cell_angle_alpha": "0.0"}, {"_cell_angle_gamma": "180"}, {"_cell_length_a": "1e-9"}],
)
def test_a_cell_without_volume_is_a_reason_and_never_reaches_the_symmetry_search(cell):
    text = WHOLE_CIF.decode()
    for key, value in cell.items():
        text, n_edits = re.subn(rf"^{key} .*$", f"{key} {value}", text, flags=re.MULTILINE)
        assert n_edits == 1
    values, reasons = describe_cif(text.encode())
    assert values == [0.0] * 8
    assert "CIF cannot be parsed" in reasons[0]


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(b" '\"\n?.0-;#_9x\xff\x00"))),
    end=st.none() | st.integers(0, 10_000),
)
def test_no_damage_to_a_cif_is_fatal(edits, end):
    damaged = bytearray(WHOLE_CIF)
    for at, byte in edits:
        damaged[at % len(damaged)] = byte
    cif = bytes(damaged[: end and end % len(damaged)])
    rows = Rows(
        ids=("x",),
        sources=("made.csv",),
        lines=(2,),
        formulas=("LiF",),
        amounts=Compositions.of([{"Li": 1.0, "F": 1.0}]),
        y=np.zeros(1),
        is_coerced=np.zeros(1, dtype=bool),
        groups=("x",),
        is_train=np.ones(1, dtype=bool),
        target=Target("made"),
        cifs=(cif,),
    )
    block = cell_shape(rows, lambda line: None)
    assert np.isfinite(block.values).all()
    assert block.values.any() or block.remarks
    values, reasons = describe_cif(cif)
    assert np.isfinite(values).all()
    assert values[0] == 1.0 or reasons


def test_every_family_has_the_agreed_number_of_columns():
    counts = {name: family.n_columns for name, family in FAMILIES.items()}
    assert counts == {
        "ratios": 3,
        "smact": 103,
        "magpie": 22,
        "mat2vec": 200,
        "megnet16": 16,
        "magpie_statistics": 132,
        "valence_orbitals": 8,
        "stoichiometry": 6,
        "li_chemistry": 17,
        "sigma_is_coerced": 1,
        "cell": 4,
        "lattice": 7,
        "cell_shape": 4,
        "li_environment": 8,
        "physics_report": 8,
        "bond_valence": 9,
        "ewald": 5,
        "li_voronoi": 7,
        "bonds": 9,
        "bvse": 7,
        "coordination": 4,
        "space_group": 230,
    }
