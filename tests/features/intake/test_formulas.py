"""Formulas as people write them: read, remarked, or refused; never changed without a word."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.chemistry.charge_balance import can_have_charge
from features.chemistry.formulas import parse_plain
from features.intake.formulas import Formula, read_formula
from tests.support.intake.formulas import CASES, Case, judge


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.text[:40]))
def test_every_way_of_writing_becomes_what_it_has_to(case: Case) -> None:
    _, wrong = judge(case)
    assert not wrong


# Decorations ------------------------------------------------------------------------------------

_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
DECORATIONS: Mapping[str, Callable[[str], str]] = {
    "as it is": str,
    "subscripts": lambda text: text.translate(_LOW),
    "wide": lambda text: text.translate(_WIDE),
    "blanks around": lambda text: f"  {text}\u00a0",
    "quotes": lambda text: f'"{text}"',
    "curved quotes": lambda text: f"“{text}”",
    "tags": lambda text: "".join(f"<sub>{s}</sub>" if s.isdigit() else s for s in text),
    "LaTeX": lambda text: "$" + "".join(f"_{{{s}}}" if s.isdigit() else s for s in text) + "$",
    "a phase": lambda text: f"β-{text}",
    "a state": lambda text: f"{text} (s)",
    "a word": lambda text: f"{text} (amorphous)",
    "a mark": lambda text: f"{text}†",
    "a charge": lambda text: f"{text}^2-",
    "zero width": lambda text: "\u200b".join(text),
    "square brackets": lambda text: text.translate(str.maketrans("()", "[]")),
}
NEUTRAL = [
    *["Li2O", "CuSO4", "Na2CO3", "CaSO4", "MgCl2", "ZnSO4", "Al2(SO4)3", "LiCl", "Fe2O3", "BaTiO3"],
    *["Li3PO4", "Ca(NO3)2", "K2Cr2O7", "TiO2", "NiSO4", "La2O3", "NaAlSi3O8", "LiCoO2", "CdCl2"],
]
FRACTIONAL = ["Li1.3Al0.3Ti1.7(PO4)3", "Li6.4La3Zr1.4Ta0.6O12", "La0.5Sr0.5MnO3", "Li6PS5.5Cl1.5"]


@pytest.mark.parametrize("name", DECORATIONS)
def test_decorations_change_no_amount(name: str) -> None:
    for formula in (*NEUTRAL, *FRACTIONAL):
        assert read_formula(DECORATIONS[name](formula)).amounts == parse_plain(formula)


@pytest.mark.parametrize("mark", ["·", "⋅", "•", "*", " · ", "×", "."])
def test_hydrates_are_hydrates_or_refused(mark: str) -> None:
    """With a point, the few that are chemical both ways are refused, with both shown."""
    for salt, number in product(NEUTRAL, ["", "2", "5", "10", "0.5"]):
        check_hydrate(salt, number, mark)


def check_hydrate(salt: str, number: str, mark: str) -> None:
    text = f"{salt}{mark}{number}H2O"
    wanted = parse_plain(f"{salt}(H2O){number}")
    found = outcome_of(text)
    if isinstance(found, str):
        assert " or " in found
        assert parse_plain(text.replace(mark.strip(), "."))
        return
    assert found.amounts == pytest.approx(wanted)
    assert not (mark == "." and number and not found.remark)


def outcome_of(text: str) -> Formula | str:
    """Return what was read, or why nothing was."""
    try:
        return read_formula(text)
    except ValueError as exc:
        return str(exc)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 199), st.sampled_from(["Ta", "Nb", "Sb", "Bi"]))
def test_doped_garnets_are_never_adducts(hundredths: int, dopant: str) -> None:
    doping = hundredths / 100
    text = f"Li{7 - doping:.2f}La3Zr{2 - doping:.2f}{dopant}{doping:.2f}O12"
    found = read_formula(text)
    assert found.amounts == parse_plain(text)
    assert not found.remark


def test_nothing_but_reasons_comes_of_broken_formulas() -> None:
    rng = random.Random(3)
    signs = "LiOHNCo235.,·*-+()[]{}^_$\\ δxTD²₂⁺'\"%:/\0\ud800é"
    for case in CASES:
        for _ in range(20):
            text = list(case.text[:80])
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(text) + 1)
                text[at : at + rng.randint(0, 2)] = rng.choice(signs)
            try:
                found = read_formula("".join(text))
            except ValueError as exc:
                reason = str(exc)
                assert len(reason) < 1000, reason
            else:
                assert found.amounts
                assert all(0.0 < amount < 1e15 for amount in found.amounts.values())


def test_charge_balance() -> None:
    assert can_have_charge({"Cu": 1.0, "S": 1.0, "O": 4.0})
    assert not can_have_charge({"Cu": 1.0, "S": 1.0, "O": 5.5, "H": 2.0})
    assert can_have_charge({"S": 1.0, "O": 4.0}, -2.0)
    assert can_have_charge({"Fe": 3.0})
    assert not can_have_charge({"Li": 1.0, "Fe": 1.0})
