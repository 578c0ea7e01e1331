"""Every feature family under one contract, and what single families must get right."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from features.chemistry.composition import composition_key
from features.chemistry.elements import ELEMENTS
from features.families.registry import FAMILIES, RESERVED_NAMES, FamilyInfo
from features.families.structure.li_environment import describe_cif
from features.intake.formulas import read_formula
from features.tables.build import compute_block
from tests.support.studies import ROOT
from tests.support.tables.materials import LICL, ROCK_SALT, rows_of, silent

COUNTS = {"ratios": 3, "smact": 103, "magpie": 22, "mat2vec": 200, "megnet16": 16}
COUNTS |= {"sigma_is_coerced": 1, "cell": 4, "li_environment": 8, "space_group": 230}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> FamilyInfo:
    return FAMILIES[request.param]


MIXED = rows_of(["LiCl", "Li6PS5Cl", "Li1.3Al0.3Ti1.7(PO4)3", "Li7La3Zr2O12", "D2O", "Og2O"])


def test_block_has_the_registered_columns(family: FamilyInfo) -> None:
    block = compute_block(family, MIXED, silent)
    assert block.values.shape == (len(MIXED), family.n_columns)
    assert block.values.dtype == np.float64
    assert not np.isinf(block.values).any()


def test_nan_has_a_remark(family: FamilyInfo) -> None:
    block = compute_block(family, MIXED, silent)
    with_nan = set(np.flatnonzero(np.isnan(block.values).any(axis=1)).tolist())
    assert with_nan <= {remark.row for remark in block.remarks}


@pytest.mark.slow
def test_block_is_deterministic_and_knows_no_row_order(family: FamilyInfo) -> None:
    values = compute_block(family, MIXED, silent).values
    np.testing.assert_array_equal(compute_block(family, MIXED, silent).values, values)
    order = [3, 0, 5, 1, 4, 2]
    np.testing.assert_array_equal(
        compute_block(family, MIXED.take(order), silent).values, values[order]
    )


def test_block_equals_its_rows_one_by_one(family: FamilyInfo) -> None:
    values = compute_block(family, MIXED, silent).values
    module, _, function = family.compute.partition(":")
    compute = getattr(importlib.import_module(module), function)
    for row in range(len(MIXED)):
        single = np.round(compute(MIXED.take([row]), silent).values, 9)
        np.testing.assert_array_equal(single[0], values[row])


def test_registry_names_are_unique_and_free() -> None:
    names = [name for family in FAMILIES.values() for name, _ in family.fields]
    assert len(set(names)) == len(names)
    assert not RESERVED_NAMES & set(names)
    assert {name: FAMILIES[name].n_columns for name in COUNTS} == COUNTS
    # Shape of the cell and lattice are eleven columns between them.
    assert FAMILIES["lattice"].n_columns + FAMILIES["cell_shape"].n_columns == 11


def test_only_the_coerced_flag_is_derived_from_the_target() -> None:
    assert [f.name for f in FAMILIES.values() if f.derived_from_target] == ["sigma_is_coerced"]
    assert FAMILIES["sigma_is_coerced"].columns[0].derived_from_target


def test_the_door_imports_no_chemistry() -> None:
    heavy = "pymatgen matminer smact elementembeddings pandas scipy sklearn optuna pyarrow obelix"
    code = (
        "import sys, features.table as t; t.families(); t.datasets(); "
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_smact_agrees_with_smact() -> None:
    from smact.screening import ml_rep_generator

    formulas = ["Li2O", "Li1.3Al0.3Ti1.7(PO4)3", "Li9.54Si1.74P1.44S11.7Cl0.3"]
    values = compute_block(FAMILIES["smact"], rows_of(formulas), silent).values
    for formula, row in zip(formulas, values, strict=True):
        amounts = read_formula(formula).amounts
        expected = ml_rep_generator(list(amounts), list(amounts.values()))  # type: ignore[arg-type]
        np.testing.assert_allclose(row, expected, atol=1e-9)


@pytest.mark.slow
def test_embeddings_agree_with_elementembeddings() -> None:
    # In a process of its own: importing it takes seconds and warns of what it lacks.
    code = (
        "import sys; from elementembeddings.composition import CompositionalEmbedding as C\n"
        "for n in ('magpie', 'mat2vec', 'megnet16'):\n"
        "    for f in ('Li6PS5Cl', 'Li1.3Al0.3Ti1.7P3O12'):\n"
        "        print(n, f, *C(f, n).feature_vector('mean').tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert len(lines) == 6
    for name, formula, *numbers in lines:
        values = compute_block(FAMILIES[name], rows_of([formula]), silent).values[0]
        np.testing.assert_allclose(values, [float(n) for n in numbers], atol=1e-9)


def test_ratios() -> None:
    values = compute_block(FAMILIES["ratios"], rows_of(["Li6PS5Cl", "Li3N"]), silent).values
    np.testing.assert_allclose(values, [[6 / 13, 6 / 13, 4], [0.75, 0.25, 2]])


def test_rock_salt_cell() -> None:
    density, volume, n_li, units = compute_block(
        FAMILIES["cell"], rows_of(["LiCl"]), silent
    ).values[0]
    assert density == pytest.approx(2.07, abs=0.01)  # handbook value of LiCl, g/cm^3
    assert volume == pytest.approx(5.14**3 / 8)
    assert (n_li, units) == (4.0, 4.0)


def test_rock_salt_li_environment() -> None:
    # Li is not the first site in this file: its own image must not count as its neighbour.
    values, reasons = describe_cif(LICL)
    volume, half = 5.14**3, 5.14 / 2
    expected = [1.0, 0.5, 4 / volume, 4 / volume, 5.14 / 2**0.5, half, 6.0, 4.0]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert reasons == []


def test_disordered_cif_counts_occupancies_and_says_why_it_stops() -> None:
    values, reasons = describe_cif(ROCK_SALT.format(occupancy="0.5").encode())
    np.testing.assert_allclose(values[:3], [1.0, 1 / 3, 2 / 5.14**3])
    assert values[4:] == [0.0] * 4
    assert "disordered" in reasons[-1]


@pytest.mark.parametrize(
    "cif", [b"", b"\x00\xff", b"data_x\n", LICL[:200], LICL.replace(b"Cl1 Cl", b"Q1 Qq")]
)
def test_broken_cif_is_a_reason(cif: bytes) -> None:
    values, reasons = describe_cif(cif)
    assert values == [0.0] * 8
    assert "cannot be parsed" in reasons[0]


def test_same_material_has_one_key() -> None:
    keys = {composition_key(read_formula(f).amounts) for f in ("Li7GePS8", "Li10.5Ge1.5P1.5S12")}
    assert len(keys) == 1
    assert len(ELEMENTS) == 103
