"""Families of the formula alone: against matminer, and against what can be worked out by hand."""

from __future__ import annotations

import csv
import random
from math import log
from pathlib import Path

import numpy as np
import pytest
from matminer.featurizers.composition import ElementProperty, Stoichiometry, ValenceOrbital
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element
from scipy.optimize import linprog

from features.chemistry import oxidation_states
from features.chemistry.elements import ELEMENTS
from features.chemistry.formulas import SYMBOLS
from features.families.formula.element_statistics import magpie_statistics, valence_orbitals
from features.families.registry import FAMILIES
from features.intake.formulas import read_formula
from features.rows import VALUE_DECIMALS, Block
from features.tables.build import compute_block
from tests.support.tables.materials import rows_of, silent

ORDINARY = ["LiCl", "Li3N", "Li", "Li7La3Zr2O12", "Li10GeP2S12", "LiBH4", "Li2B12H12", "Cs2UO4"]
FRACTIONAL = [
    "Li1.3Al0.3Ti1.7(PO4)3",
    "Li9.54Si1.74P1.44S11.7Cl0.3",
    "Li0.5La0.5TiO3",
    "(Li0.333333Na0.333333K0.333333)3PS4",
    "Li6.55La3Zr1.55Ta0.45O12",
    "Li5.35Ca0.1PS4.5Cl1.55",
    # More elements than numpy adds up one after the other.
    "Li0.1Na0.3K0.7Rb0.11Cs0.13Mg0.17Ca0.19Sr0.23Ba0.29O2.3",
    "Li0.1Na0.3K0.7Rb0.11Cs0.13Mg0.17Ca0.19",
    "Li0.1Na0.3K0.7Rb0.11Cs0.13Mg0.17Ca0.19O2",
    "".join(f"{symbol}{0.1 + 0.07 * z:.2f}" for z, symbol in enumerate(ELEMENTS[18:54])),
]
SOURCES = {
    "magpie_statistics": lambda: ElementProperty.from_preset("magpie"),
    "valence_orbitals": ValenceOrbital,
    "stoichiometry": Stoichiometry,
}
TO_THE_BIT = {"magpie_statistics": magpie_statistics, "valence_orbitals": valence_orbitals}


def block_of(family: str, *formulas: str) -> Block:
    return compute_block(FAMILIES[family], rows_of(list(formulas)), silent)


def check_against_matminer(family, formulas):
    rows = rows_of(list(formulas))
    featurizer = SOURCES[family]()
    expected = [featurizer.featurize(Composition(read_formula(text).amounts)) for text in formulas]
    table = compute_block(FAMILIES[family], rows, silent)
    assert table.remarks == ()
    np.testing.assert_allclose(table.values, expected, rtol=0.0, atol=1e-9)
    if family in TO_THE_BIT:
        assert np.array_equal(TO_THE_BIT[family](rows, silent).values, expected)
        assert np.array_equal(table.values, np.round(expected, VALUE_DECIMALS))


@pytest.mark.parametrize("family", SOURCES)
def test_values_are_those_of_matminer(family):
    check_against_matminer(family, ORDINARY + FRACTIONAL)


@pytest.mark.slow
@pytest.mark.parametrize("family", SOURCES)
def test_values_are_those_of_matminer_for_every_measured_conductor(family, obelix_dir):
    formulas = set()
    for name in ("train.csv", "test.csv"):
        with (obelix_dir / name).open(encoding="utf-8") as handle:
            formulas |= {row["True Composition"] for row in csv.DictReader(handle)}
    assert len(formulas) > 400
    check_against_matminer(family, sorted(formulas))


@pytest.mark.parametrize("family", ["magpie_statistics", "valence_orbitals"])
def test_columns_have_the_names_of_matminer(family):
    def plain(text):
        return text.lower().replace("magpiedata", "magpie").replace("_", "").replace(" ", "")

    ours = [plain(name) for name, _ in FAMILIES[family].fields]
    assert ours == [plain(label) for label in SOURCES[family]().feature_labels()]


