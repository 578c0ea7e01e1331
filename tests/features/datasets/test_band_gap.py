"""Band gaps: measured, computed, and of crystals that are shipped with their structures."""

from __future__ import annotations

import gzip
import json
import sys
import types
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from features.datasets import materials_project as mp
from features.datasets.binary_crystals import build_crystal, read_crystals
from features.errors import DatasetError
from features.families.registry import FAMILIES
from features.families.structure.bonds import describe_bonds
from features.intake.cifs import read_structure
from features.intake.csv_parsing import parse_csv
from features.table import BandGapSpec, build, read
from tests.support.requirements import SHARED_DATA, unavailable

BONDS = [name for name, _ in FAMILIES["bonds"].fields]


@pytest.fixture(autouse=True)
def nothing_of_the_user(tmp_path, monkeypatch):
    """No key and no stored query but the test's own."""
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table_of(tmp_path, data_dir, families=("ratios",), log=None, **settings):
    spec = BandGapSpec(dataset="band_gap", families=families, **settings)
    built = build(
        spec, data_dir=data_dir, tables_dir=tmp_path / "tables", base_dir=tmp_path, log=log
    )
    return read(built.path), built


# --- Measured gaps --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured_dir():
    folder = SHARED_DATA / "bandgap"
    if not (folder / "expt_gap.csv").is_file():
        unavailable(
            "data", f"no expt_gap.csv in {folder}; set HPO_TEST_DATA to the folder above it"
        )
    return folder.parent


def test_measured_gaps_are_split_alike_whatever_is_trained_on(tmp_path, measured_dir):
    everything, _ = table_of(tmp_path, measured_dir)
    both, built = table_of(tmp_path, measured_dir, test_metals=False)
    others, _ = table_of(tmp_path, measured_dir, test_metals=False, train_metals=False)
    assert (everything.n_rows, both.n_rows, others.n_rows) == (4598, 4108, 2149)
    held_out = set(everything.ids[~everything.is_train & (everything.y > 0)])
    assert set(both.test.ids) == set(others.test.ids) == held_out
    assert set(others.train.ids) == set(both.ids[both.is_train & (both.y > 0)])
    for of_kind in (everything.y == 0, everything.y > 0):
        assert (~everything.is_train[of_kind]).mean() == pytest.approx(0.2, abs=0.001)
    assert (everything.target.name, everything.target.unit) == ("band_gap", "eV")
    reasons = Counter(row.reason.split(":")[0] for row in built.skipped)
    assert reasons == {
        "a metal (gap 0), left out of the held-out rows (test_metals = false)": 490,
        "a composition with gaps further apart than 0.1 eV": 6,
    }


def test_whether_a_material_is_a_metal_is_a_target_of_two_classes(tmp_path):
    (tmp_path / "expt_gap.csv").write_text(GAPS)
    gaps, _ = table_of(tmp_path, tmp_path, test_fraction=0.0)
    table, _ = table_of(tmp_path, tmp_path, test_fraction=0.0, target="is_metal")
    assert (table.target.name, table.target.classes) == ("is_metal", ("no", "yes"))
    assert table.y.tolist() == (gaps.y == 0.0).astype(float).tolist()


def test_whole_systems_are_held_out_on_demand(tmp_path, measured_dir):
    by_row, _ = table_of(tmp_path, measured_dir)
    by_system, _ = table_of(tmp_path, measured_dir, split="systems")
    assert set(by_row.train.groups) & set(by_row.test.groups)
    assert not set(by_system.train.groups) & set(by_system.test.groups)
    assert (~by_system.is_train).mean() == pytest.approx(0.2, abs=0.001)
    assert np.sum(by_row.groups == "Ge-Si") == 23


GAPS = """formula,target
Ag2S,1.0
Ag4S2,1.06
CuS,0
Cu2S2,0.5
GaAs,1.4
ZnO,3.3
Fe,0
Co,0
Xx,1
"""


