"""The band-gap studies: what forests know of their errors, and silicon-germanium."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from features.datasets.binary_crystals import read_crystals
from features.intake.csv_parsing import parse_csv
from hpo.analysis.best_model import score_predictions
from hpo.errors import HpoError
from hpo.objectives.metrics import METRICS
from studies.bandgap import silicon_germanium as sige
from studies.bandgap.__main__ import main
from studies.bandgap.uncertainty import Judged, Sure, bins_of, describe, lines_of
from tests.support.requirements import unavailable
from tests.support.studies import ROOT


@pytest.fixture
def run(hpo, capsys):
    """Run `python -m studies.bandgap ARGUMENTS`, in this process, and return what it says."""

    def run_here(*arguments, code=0):
        ended = main(arguments)
        said = capsys.readouterr()
        assert ended == code, said.out + said.err
        return said

    return run_here


# --- Uncertainty ----------------------------------------------------------------------------------


def sure(n_rows=800, seed=0, factor=1.0):
    """Rows whose errors are normal, with deviations that are the true ones times a factor."""
    from features.table import TableView

    rng = np.random.default_rng(seed)
    deviation = rng.uniform(0.1, 1.0, n_rows)
    y = rng.uniform(0.0, 5.0, n_rows) + 0.01
    X = np.empty((n_rows, 0))
    ids = np.array([f"r{i}" for i in range(n_rows)])
    groups = np.array([f"g{i % 20}" for i in range(n_rows)])
    rows = score_predictions(
        TableView(ids, X, X, y, groups),
        y + deviation * rng.normal(size=n_rows),
        np.arange(n_rows) % 3,
        METRICS,
    )
    variance = (factor * deviation) ** 2
    return Sure(rows, 0.25 * variance, 0.75 * variance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "covered"), [(1.0, (0.683, 0.9, 0.95)), (2.0, (0.954, 1.0, 1.0))]
)
def test_true_deviations_cover_what_they_say_and_doubled_ones_more(factor, covered):
    given = sure(factor=factor)
    found = describe(Judged("x", given, given))["held out"]["coverage"]
    for share, expected in zip(found.values(), covered, strict=True):
        assert share["observed"] == pytest.approx(expected, abs=0.04)
        assert share["interval"][0] <= share["observed"] <= share["interval"][1]
    deviation, error = bins_of(given)
    np.testing.assert_allclose(deviation, factor * error, rtol=0.25)


@pytest.mark.slow
def test_intervals_by_deviation_are_calibrated_on_rows_out_of_fold():
    cv, test = sure(factor=3.0), sure(seed=1, factor=3.0)
    found = describe(Judged("x", cv, test))["intervals"]
    assert found["by z"]["coverage"] > 0.99
    (scaled,) = [value for name, value in found.items() if name.endswith("deviations")]
    assert scaled["coverage"] == pytest.approx(0.9, abs=0.04)
    assert found["one width"]["coverage"] == pytest.approx(0.9, abs=0.04)
    assert scaled["mean_width"] < found["one width"]["mean_width"] < found["by z"]["mean_width"]


def test_a_row_without_deviation_is_exact_or_infinitely_far_off():
    given = sure(4)
    given.within[:2] = given.between[:2] = 0.0
    given.rows.predicted[0] = given.rows.y[0]
    assert given.ratios[0] == 0.0
    assert given.ratios[1] == np.inf
    assert np.isfinite(given.ratios[2:]).all()


def test_metals_are_told_from_the_others():
    given = sure(100)
    given.rows.y[:30] = 0.0
    described = describe(Judged("x", given, None))
    assert [described[name]["rows"] for name in list(described)[:2]] == [100, 70]
    assert described["intervals"] == {}
    assert "cross-validation, non-metals, 70 rows" in "\n".join(lines_of("x", described))


# --- Silicon-germanium ----------------------------------------------------------------------------


def test_the_measured_relation_is_that_of_the_paper():
    assert sige.measured_gap(0.0) == pytest.approx(1.155)
    assert sige.measured_gap(0.5) == pytest.approx(0.9915)
    assert sige.measured_gap(1.0) == pytest.approx(0.74)
    below, above = sige.measured_gap([0.85 - 1e-9, 0.85])
    assert below - above == pytest.approx(0.0, abs=0.01)
    found = sige.sum_up(np.linspace(0, 1, 101), sige.measured_gap(np.linspace(0, 1, 101)))
    assert found["rmse_to_measured"] == 0.0
    assert found["si49ge51_between"]
    assert found["slope_above"] == pytest.approx(-1.27)


def test_formulas_and_lattices_of_the_alloy():
    assert [sige.formula_of(x) for x in (0.0, 0.15, 1.0)] == ["Si1", "Si0.85Ge0.15", "Ge1"]
    table, _ = read_crystals()
    csv = parse_csv(table.name, table.data)
    a = {record.fields[0]: float(record.fields[2]) for record in csv.records}
    assert (a["Si"], a["Ge"]) == (sige.SI_ANGSTROM, sige.GE_ANGSTROM)
    assert sige.lattice_parameter(1.0, scaled=True) == pytest.approx(sige.GE_ANGSTROM)
    assert sige.lattice_parameter(0.3, scaled=False) == sige.SI_ANGSTROM


@pytest.fixture(scope="module")
def variants():
    pytest.importorskip("ase")
    try:
        found = sige._by_icet(3)
    except HpoError as exc:
        unavailable("icet", str(exc))
    return found


def test_orderings_are_all_there_and_none_twice(variants):
    from pymatgen.analysis.structure_matcher import StructureMatcher

    # With two atoms per cell: all silicon, all germanium, and one of each.
    small = [structure for structure in variants if len(structure) <= 4]
    assert Counter(len(structure) for structure in small)[2] == 3
    matcher = StructureMatcher(primitive_cell=False, scale=False, attempt_supercell=False)
    groups = matcher.group_structures([structure.get_primitive_structure() for structure in small])
    assert len(groups) == len(small)
    assert len(variants) == 43
    x = Counter(round(sige.germanium_fraction(structure), 6) for structure in variants)
    assert x[0.0] == x[1.0] == 1
    assert all(x[level] == x[round(1.0 - level, 6)] for level in x)


def test_a_variant_is_put_on_the_lattice_of_its_composition(variants):
    for structure in variants[-5:]:
        for scaled in (False, True):
            placed = sige.on_lattice(structure, scaled=scaled)
            a = sige.lattice_parameter(sige.germanium_fraction(structure), scaled=scaled)
            lengths = placed.get_neighbor_list(1.1 * a * np.sqrt(3) / 4)[3]
            np.testing.assert_allclose(lengths, a * np.sqrt(3) / 4, rtol=1e-6)
            assert len(lengths) == 4 * len(placed)


@pytest.mark.slow
def test_enumlib_is_asked_for_every_composition_once(variants, monkeypatch):
    from pymatgen.transformations import advanced_transformations as transformations

    class Enumlib(transformations.EnumerateStructureTransformation):
        """Stands in for the program, which few have: answers with what icet finds."""

        def apply_transformation(self, structure, return_ranked_list=False):
            assert (self.min_cell_size, self.max_cell_size) == (1, 3)
            assert return_ranked_list > len(variants)
            x = sige.germanium_fraction(structure)
            return [
                {"structure": variant}
                for variant in variants
                if abs(sige.germanium_fraction(variant) - x) < 1e-9
            ]

    monkeypatch.setattr(transformations, "EnumerateStructureTransformation", Enumlib)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    found, how = sige.enumerate_variants(6)
    assert how == "pymatgen with enum.x"
    assert len(found) == len(variants)
    assert [len(structure) for structure in found] == sorted(map(len, variants))


@pytest.mark.skipif(shutil.which("enum.x") is None, reason="enumlib's enum.x is not on the PATH")
def test_enumlib_and_icet_find_equally_many(variants):
    found, how = sige.enumerate_variants(6)
    assert how == "pymatgen with enum.x"
    assert Counter(map(len, found)) == Counter(map(len, variants))


def test_what_cannot_be_enumerated_is_refused(monkeypatch):
    for atoms in (3, 14):
        with pytest.raises(HpoError, match=f"--atoms {atoms}: must be even"):
            sige.enumerate_variants(atoms)
    monkeypatch.setitem(sys.modules, "icet.tools", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(HpoError, match=r"the package icet, which is not installed; install one"):
        sige.enumerate_variants(4)


# --- Commands -------------------------------------------------------------------------------------

FAST = ("--workers", "1", "--set", "trials=2", "--set", "cv.folds=3")


@pytest.mark.slow
@pytest.mark.usefixtures("variants")
def test_a_study_of_structure_is_judged_and_explored(hpo, run):
    study = str(ROOT / "studies" / "bandgap" / "structure.toml")
    hpo("run", study, *FAST, "--set", "estimator.params.n_estimators=8")
    said = run("uncertainty", "structure").out
    assert "cross-validation, 69 rows: MAE" in said
    assert "cross-validation, non-metals, 66 rows" in said
    said = run("variants", "structure", "--atoms", "4").out
    assert "no Si and Ge in training" in said
    folder = Path("bandgap/variants")
    found = json.loads((folder / "figures.json").read_text())
    assert (found["variants"], found["found_by"]) in {(10, "icet"), (10, "pymatgen with enum.x")}
    for figure in (
        "variants/figures/variants.svg",
        "uncertainty/figures/uncertainty_structure.svg",
    ):
        assert (Path("bandgap") / figure).stat().st_size > 5000
    cif = (folder / "scaled" / "cifs" / "0000.cif").read_text()
    assert "Si" in cif or "Ge" in cif


@pytest.mark.slow
def test_a_study_of_composition_is_judged_and_explored(hpo, run):
    table, _ = read_crystals()
    csv = parse_csv(table.name, table.data)
    lines = [f"{r.fields[0]},{r.fields[4]}" for r in csv.records]
    lines += [f"Si{1 - x:.2f}Ge{x:.2f},{sige.measured_gap(x):.3f}" for x in np.arange(0.05, 1, 0.1)]
    Path("expt_gap.csv").write_text("\n".join(["formula,target", *lines]))
    study = str(ROOT / "studies" / "bandgap" / "composition_non_metals.toml")
    hpo("run", study, *FAST, "--set", "estimator.params.n_estimators=8", "--data", ".")
    said = run("alloys", "composition_non_metals").out
    assert "Si-Ge rows in training" in said
    found = json.loads(Path("bandgap/alloys/figures.json").read_text())["composition_non_metals"]
    counts = found.pop("si_ge_rows")
    assert counts["train"] + counts["test"] == 12
    told, untold = found.values()
    assert told["rmse_to_measured"] < untold["rmse_to_measured"]
    said = run("uncertainty", "composition_non_metals").out
    assert "90 % intervals of held-out rows, one width: hold" in said


def test_mistakes_are_told_in_one_line(run, monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    assert "MP_API_KEY has no key; set it" in run("query", code=2).err
    said = run("query", "--output", "gaps.json", code=2).err
    assert "must be called materials_project.json.gz" in said
    done = subprocess.run([sys.executable, "-m", "studies.bandgap"], capture_output=True, text=True)
    assert (done.returncode, "COMMAND" in done.stderr) == (2, True)
    assert "no such file; give the storage" in run("variants", "nothing", code=2).err