def test_the_norms_are_in_the_order_of_matminer():
    labels = [
        f"stoichiometry {label}".replace("-", " ") for label in Stoichiometry().feature_labels()
    ]
    ours = [name.replace("_", " ") for name, _ in FAMILIES["stoichiometry"].fields]
    assert ours == labels


def test_counts():
    counts = [FAMILIES[name].n_columns for name in (*SOURCES, "li_chemistry")]
    assert counts == [132, 8, 6, 17]


@pytest.mark.parametrize("family", [*SOURCES, "li_chemistry"])
def test_isotopes_are_hydrogen_and_formula_units_do_not_count(family):
    values = block_of(family, "LiOH", "LiOD", "Li3O3D3", "DLiO").values
    assert np.isfinite(values).all()
    assert (values == values[0]).all()


@pytest.mark.parametrize("family", ["magpie_statistics", "valence_orbitals", "li_chemistry"])
def test_an_element_outside_the_table_has_a_remark(family):
    block = block_of(family, "LiCl", "Og2O", "LiRf", "Li2S")
    assert np.isnan(block.values).all(axis=1).tolist() == [False, True, True, False]
    assert not np.isnan(block.values[[0, 3]]).any()
    assert [(r.row, r.reason.split()[0]) for r in block.remarks] == [(1, "Og"), (2, "Rf")]


def test_norms_need_no_table():
    block = block_of("stoichiometry", "Og2O2", "Li")
    np.testing.assert_allclose(block.values[0, :3], [2.0, 0.5**0.5, 0.25 ** (1 / 3)])
    assert block.values[1].tolist() == [1.0] * 6
    assert block.remarks == ()


def test_a_property_that_is_not_known_of_an_element_is_matminers_mean_and_is_told():
    block = block_of("magpie_statistics", "LiHe", "LiF", "RnF2")
    featurizer = SOURCES["magpie_statistics"]()
    for row, text in enumerate(("LiHe", "LiF", "RnF2")):
        np.testing.assert_allclose(
            block.values[row], featurizer.featurize(Composition(text)), atol=1e-9
        )
    assert [remark.row for remark in block.remarks] == [0, 2]
    assert "He (MeltingT, Electronegativity)" in block.remarks[0].reason


NAMES = [name for name, _ in FAMILIES["li_chemistry"].fields]

# Pauling electronegativities, and pymatgen's mean cationic radii in angstrom.
X = {"O": 3.44, "S": 2.58, "Cl": 3.16, "P": 2.19, "Al": 1.61, "Ti": 1.54, "H": 2.20, "B": 2.04}
RADIUS = {symbol: float(Element(symbol).average_cationic_radius) for symbol in ("P", "Al", "Ti")}


def entropy(*amounts: float) -> float:
    return -sum(x / sum(amounts) * log(x / sum(amounts)) for x in amounts)


BY_HAND = {
    "Li6PS5Cl": {
        "li_per_anion": 1.0,
        "li_per_framework_cation": 6.0,
        "anion_fraction_S": 5 / 6,
        "anion_fraction_Cl": 1 / 6,
        "electronegativity_contrast": (5 * X["S"] + X["Cl"]) / 6 - X["P"],
        "framework_cation_radius": RADIUS["P"],
        "framework_cation_charge": 5.0,
        "n_anion_elements": 2.0,
        "n_framework_elements": 1.0,
        "anion_entropy": entropy(5, 1),
    },
    "Li1.3Al0.3Ti1.7(PO4)3": {
        "li_per_anion": 1.3 / 12,
        "li_per_framework_cation": 1.3 / 5,
        "anion_fraction_O": 1.0,
        "electronegativity_contrast": X["O"] - (0.3 * X["Al"] + 1.7 * X["Ti"] + 3 * X["P"]) / 5,
        "framework_cation_radius": (0.3 * RADIUS["Al"] + 1.7 * RADIUS["Ti"] + 3 * RADIUS["P"]) / 5,
        "framework_cation_charge": (24 - 1.3) / 5,
        "n_anion_elements": 1.0,
        "n_framework_elements": 3.0,
        "framework_entropy": entropy(0.3, 1.7, 3),
    },
    # Sulfur is a cation here.
    "Li2SO4": {
        "li_per_anion": 0.5,
        "li_per_framework_cation": 2.0,
        "anion_fraction_O": 1.0,
        "electronegativity_contrast": X["O"] - X["S"],
        "framework_cation_charge": 6.0,
        "framework_cation_radius": float(Element("S").average_cationic_radius),
        "n_anion_elements": 1.0,
        "n_framework_elements": 1.0,
    },
    # Hydrogen is an anion here, though none that has a column.
    "LiBH4": {
        "li_per_anion": 0.25,
        "li_per_framework_cation": 1.0,
        "electronegativity_contrast": X["H"] - X["B"],
        "framework_cation_charge": 3.0,
        "framework_cation_radius": float(Element("B").average_cationic_radius),
        "n_anion_elements": 1.0,
        "n_framework_elements": 1.0,
    },
    # No framework, and no anion.
    "Li3N": {"li_per_anion": 3.0, "anion_fraction_N": 1.0, "n_anion_elements": 1.0},
    "Li": {},
    "Li4SeFBrI": {
        "li_per_anion": 1.0,
        **{f"anion_fraction_{symbol}": 0.25 for symbol in ("Se", "F", "Br", "I")},
        "n_anion_elements": 4.0,
        "anion_entropy": log(4),
    },
}


