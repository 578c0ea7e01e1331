"""Structures pass a gate: what fails a check is left out or used, as the study file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.chemistry.periodic_sums import MAX_POINTS
from features.families.registry import FAMILIES
from features.families.structure.bvse import energy_grid, grid_shape
from features.families.structure.per_structure import describe_one
from features.families.structure.physics_report import whole_states
from features.intake.cifs import read_crystal
from features.table import (
    BuildResult,
    CsvSpec,
    DatasetError,
    FeatureTable,
    build,
    read,
    read_candidates,
)
from tests.support.tables.cif_texts import CUBIC, rock_salt

PM = [402.63, 402.63, 402.63, *CUBIC[3:]]
# Id, formula, CIF, and what is said of it.
ROWS = [
    ("good", "LiF", rock_salt(), ""),
    ("doped", "Li0.95Na0.05F", rock_salt(), ""),
    ("foreign", "Li7La3Zr2O12", rock_salt(), "composition: 50.0 at-% F in the CIF, 0.0 in the"),
    ("pm", "LiF", rock_salt(cell=PM), "CIF cannot be parsed (its cell of 402.63 x 402.63"),
    ("broken", "LiF", "data_x\nloop_\n", "CIF cannot be parsed (it has no _atom_site_fract_x)"),
    ("no-group", "LiF", rock_salt(symmetry="_note none"), "symmetry: none is given"),
    ("thin", "LiF", rock_salt(more={"_cell_volume": "99"}), "cell: _cell_volume is 99, and 65.3"),
    ("none", "LiF", None, ""),
]
FAILED = {name: said for name, _, _, said in ROWS if said}
UNREADABLE = {"pm", "broken"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cifs").mkdir()
    for name, _, text, _ in ROWS:
        if text is not None:
            (tmp_path / "cifs" / f"{name}.cif").write_text(text)
    write_rows(tmp_path, [name for name, *_ in ROWS])
    return tmp_path


def write_rows(folder: Path, names: list[str]) -> None:
    lines = [f"{name},{formula},{n}" for n, (name, formula, *_) in enumerate(ROWS) if name in names]
    (folder / "mine.csv").write_text("\n".join(["id,formula,target", *lines, ""]))


def spec_of(**settings: object) -> CsvSpec:
    raw = {"dataset": "csv", "path": "mine.csv", "id": "id", "cifs": "cifs", "test_fraction": 0.0}
    return CsvSpec.model_validate({**raw, "families": ["li_environment", "cell_shape"], **settings})


def build_in(folder: Path, workers: int = 1, **settings: object) -> BuildResult:
    return build(
        spec_of(**settings),
        data_dir=None,
        tables_dir=folder / "tables",
        base_dir=folder,
        workers=workers,
    )


def said_in(table: FeatureTable) -> dict[str, str]:
    return {row.id: row.reason for row in table.partial if row.family == "cif"}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_is_left_out_by_default_and_said(folder, workers):
    table = read(build_in(folder, workers).path)
    assert table.n_rows == len(ROWS)
    is_used = dict(zip(table.ids.tolist(), table.X[:, 0].tolist(), strict=True))
    assert is_used == {name: float(name in ("good", "doped")) for name, *_ in ROWS}
    assert not table.X[[name in FAILED for name in table.ids.tolist()]].any()
    said = said_in(table)
    assert said.keys() == FAILED.keys()
    for name, reason in FAILED.items():
        assert said[name].startswith(f"left out: {reason}")
    absent = [row.reason.split("(")[0] for row in table.partial if row.id == "*"]
    assert absent.count("no CIF for 1 of 8 rows ") == 2
    assert absent.count("a CIF that is left out for 5 of 8 rows ") == 2
    failed = {"CIF cannot be parsed": 2, "composition": 1, "cell": 1, "symmetry": 1}
    notes = {"n_given": 7, "n_used": 2, "failed": failed}
    assert table.manifest["notes"]["structures"] == notes


def test_what_fails_is_used_where_the_study_file_says_so(folder):
    left_out = build_in(folder)
    used = build_in(folder, failed_structures="use")
    assert used.name != left_out.name
    table = read(used.path)
    is_used = dict(zip(table.ids.tolist(), table.X[:, 0].tolist(), strict=True))
    readable = {name for name, _, text, _ in ROWS if text is not None} - UNREADABLE
    assert {name for name, value in is_used.items() if value} == readable
    for name, reason in said_in(table).items():
        assert reason.startswith("left out: " if name in UNREADABLE else "used: ")
    # The second look at either finds its own.
    assert build_in(folder).name == left_out.name
    assert build_in(folder, failed_structures="use").reused


def test_a_word_that_is_no_policy_is_refused():
    with pytest.raises(ValueError, match="'leave_out' or 'use'"):
        spec_of(failed_structures="ignore")


def test_a_table_without_any_structure_to_use_is_refused(folder):
    write_rows(folder, ["foreign", "pm"])
    with pytest.raises(DatasetError, match="none of the 2 is used; the first, of row 'foreign'"):
        build_in(folder)


def test_candidates_pass_the_same_gate(folder):
    lines = [f"{formula},cifs/{name}.cif" for name, formula, text, _ in ROWS if text is not None]
    names = [name for name, _, text, _ in ROWS if text is not None]
    (folder / "new.csv").write_text("\n".join(["formula,cif", *lines, ""]))
    for policy in ("leave_out", "use"):
        spec = spec_of(failed_structures=policy)
        found = read_candidates(folder / "new.csv", spec)
        assert list(found.reasons) == [""] * len(names)
        for row, name in enumerate(names):
            is_used = policy == "use" and name not in UNREADABLE
            assert found.X[row, 0] == float(is_used or name not in FAILED)
            reason = found.remarks.get((row, "cif"), "")
            said = f"{'used' if is_used else 'left out'}: {FAILED.get(name)}"
            assert reason.startswith(said) if name in FAILED else reason == ""
            assert found.lacking["cell_shape"][row] == (name in FAILED and not is_used)


def test_rows_without_a_formula_are_not_compared_with_one(folder):
    (folder / "mine.csv").write_text("id,x,target\ngood,1,2\nforeign,2,3\nthin,3,4\n")
    done = build_in(folder, columns=["x"], families=["bonds"])
    table = read(done.path)
    assert said_in(table).keys() == {"thin"}


# Bounds within the families -------------------------------------------------------------------


def test_a_grid_of_too_many_points_is_a_reason_before_there_is_one():
    crystal, _ = read_crystal(rock_salt(cell=[300, 300, 1.1, 90, 90, 90]).encode())
    assert np.prod(np.linalg.norm(crystal.matrix, axis=1) / 0.25) < MAX_POINTS
    skewed, _ = read_crystal(rock_salt(cell=[300, 20, 4, 90, 90, 1.2]).encode())
    with pytest.raises(ValueError, match="points around each atom"):
        energy_grid(skewed, grid_shape(skewed))


def test_choices_that_multiply_are_bounded():
    symbols = ("Mn", "Fe", "Co", "Ni", "V", "Cr", "Cl", "Mo", "W", "N", "P", "S")
    amounts = dict.fromkeys(symbols, 1.0)
    with pytest.raises(ValueError, match="choices of oxidation states, and at most"):
        whole_states(amounts)


@pytest.mark.parametrize("raised", [MemoryError("31 GiB"), ZeroDivisionError("by zero")])
def test_what_a_family_raises_is_the_reason_of_that_row(raised):
    def describe(cif: bytes) -> tuple[list[float], list[str]]:
        raise raised

    values, reasons = describe_one(describe, 3, b"")
    assert values == [0.0] * 3
    assert str(raised) in reasons[0]


@pytest.mark.parametrize("name", [f.name for f in FAMILIES.values() if f.describe])
def test_no_family_of_structures_describes_what_cannot_be_read(name):
    import importlib

    module, _, function = FAMILIES[name].describe.partition(":")
    for _, _, text, _ in ROWS:
        if text is not None:
            values, _ = getattr(importlib.import_module(module), function)(text.encode())
            assert np.isfinite(values).all()
