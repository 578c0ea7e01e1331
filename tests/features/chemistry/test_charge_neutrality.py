"""Charge neutrality by SMACT's oxidation states."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from smact.screening import smact_validity

from features.chemistry.charge_neutrality import are_neutral
from features.chemistry.formulas import Compositions, parse_formula


def codes(*formulas: str) -> list[int]:
    parsed = Compositions.of([parse_formula(text) if text else {} for text in formulas])
    return [int(code) for code in are_neutral(parsed)]


def test_whole_formulas_are_judged_as_smact_judges_them() -> None:
    rng = np.random.default_rng(0)
    symbols = ["Li", "Na", "Mg", "Fe", "Cu", "Ti", "P", "S", "O", "F", "Cl", "N"]
    pairs = [*itertools.combinations(symbols, 2), *itertools.combinations(symbols, 3)]
    formulas = ["".join(f"{one}{rng.integers(1, 5)}" for one in chosen) for chosen in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # electronegativities that SMACT does not have
        expected = [
            smact_validity(text, use_pauling_test=False, mixed_valence=True) for text in formulas
        ]
    assert codes(*formulas) == [int(neutral) for neutral in expected]
    assert 0.1 < np.mean(expected) < 0.9


@pytest.mark.parametrize(
    ("formula", "code"),
    [
        ("Li0.5CoO2", 1),  # SMACT cuts 0.5 to 0
        ("Li6.5La3Zr1.5Ta0.5O12", 1),
        ("Na2Cl", 0),
        ("Fe3O4", 1),  # mixed valence
        ("CuZn", 1),  # an alloy
        ("", -1),
        ("LrO", -1),  # no states are known
    ],
)
def test_fractions_alloys_and_what_is_not_known(formula: str, code: int) -> None:
    assert codes(formula) == [code]