def test_every_column_of_li_chemistry_is_checked_by_hand():
    assert {name for expected in BY_HAND.values() for name in expected} == set(NAMES)


@pytest.mark.parametrize("formula", BY_HAND)
def test_li_chemistry_by_hand(formula):
    found = dict(zip(NAMES, block_of("li_chemistry", formula).values[0].tolist(), strict=True))
    expected = dict.fromkeys(NAMES, 0.0) | BY_HAND[formula]
    assert found == pytest.approx(expected, abs=1e-9)


def test_oxidation_states_are_the_optimum_that_a_solver_finds():
    rng = random.Random(4)
    for _ in range(60):
        elements = rng.sample(ELEMENTS[:94], rng.randint(1, 6))
        amounts = {symbol: rng.choice([1.0, 2.0, 0.37, 5.0 * rng.random()]) for symbol in elements}
        total = sum(amounts.values())
        states = {symbol: oxidation_states._states(symbol) for symbol in elements}
        fractions = np.array([[amounts[symbol] / total for symbol in elements]])
        whole = [SYMBOLS.index(symbol) * len(oxidation_states._SIGNS) for symbol in elements]
        found = oxidation_states._solve(fractions, np.array([whole]))
        columns = [(symbol, state) for symbol in elements for state in states[symbol]]
        costs = [amounts[s] / total * states[s][state] for s, state in columns]
        one_state_each = [
            [float(s == symbol) for s, _ in columns] + [0.0] * 2 for symbol in elements
        ]
        charges = [amounts[s] / total * state for s, state in columns] + [1.0, -1.0]
        solved = linprog(
            [*costs, oxidation_states.SLACK_COST, oxidation_states.SLACK_COST],
            A_eq=[*one_state_each, charges],
            b_eq=[1.0] * len(elements) + [0.0],
        )
        assert found.cost[0] == pytest.approx(solved.fun, abs=1e-7)
        assert found.slack[0] == pytest.approx(solved.x[-1] - solved.x[-2], abs=1e-8)


def test_door_and_registry_list_them(tmp_path: Path):
    from features.table import CsvSpec, build, read

    (tmp_path / "data.csv").write_text("formula,target\nLi6PS5Cl,1\nLi1.3Al0.3Ti1.7(PO4)3,2\n")
    spec = CsvSpec.model_validate(
        {
            "dataset": "csv",
            "path": "data.csv",
            "test_fraction": 0.0,
            "families": [*SOURCES, "li_chemistry", "magpie"],
        }
    )
    built = build(spec, data_dir=None, tables_dir=tmp_path / "tables", base_dir=tmp_path)
    assert read(built.path).X.shape == (2, 132 + 8 + 6 + 17 + 22)
    assert "matminer" in read(built.path).manifest["packages"]
