"""Formulas are read as pymatgen reads them, whichever way is taken; and are held in arrays."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element

from features.chemistry.formulas import SYMBOLS, Compositions, add_up, parse_plain

ISOTOPES = ("D", "T")


def read_by_pymatgen(text: str) -> dict[str, float] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            composition = Composition(text)
        except (ValueError, OverflowError):
            return None
    return {getattr(e, "symbol", str(e)): float(n) for e, n in composition.items()}


def check(text: str) -> None:
    """Amounts are pymatgen's to the bit and in its order, or none."""
    found = parse_plain(text)
    if found is not None:
        expected = read_by_pymatgen(text)
        assert expected is not None, text
        assert list(found.items()) == list(expected.items()), text


amounts = st.one_of(
    st.just(""),
    st.integers(0, 200).map(str),
    st.floats(0, 30).map(lambda value: f"{value:.3g}"),
    st.floats(1e-9, 1e-3).map(lambda value: f"{value:.12f}"),
    st.sampled_from(["0.333333333", ".5", "2.", "0", "1e-3", "1.2.3", ".", "x", "1/3", "10000000"]),
)
symbols = st.sampled_from([*SYMBOLS, *ISOTOPES, *["Li", "O", "S", "P"] * 10, "X", "Vac", "Lix"])
atoms = st.tuples(symbols, amounts).map("".join)


def bracketed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.sampled_from(["()"] * 6 + ["[]", "{}", "[)", "( "])
    group = st.tuples(pairs, inner, amounts).map(lambda g: f"{g[0][0]}{g[1]}{g[0][1]}{g[2]}")
    return st.lists(st.one_of(atoms, group), min_size=0, max_size=4).map("".join)


formulas = st.recursive(st.lists(atoms, min_size=1, max_size=5).map("".join), bracketed)
joined = st.tuples(formulas, st.sampled_from(["", "", " ", "·", "*", ".", "@", "+", "-"]), formulas)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(joined.map("".join))
@example("Li1.3Al0.3Ti1.7(PO4)3")
@example("CuSO4(H2O)5")
@example("Ca3[Al(OH)6]2")
@example("Li2(Li2(Li0.1)3)3Li4")
@example("(Li1)12345678901234567890")
@example("ClCoC(CCl)2CoCl")
@example("Li0.000000001O")
@example("HeFeNeInNa(NaNi)3")
def test_the_quick_way_is_pymatgens(text: str) -> None:
    check(text)


@settings(max_examples=300, deadline=None)
@given(st.text("LiNaOCePS()[]0123456789. e-+*@", max_size=12))
def test_whatever_is_written(text: str) -> None:
    check(text)


def test_every_element_is_one_and_the_list_is_pymatgens() -> None:
    listed = sorted(Element, key=lambda element: element.Z)
    assert tuple(e.symbol for e in listed if e.symbol not in ISOTOPES) == SYMBOLS
    for symbol in SYMBOLS:
        assert parse_plain(symbol) == {symbol: 1.0}
    assert parse_plain("LiOD") is None


def test_every_measured_conductor_is_read_the_quick_way(obelix_dir) -> None:
    texts = set()
    for name in ("train.csv", "test.csv"):
        with (obelix_dir / name).open(encoding="utf-8") as handle:
            texts |= {row["True Composition"] for row in csv.DictReader(handle)}
    for text in texts:
        check(text)
    quick = [text for text in texts if parse_plain(text) is not None]
    assert len(quick) > 0.9 * len(texts)


@pytest.mark.parametrize("text", ["Li+", "Fe3+", "LiCl·H2O", "Li(", "Li)", "()", "2LiCl", "lico"])
def test_what_is_unusual_is_no_plain_formula(text: str) -> None:
    assert parse_plain(text) is None


def test_compositions_are_a_sequence_of_mappings() -> None:
    parsed = [parse_plain(text) for text in ("LiCl", "Li", "Li6PS5Cl", "Og2O")]
    mappings = [amounts for amounts in parsed if amounts]
    found = Compositions.of(mappings)
    assert list(found) == mappings
    assert [list(found[row]) for row in range(4)] == [list(mapping) for mapping in mappings]
    assert found[-1] == {"Og": 2.0, "O": 1.0}
    assert list(found[1:3]) == mappings[1:3]
    assert list(found.take(np.array([2, 0]))) == [mappings[2], mappings[0]]
    assert found.take(np.array([2, 0])).hash == Compositions.of([mappings[2], mappings[0]]).hash
    assert found.hash != Compositions.of(mappings[:3]).hash
    assert found.totals.tolist() == [2.0, 1.0, 13.0, 3.0]
    assert len(Compositions.of([])) == 0
    with pytest.raises(IndexError):
        found[4]


@pytest.mark.parametrize("count", range(1, 40))
def test_terms_are_added_up_as_numpy_adds_up_a_vector(count: int) -> None:
    terms = np.random.default_rng(count).uniform(0.0, 1.0, (count, 50, 3))
    expected = [[np.sum(terms[:, row, k].copy()) for k in range(3)] for row in range(50)]
    assert add_up(terms).tolist() == expected
