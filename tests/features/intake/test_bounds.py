"""Targets that are known as intervals: limits and ranges, from a field to a table."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from features.intake.numbers import NumberStyle, parse_interval, parse_target
from features.table import Column, CsvSpec, FeaturesError, OwnRows, OwnSpec, Target, build, read

COMMA = NumberStyle(",", is_known=True)
INF = math.inf
NUMBERS = st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: float(f"{value:.6g}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", (5, 5, 5)),
        ("-5", (-5, -5, -5)),
        ("–5", (-5, -5, -5)),
        ("1e-10", (1e-10, 1e-10, 1e-10)),
        ("1e–10", (1e-10, 1e-10, 1e-10)),
        ("10\u207b\u00b3", (1e-3, 1e-3, 1e-3)),
        ("<5", (5, -INF, 5)),
        ("<= 5", (5, -INF, 5)),
        ("≤-5", (-5, -INF, -5)),
        (">5", (5, 5, INF)),
        ("≥ 5e2", (500, 500, INF)),
        ("1..2", (1.5, 1, 2)),
        ("1 .. 2", (1.5, 1, 2)),
        ("1…2", (1.5, 1, 2)),
        ("1–2", (1.5, 1, 2)),
        ("-2..-1", (-1.5, -2, -1)),
        ("–2–3", (0.5, -2, 3)),
        ("1e-2..3e-2", (0.02, 0.01, 0.03)),
        ("1e–2–3e–2", (0.02, 0.01, 0.03)),
        ("0.5..0.7", (0.6, 0.5, 0.7)),
        ("5..5", (5, 5, 5)),
    ],
)
def test_intervals_are_read(text: str, expected: tuple[float, ...]) -> None:
    assert parse_interval(text, log10=False) == pytest.approx(expected)


def test_an_interval_is_read_in_the_style_of_its_column_and_in_the_scale_of_its_target() -> None:
    assert parse_interval("0,5..0,7", log10=False, style=COMMA) == pytest.approx((0.6, 0.5, 0.7))
    assert parse_interval("<1E-10", log10=True) == (-10, -INF, -10)
    assert parse_interval("1e-10..1e-8", log10=True) == (-9, -10, -8)


@pytest.mark.parametrize(
    ("text", "log10", "reason"),
    [
        ("2..1", False, "begin with its lower end"),
        ("10–3", False, "begin with its lower end"),  # perhaps 10 to the power of -3
        ("10-30", False, "not a number"),
        ("1..2..3", False, "not a number"),
        ("1–2–3", False, "not a number"),
        ("1...2", False, "not a number"),
        ("1..", False, "not a number"),
        ("..2", False, "not a number"),
        ("<1..2", False, "not a number"),
        ("1..<2", False, "not a number"),
        ("<", False, "not a number"),
        ("<high", False, "not a number"),
        ("<nan", False, "is missing"),
        (">inf", False, "is infinite"),
        ("0..1", True, "must be above 0"),
        ("<0", True, "must be above 0"),
    ],
)
def test_what_is_no_interval_has_a_reason(text: str, log10: bool, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_interval(text, log10=log10)


@given(NUMBERS, NUMBERS, st.sampled_from(["..", " .. ", "–", "…"]))
def test_any_two_numbers_make_a_range_and_neither_is_one(a: float, b: float, sign: str) -> None:
    lower, upper = sorted((a, b))
    value, *ends = parse_interval(f"{lower!r}{sign}{upper!r}", log10=False)
    assert ends == [lower, upper]
    assert lower <= value <= upper
    assert parse_interval(repr(a), log10=False) == (a, a, a)
    assert parse_target(repr(a), log10=False) == (a, False)


def csv_spec(**settings: Any) -> CsvSpec:
    raw = {"dataset": "csv", "path": "my.csv", "families": ["ratios"], "id": "id"} | settings
    return CsvSpec.model_validate(raw)


def table_of(folder: Any, spec: Any) -> Any:
    folders = {"data_dir": None, "tables_dir": folder / "tables", "base_dir": folder}
    return read(build(spec, **folders).path)


def test_a_csv_file_keeps_intervals_where_they_are_asked_for(tmp_path) -> None:
    lines = ("a,Li2O,1.0", "b,LiCl,<2", "c,LiF,3..5", "d,LiBr,>1", "e,LiI,high")
    (tmp_path / "my.csv").write_text("\n".join(["id,formula,target", *lines]), encoding="utf-8")
    table = table_of(tmp_path, csv_spec(censored="interval"))
    assert table.y.tolist() == [1, 2, 4, 1]
    assert table.bounds.tolist() == [[1, 1], [-INF, 2], [3, 5], [1, INF]]
    assert [row.id for row in table.skipped] == ["e"]
    as_value = table_of(tmp_path, csv_spec())
    assert as_value.bounds is None
    assert as_value.y.tolist() == [1, 2, 1]
    assert {row.id: "censored" in row.reason for row in as_value.skipped} == {"c": True, "e": False}
    with pytest.raises(ValidationError, match="`censored` is for numbers"):
        csv_spec(censored="interval", task="classification")


def test_measured_rows_make_the_same_table_either_way(tmp_path) -> None:
    (tmp_path / "my.csv").write_text("id,formula,target\na,Li2O,1\nb,LiCl,2\nc,LiF,3\n")
    plain, kept = (table_of(tmp_path, csv_spec(**more)) for more in ({}, {"censored": "interval"}))
    assert kept.bounds is None
    assert kept.hash == plain.hash
    assert "censored" not in csv_spec().model_dump()


def load_rows(data_dir: Any, upper: float, more: str = "") -> OwnRows:
    """Return rows with bounds; of two targets, these are of the first or of `more`."""
    del data_dir
    rows = OwnRows(
        ids=["a", "b"],
        groups=["a", "b"],
        labels=["LiF", "LiCl"],
        X=np.zeros((2, 1)),
        y=np.array([1.0, 2.0]),
        columns=[Column("x", "own")],
        target=Target("t"),
        bounds=np.array([[1.0, 1.0], [2.0, upper]]),
    )
    if not more:
        return rows
    y = np.column_stack([rows.y, rows.y + 1])
    bounds = rows.bounds if more == "first" else np.stack([y, y + np.array([0, upper - 2])], axis=2)
    return replace(rows, y=y, target=[Target("t"), Target("u")], bounds=bounds)


def test_a_table_of_ones_own_has_bounds_too(tmp_path) -> None:
    assert table_of(tmp_path, own_spec(upper=2.0)).bounds is None
    assert table_of(tmp_path, own_spec(upper=INF)).bounds.tolist() == [[1, 1], [2, INF]]


def own_spec(**params: Any) -> OwnSpec:
    return OwnSpec(dataset="own", loader=f"{__name__}:load_rows", params=params)


@pytest.mark.parametrize("more", ["first", "all"])
def test_bounds_that_say_nothing_are_none_of_several_targets_either(tmp_path, more: str) -> None:
    table = table_of(tmp_path, own_spec(upper=2.0, more=more))
    assert (table.bounds, table.y.tolist()) == (None, [[1, 2], [2, 3]])
    with pytest.raises(FeaturesError, match="bounds are of one target, and there are 2"):
        table_of(tmp_path, own_spec(upper=5.0, more=more))
