"""Counts, numbers and hints as a reader expects them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import suggest as suggest_of_hpo
from hpo.wording import count_of, plain_number, shown_cell, shown_cells
from slurm.errors import suggest as suggest_of_slurm


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 worker runs"), (1, "1 worker run"), (2, "2 worker runs"), (1000, "1000 worker runs")],
)
def test_a_count_has_its_noun(number, told):
    assert count_of(number, "worker run") == told


def test_a_plural_may_be_its_own():
    assert [count_of(n, "study", "studies") for n in (1, 2)] == ["1 study", "2 studies"]


@given(st.integers(-(2**53), 2**53), st.sampled_from([".3f", ".6g", "+.3f", ".4g"]))
def test_whole_numbers_are_printed_whole(number, spec):
    told = plain_number(float(number), spec)
    assert int(told) == number
    assert set(told) <= {*"+-0123456789"}
    assert told.startswith("+") == (spec.startswith("+") and number >= 0)


@given(st.floats(), st.sampled_from([".3f", ".6g", "+.3g"]))
def test_all_others_are_printed_by_their_format(value, spec):
    if not (math.isfinite(value) and value.is_integer()):
        assert plain_number(value, spec) == format(value, spec)


@pytest.mark.parametrize("suggest", [suggest_of_hpo, suggest_of_slurm])
@given(wrong=st.text(max_size=5), valid=st.lists(st.text("abc", min_size=1), max_size=4))
def test_a_hint_is_never_empty_nor_broken(suggest, wrong, valid):
    hint = suggest(wrong, valid)
    if not valid:
        assert hint == "there are none"
    else:
        listed = f"valid: {', '.join(sorted(valid))}"
        assert hint == listed or (hint.startswith("did you mean '") and f"({listed})" in hint)


@given(st.lists(st.text("a5-=+.\n\t\x1b e", max_size=4), max_size=5))
def test_cells_are_shown_together_as_each_is_shown(cells):
    assert shown_cells(cells) == [shown_cell(cell) for cell in cells]