def test_compositions_that_agree_are_one_row_and_those_that_do_not_are_none(tmp_path):
    (tmp_path / "expt_gap.csv").write_text(GAPS)
    table, built = table_of(tmp_path, tmp_path, test_fraction=0.0)
    found = dict(zip(table.formulas.tolist(), table.y.tolist(), strict=True))
    assert found == pytest.approx({"Ag2S": 1.03, "GaAs": 1.4, "ZnO": 3.3, "Fe": 0.0, "Co": 0.0})
    said = {row.line: row.reason for row in built.skipped}
    assert said[3] == "the composition of line 2, which has the median of their gaps"
    assert said[4] == said[5]
    assert said[4].endswith("further apart than 0.1 eV: CuS 0, Cu2S2 0.5")
    assert "'Xx'" in said[10]


def test_metals_are_left_out_of_either_side_with_a_reason(tmp_path):
    rows = "".join(f"Li{i}O,{float(i % 2)}\n" for i in range(1, 41))
    (tmp_path / "expt_gap.csv").write_text("formula,target\n" + rows)
    table, built = table_of(tmp_path, tmp_path, train_metals=False)
    assert (table.train.y > 0).all()
    assert (table.test.y == 0).sum() == (table.test.y > 0).sum() == 4
    assert len(built.skipped) == 16
    assert all("training rows (train_metals = false)" in row.reason for row in built.skipped)
    (tmp_path / "expt_gap.csv").write_text("formula,target\nFe,0\nCo,0\n")
    with pytest.raises(DatasetError, match="all rows are metals"):
        table_of(tmp_path, tmp_path, train_metals=False, test_metals=False)


