"""Columns of a CSV file as features, weights and folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

import features.table
from features.families.own_columns import gives_away, names_class, number_column
from features.table import Column, CsvSpec, DatasetError, FeatureTable, TableError
from tests.support.rankings import write_csv

HEADER = ["T (K)", "route", "x", "y_measured", "split", "w", "fold", "formula"]
ROWS: list[list[Any]] = [
    ["900", "sol-gel", "0.1", "1.0", "train", "1", "0", "LiF"],
    ["1000", "melt", "", "2.5", "train", "2", "1.0", "LiCl"],
    ["", "sol-gel", "0.3", "2.0", "train", "0.5", "-1", "Li2O"],
    ["about 900", "", "0.2", "0.5", "train", "1", "", "Li2S"],
    ["1200", "spark", "0.4", "3.0", "test", "1", "", "LiBr"],
]


def spec_of(**settings: Any) -> CsvSpec:
    raw = {"dataset": "csv", "path": "my.csv", "target": "y_measured", "split": "split"}
    return CsvSpec.model_validate(raw | settings)


def table_of(
    folder: Path, rows: list[list[Any]] = ROWS, header: list[str] = HEADER, **settings: Any
) -> FeatureTable:
    write_csv(folder / "my.csv", header, rows)
    place: dict[str, Any] = {"data_dir": None, "tables_dir": folder / "tables", "base_dir": folder}
    return features.table.read(features.table.build(spec_of(**settings), **place).path)


def test_numbers_and_categories_are_features_as_they_are(tmp_path: Path) -> None:
    table = table_of(tmp_path, columns=["T (K)", "x"], categorical=["route"])
    names = ("T (K)", "x", "route=melt", "route=sol-gel")
    assert table.columns == tuple(
        Column(name, "columns", "K" if name == "T (K)" else "") for name in names
    )
    nan = np.nan
    expected = [
        [900, 0.1, 0, 1],
        [1000, nan, 1, 0],
        [nan, 0.3, 0, 1],
        [nan, 0.2, nan, nan],
        [1200, 0.4, 0, 0],  # no training row has its route
    ]
    np.testing.assert_array_equal(table.X, expected)
    said = {(row.line, row.family): row.reason for row in table.partial if row.id != "*"}
    assert said[5, "columns"] == "T (K) 'about 900': it is not a number"
    assert "'spark' is in no training row" in said[6, "columns"]
    counted = [row.reason for row in table.partial if row.id == "*"]
    missing = {"T (K)": 1, "x": 1, "route": 1}
    assert counted == [
        f"column {name!r}: {n} of 5 rows have no value" for name, n in missing.items()
    ]


def test_they_stand_behind_what_families_make(tmp_path: Path) -> None:
    table = table_of(tmp_path, columns=["x"], families=["ratios"])
    assert table.feature_names[-2:] == ("n_elements", "x")
    assert table.formulas.tolist() == [row[-1] for row in ROWS]


def test_a_table_needs_no_formula(tmp_path: Path) -> None:
    rows = [row[:-1] for row in ROWS]
    table = table_of(tmp_path, rows, HEADER[:-1], columns=["x"])
    assert set(table.formulas) == {""}
    assert len(set(table.groups)) == len(rows)
    assert features.table.changed_families(table, spec_of(columns=["x"])) == []
    with pytest.raises(DatasetError, match="no column 'formula' for the formula"):
        table_of(tmp_path, rows, HEADER[:-1], families=["ratios"])


def test_weights_and_folds(tmp_path: Path) -> None:
    table = table_of(tmp_path, columns=["x"], weight="w", fold="fold")
    assert table.weights is not None
    assert table.test_fold is not None
    assert table.weights.tolist() == [1.0, 2.0, 0.5, 1.0, 1.0]
    assert table.test_fold.tolist() == [0, 1, -1, -1, -1]
    bad = [[*ROWS[0][:5], weight, *ROWS[0][6:]] for weight in ("0", "-1", "", "inf", "heavy")]
    table = table_of(tmp_path, [*ROWS, *bad], columns=["x"], weight="w")
    assert [row.line for row in table.skipped] == [7, 8, 9, 10, 11]
    assert all("weight in 'w'" in row.reason for row in table.skipped)


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({"columns": ["route"]}, ROWS, "'route' is text, such as 'sol-gel'.* list it as cat"),
        ({"columns": ["T"]}, ROWS, r"no column 'T' for the feature; the nearest is 'T \(K\)'"),
        ({"categorical": ["nothing"]}, None, "'nothing' has no value in any training row"),
        ({"columns": ["nothing"]}, None, "'nothing' has no value in any training row"),
        ({"categorical": ["name"]}, None, "'name' has 101 categories .* may have 100"),
        ({"columns": ["x"], "fold": "nothing"}, None, "'nothing' names 0 folds"),
        ({"columns": ["y"]}, None, "'y' is the table's own column"),
    ],
)
def test_columns_that_make_no_features_are_refused(
    tmp_path: Path, settings: dict[str, Any], rows: list[list[Any]] | None, message: str
) -> None:
    header = HEADER
    if rows is None:
        header = ["x", "nothing", "name", "y", "y_measured", "split"]
        rows = [[k % 7, "", f"row {k}", k % 5, k * k % 11, "train"] for k in range(101)]
    with pytest.raises((DatasetError, TableError), match=message):
        table_of(tmp_path, rows, header, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "at least one family"),
        ({"columns": ["x", "x"]}, "'x' is listed twice"),
        ({"columns": ["x"], "categorical": ["x"]}, "'x' is listed twice"),
        ({"columns": ["y_measured"]}, "'y_measured' is the target"),
        ({"categorical": ["split"]}, "'split' is the split"),
    ],
)
def test_specs_that_contradict_themselves(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec_of(**settings)


@pytest.mark.parametrize(
    ("header", "unit"),
    [("T", ""), ("T (K)", "K"), ("T_[deg C]", "deg C"), ("sigma(S/cm)", "S/cm"), ("f(x) of", "")],
)
def test_units_stand_in_headers(header: str, unit: str) -> None:
    assert number_column(header) == Column(header, "columns", unit)


Floats = NDArray[np.float64]
RNG = np.random.default_rng(0)
Y: Floats = RNG.uniform(1.0, 9.0, 200)
COLUMNS: dict[str, tuple[Floats, bool]] = {
    "in another unit": (3.0 * Y - 2.0, True),
    "its exponential": (np.exp(Y), True),
    "its logarithm": (np.log10(Y), True),
    "in the same order": (-1.0 / Y, True),
    "where it is known": (np.where(np.arange(200) < 20, np.nan, Y * 1e-9), True),
    "like it": (Y + RNG.normal(0.0, 0.3, 200), False),
    "noise": (RNG.normal(size=200), False),
    "constant": (np.ones(200), False),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_is_the_target_in_another_form_is_found(name: str) -> None:
    column, is_made = COLUMNS[name]
    assert gives_away(column, Y) is is_made


def test_a_few_measurements_in_the_order_of_their_temperatures_are_no_leak() -> None:
    few = np.sort(Y[:10])
    assert not gives_away(few**2, few)


def test_a_column_that_names_the_class_is_found() -> None:
    y: Floats = np.arange(60.0) % 3.0
    assert names_class(np.array([7.0, 5.0, 6.0])[y.astype(int)], y)
    assert names_class((y == 2.0).astype(float), y)
    assert not names_class(RNG.normal(size=60), y)
    assert not names_class(np.arange(60.0) % 2.0, y)
    assert not names_class((y == 2.0).astype(float)[:9], y[:9])