def test_without_data_or_key_it_is_said_what_to_give(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder was given; give its folder \(--data DIR"):
        table_of(tmp_path, None)
    with pytest.raises(DatasetError, match=r"neither .* nor its bandgap/ holds it"):
        table_of(tmp_path, tmp_path, source="measured")
    with pytest.raises(DatasetError, match="asked with a key, and MP_API_KEY has none; set it"):
        table_of(tmp_path, tmp_path, source="materials_project")
    with pytest.raises(ValueError, match="'bonds' needs structures, which source 'auto' need not"):
        BandGapSpec(dataset="band_gap", families=("bonds",))


# --- Materials Project ----------------------------------------------------------------------------


def silicon(a=5.43):
    return build_crystal("Si", "diamond", a, a)


def stretched():
    """Silicon with its atoms too far from one another."""
    return Structure(Lattice.cubic(9.0), ["Si", "Si"], [[0.0] * 3, [0.5] * 3])


def entry(material_id, structure, energy, gap=1.0):
    return mp.Entry(material_id, structure.composition.reduced_formula, gap, energy, structure)


@pytest.fixture
def entries():
    lonely = Structure(
        Lattice.tetragonal(4.0, 14.0),
        ["Na", "Cl", "Cs"],
        [[0.0] * 3, [0.5, 0.5, 0.1], [0.0, 0.0, 0.5]],
    )
    return [
        entry("mp-3", silicon(), 0.0, 0.61),
        entry("mp-1", silicon(5.6), 0.05, 0.4),
        entry("mp-4", build_crystal("NaCl", "rocksalt", 5.64, 5.64), 0.0, 5.0),
        entry("mp-5", build_crystal("AlAs", "zincblende", 5.66, 5.66), 0.0, 1.5),
        entry("mp-6", build_crystal("Mg2Si", "fluorite", 6.35, 6.35), 0.0, 0.2),
        entry("mp-7", lonely, 0.0, 7.0),
    ]


def test_an_atom_is_isolated_if_nothing_is_within_four_angstrom(entries):
    assert not mp.has_isolated_atoms(silicon())
    assert mp.has_isolated_atoms(stretched())
    # Caesium's own images are 4.0 and more away from it, all other atoms further.
    lonely = entries[-1].structure
    assert not mp.has_isolated_atoms(lonely)
    lonely.scale_lattice(lonely.volume * 1.01)
    assert mp.has_isolated_atoms(lonely)
    assert not mp.has_isolated_atoms(Structure(Lattice.cubic(3.9), ["Po"], [[0, 0, 0]]))


def test_cleaning_keeps_the_lowest_polymorph_and_then_looks_for_isolated_atoms(entries):
    entries.append(entry("mp-8", stretched(), -0.2))
    kept = {e.material_id: e.left_out for e in mp.clean(entries)}
    assert list(kept) == sorted(kept)
    # The lowest silicon has isolated atoms: no other takes its place.
    assert kept["mp-8"] == "an atom has no other within 4 angstrom"
    assert (
        kept["mp-1"] == kept["mp-3"] == ("mp-8 is the polymorph of this composition that is lowest")
    )
    assert [name for name, reason in kept.items() if not reason] == ["mp-4", "mp-5", "mp-6", "mp-7"]


def test_what_is_stored_is_matminers_and_comes_back(tmp_path, entries):
    from matminer.utils.io import load_dataframe_from_json

    path = tmp_path / "new" / mp.FILE_NAME
    mp.store(mp.clean(entries), path)
    assert [item.name for item in path.parent.glob("*") if item.name != ".tmp"] == [path.name]
    frame = load_dataframe_from_json(str(path), pbar=False)
    assert frame.loc[frame.material_id == "mp-3", "structure"].item() == silicon()
    loaded = {e.material_id: e for e in mp.load(path.read_bytes())}
    assert (loaded["mp-1"].structure, loaded["mp-3"].left_out) == (None, "")
    cif = mp.write_cif(loaded["mp-3"].structure)
    again, _ = read_structure(cif)
    assert again.volume == pytest.approx(silicon().volume, rel=1e-6)
    for damaged in (b"", path.read_bytes()[:200], gzip.compress(b"[]")):
        with pytest.raises(DatasetError, match="damaged or none of ours"):
            mp.load(damaged)


def test_a_stored_query_is_read_offline_with_its_structures(tmp_path, entries):
    mp.store(mp.clean(entries), tmp_path / mp.FILE_NAME)
    said: list[str] = []
    table, built = table_of(
        tmp_path,
        tmp_path,
        ("magpie_statistics", "bonds"),
        source="materials_project",
        test_fraction=0.0,
        log=said.append,
    )
    assert table.ids.tolist() == ["mp-3", "mp-4", "mp-5", "mp-6", "mp-7"]
    assert table.y.tolist() == [0.61, 5.0, 1.5, 0.2, 7.0]
    length = table.X[0, table.feature_names.index("bond_length_avg")]
    assert length == pytest.approx(5.43 * np.sqrt(3) / 4, abs=1e-5)
    assert [(row.id, row.line) for row in built.skipped] == [("mp-1", 2)]
    assert "computed gaps" in said[0]
    # Where there is a choice, what is stored is taken; with its name, the measured gaps.
    (tmp_path / "expt_gap.csv").write_text(GAPS)
    assert table_of(tmp_path, tmp_path, test_fraction=0.0)[0].n_rows == 5
    measured, _ = table_of(tmp_path, tmp_path, source="measured", test_fraction=0.0)
    assert "ZnO" in measured.formulas.tolist()


class Client:
    """Stands in for the network: answers with documents, and remembers what it was asked."""

    asked: ClassVar[dict[str, Any]] = {}
    documents: ClassVar[list[Any]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, api_key, **settings):
        Client.asked = {"key": api_key, **settings}
        self.materials = types.SimpleNamespace(summary=self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def search(self, **criteria):
        Client.asked |= criteria
        if Client.error:
            raise Client.error
        return Client.documents


@pytest.fixture
def client(monkeypatch, entries):
    module = types.ModuleType("mp_api.client")
    setattr(module, "MPRester", Client)  # noqa: B010
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.setattr(mp, "version", lambda name: "0.0")
    monkeypatch.setenv("MP_API_KEY", " secret ")
    Client.error = None
    Client.documents = [
        types.SimpleNamespace(
            material_id=e.material_id,
            formula_pretty=e.formula,
            band_gap=e.band_gap,
            energy_above_hull=e.energy_above_hull,
            structure=e.structure,
        )
        for e in entries
    ]
    return Client


def test_with_a_key_materials_project_is_asked_once(tmp_path, client):
    said: list[str] = []
    first, _ = table_of(tmp_path, None, log=said.append, test_fraction=0.0)
    assert client.asked["key"] == "secret"
    assert client.asked["has_props"] == ["bandstructure"]
    assert set(client.asked["fields"]) >= {"structure", "energy_above_hull", "band_gap"}
    assert any("MP_API_KEY is set, asking Materials Project" in line for line in said)
    assert any("6 entries, 5 of them kept" in line for line in said)
    client.error = ConnectionError("no network")
    again, built = table_of(tmp_path, None, test_fraction=0.0)
    assert built.reused
    assert again.ids.tolist() == first.ids.tolist() == ["mp-3", "mp-4", "mp-5", "mp-6", "mp-7"]


def test_what_goes_wrong_in_asking_is_told_with_the_ways_out(tmp_path, client, monkeypatch):
    client.error = ConnectionError("no\nnetwork")
    with pytest.raises(DatasetError, match=r"could not ask .*ConnectionError: no network\); check"):
        table_of(tmp_path, None)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(DatasetError, match="mp-api, which asks Materials Project, is not inst"):
        table_of(tmp_path, None)
    assert not (tmp_path / "cache").exists()


def test_mp_api_takes_what_it_is_asked_with():
    import inspect

    summary = pytest.importorskip("mp_api.client.routes.materials.summary")
    emmet = pytest.importorskip("emmet.core.summary")
    taken = inspect.signature(summary.SummaryRester.search).parameters
    assert {"has_props", "deprecated", "all_fields", "fields"} <= set(taken)
    assert set(mp._FIELDS) <= set(emmet.SummaryDoc.model_fields)
    assert "bandstructure" in [prop.value for prop in emmet.HasProps]


# --- Crystals that are shipped --------------------------------------------------------------------

SPACE_GROUPS = {
    "diamond": 227,
    "zincblende": 216,
    "rocksalt": 225,
    "fluorite": 225,
    "caesium chloride": 221,
    "wurtzite": 186,
}
# Measured, in g/cm^3: CRC Handbook of Chemistry and Physics, 97th ed.
DENSITIES = {"Si": 2.33, "Ge": 5.32, "GaAs": 5.32, "NaCl": 2.17, "CsCl": 3.99, "CaF2": 3.18}
DENSITIES |= {"ZnO": 5.6, "PbS": 7.6, "MgO": 3.6, "CdTe": 5.85, "InSb": 5.77, "AgBr": 6.47}


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_crystals_have_the_symmetry_and_density_of_the_real_ones():
    table, cifs = read_crystals()
    csv = parse_csv(table.name, table.data)
    assert len(csv.records) == len(cifs.cifs) == 69
    for record in csv.records:
        formula, structure = record.fields[:2]
        made, mended = read_structure(cifs.cifs[formula])
        assert mended == []
        given = Composition(formula).fractional_composition
        assert made.composition.fractional_composition.almost_equals(given)
        assert SpacegroupAnalyzer(made).get_space_group_number() == SPACE_GROUPS[structure]
        if formula in DENSITIES:
            assert made.density == pytest.approx(DENSITIES[formula], rel=0.02), formula


def test_shipped_crystals_need_no_data(tmp_path):
    table, built = table_of(tmp_path, None, ("bonds",), source="binary_crystals", test_fraction=0.0)
    gaps = dict(zip(table.formulas.tolist(), table.y.tolist(), strict=True))
    assert (gaps["Si"], gaps["Ge"], gaps["LiF"], len(gaps)) == (1.12, 0.66, 13.6, 69)
    assert not built.skipped
    assert not built.partial


def test_a_structure_that_does_not_fit_its_formula_is_refused():
    with pytest.raises(DatasetError, match="Si: unknown structure 'spinel'; there are: diamond"):
        build_crystal("Si", "spinel", 5.0, 5.0)
    with pytest.raises(DatasetError, match="diamond has 1 elements, the formula 2"):
        build_crystal("SiC", "diamond", 5.0, 5.0)


# --- Bonds ----------------------------------------------------------------------------------------


def bonds_of(structure):
    values, reasons = describe_bonds(mp.write_cif(structure.as_dict()))
    assert len(values) == len(BONDS)
    return dict(zip(BONDS, values, strict=True)), reasons


@pytest.mark.parametrize(
    ("formula", "structure", "length", "bonds", "unlike"),
    [
        ("Si", "diamond", np.sqrt(3) / 4, 4, 0),
        ("GaAs", "zincblende", np.sqrt(3) / 4, 4, 1),
        ("NaCl", "rocksalt", 0.5, 6, 1),
        ("CsI", "caesium chloride", np.sqrt(3) / 2, 8, 1),
        ("CaF2", "fluorite", np.sqrt(3) / 4, 16 / 3, 1),
    ],
)
def test_bonds_of_simple_structures(formula, structure, length, bonds, unlike):
    made = build_crystal(formula, structure, 5.5, 5.5)
    found, reasons = bonds_of(made)
    assert reasons == []
    assert found["bond_length_avg"] == pytest.approx(5.5 * length, abs=1e-6)
    assert found["bond_length_std"] == pytest.approx(0.0, abs=1e-6)
    assert (found["bonds_per_atom"], found["bonds_unlike"]) == (pytest.approx(bonds), unlike)
    assert found["bond_atom_volume"] == pytest.approx(made.volume / len(made))


def test_bonds_tell_orderings_of_one_composition_apart_but_not_choices_of_cell():
    zincblende = build_crystal("SiGe", "zincblende", 5.5, 5.5)
    layered = zincblende * (1, 1, 2)
    bigger, _ = bonds_of(layered)
    found, _ = bonds_of(zincblende)
    assert bigger == pytest.approx(found, abs=1e-6)
    for site, symbol in enumerate(["Si", "Si", "Si", "Ge"] if len(layered) == 4 else []):
        layered.replace(site, symbol)
    other, _ = bonds_of(layered)
    assert found["bonds_unlike"] == 1.0
    assert 0.0 < other["bonds_unlike"] < 1.0
    assert found["bond_electronegativity_avg"] == pytest.approx(2.01 - 1.90)


def test_a_wide_cell_is_searched_further_and_what_has_no_bonds_says_so():
    wide = Structure(Lattice.cubic(7.0), ["Ar"], [[0, 0, 0]])
    found, reasons = bonds_of(wide)
    assert (found["bond_length_avg"], found["bonds_per_atom"]) == (7.0, 6.0)
    assert any("electronegativity of Ar" in reason for reason in reasons)
    for structure, reason in (
        (Structure(Lattice.cubic(20.0), ["Na"], [[0, 0, 0]]), "no two atoms are within 16"),
        (Structure(Lattice.cubic(3.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]), "disordered"),
    ):
        found, reasons = bonds_of(structure)
        assert set(found.values()) == {0.0}
        assert any(reason in line for line in reasons)
    values, reasons = describe_bonds(b"data_x\n_cell_length_a ?\n")
    assert (values, "cannot be parsed" in reasons[0]) == ([0.0] * 9, True)


def test_a_query_that_is_stored_names_its_columns(tmp_path, entries):
    mp.store(mp.clean(entries), tmp_path / mp.FILE_NAME)
    frame = json.loads(gzip.decompress((tmp_path / mp.FILE_NAME).read_bytes()))
    assert tuple(frame["columns"]) == mp.COLUMNS
