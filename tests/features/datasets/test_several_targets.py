"""Tables with several targets: what is read, refused and skipped, and what identifies them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import features.table
from features.table import CsvSpec, FeatureTable, OwnSpec, TableError, Target
from features.tables.checks import check_rows
from tests.support.tables.own_tables import rows_of_table

ROWS = "x,a,b\n" + "".join(f"{k},{k * k % 17},{10 ** (k % 5)}\n" for k in range(20))


def spec_of(**settings: Any) -> CsvSpec:
    raw = {"dataset": "csv", "path": "my.csv", "columns": ["x"], "target": ["a", "b"]}
    return CsvSpec(**{**raw, **settings})


def table_of(folder: Path, text: str = ROWS, **settings: Any) -> FeatureTable:
    (folder / "my.csv").write_text(text)
    built = features.table.build(
        spec_of(**settings), data_dir=None, tables_dir=folder / "tables", base_dir=folder
    )
    return features.table.read(built.path)


def test_each_target_has_a_column_a_unit_and_a_scale(tmp_path: Path) -> None:
    table = table_of(tmp_path, target_unit=["eV", "S/cm"], log10=[False, True])
    assert table.targets == (Target("a", "eV"), Target("b", "S/cm", log10=True))
    assert table.y.shape == (20, 2)
    np.testing.assert_array_equal(table.y[:, 0], [k * k % 17 for k in range(20)])
    np.testing.assert_array_equal(table.y[:, 1], [k % 5 for k in range(20)])
    assert table.train.y.shape == (int(table.is_train.sum()), 2)
    of_all = table_of(tmp_path, target_unit="eV")
    assert [target.unit for target in of_all.targets] == ["eV", "eV"]


def test_a_list_of_one_target_is_that_target(tmp_path: Path) -> None:
    alone, listed = table_of(tmp_path, target="a"), table_of(tmp_path, target=["a"])
    assert alone.hash == listed.hash
    assert alone.y.ndim == 1


def test_order_names_and_values_of_targets_identify_a_table(tmp_path: Path) -> None:
    same = ROWS.replace("x,a,b", "x,b,a")
    hashes = {
        table_of(tmp_path, text, target=target, target_unit=unit).hash
        for text in (ROWS, same)
        for target in (["a", "b"], ["b", "a"], "a")
        for unit in ("", "eV")
    }
    assert len(hashes) == 12


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [("", "it is missing"), ("no", "'no'"), ("NA", "it is missing")],
)
def test_a_row_without_one_of_them_is_skipped_by_its_name(
    tmp_path: Path, lacking: str, reason: str
) -> None:
    table = table_of(tmp_path, f"{ROWS}30,1,{lacking}\n31,{lacking},1\n")
    assert table.n_rows == 20
    assert [row.line for row in table.skipped] == [22, 23]
    for row, name in zip(table.skipped, ("b", "a"), strict=True):
        assert f"target '{name}'" in row.reason
        assert reason in row.reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": []}, "one column or several, each once"),
        ({"target": ["a", "a"]}, "each once, got ['a', 'a']"),
        ({"target_unit": ["eV"] * 3}, "3 for 2 targets"),
        ({"log10": [True]}, "1 for 2 targets"),
        ({"log10": "yes"}, "must be true, false or a list with one for each target, got 'yes'"),
        ({"target": ["a", 5]}, "must be a text or a list with one for each target, got ['a', 5]"),
        ({"task": "classification"}, "takes one target, got 2: a, b"),
        ({"censored": "interval"}, "censored 'interval' takes one target, got 2: a, b"),
        ({"columns": ["x", "b"]}, "column 'b' is the target"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        spec_of(**settings)


def test_a_column_that_gives_any_of_them_away_is_said_to(tmp_path: Path) -> None:
    lines = [f"{k},{k * k % 17},{(k * 7) % 13},{2 * ((k * 7) % 13) + 1}" for k in range(20)]
    table = table_of(tmp_path, "\n".join(["x,a,b,b2", *lines, ""]), columns=["x", "b2"])
    assert [column.derived_from_target for column in table.columns] == [False, True]


def test_rows_must_hold_what_they_say(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    rows = rows_of_table(table)
    check_rows(rows)
    for change, message in (
        ({"y": table.y[:, 0]}, r"shape \(20, 2\)"),
        ({"more_targets": ()}, r"shape \(20,\)"),
        ({"more_targets": (Target("a"),)}, "names of their own"),
        ({"more_targets": (Target("c", classes=("no", "yes")),)}, "several targets must be number"),
        ({"bounds": table.y}, "bounds are of one target, and there are 2"),
    ):
        with pytest.raises(TableError, match=message):
            check_rows(replace(rows, **change))


LOADER = """
import numpy as np
from features.table import Column, OwnRows, Target

def rows(data_dir, n=2):
    y = np.arange(12.0).reshape(6, 2)[:, :n]
    targets = [Target("a", "K"), Target("b", log10=True)][:n]
    names = [f"r{k}" for k in range(6)]
    columns = [Column(f"x{k}", "own") for k in range(6)]
    return OwnRows(names, names, names, np.eye(6), y, columns, targets)
"""


def test_a_function_of_the_study_s_own_returns_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "several_own.py").write_text(LOADER)
    monkeypatch.syspath_prepend(tmp_path)

    def build(n: int) -> FeatureTable:
        spec = OwnSpec(dataset="own", loader="several_own:rows", params={"n": n})
        built = features.table.build(
            spec, data_dir=None, tables_dir=tmp_path / "tables", base_dir=tmp_path
        )
        return features.table.read(built.path)

    table = build(2)
    assert table.targets == (Target("a", "K"), Target("b", log10=True))
    np.testing.assert_array_equal(table.y, np.arange(12.0).reshape(6, 2))
    held_out = table.holding_out(np.array([0, 1]))
    assert held_out.targets == table.targets
    assert held_out.test.y.shape == (2, 2)
    alone = build(1)
    assert (alone.y.ndim, alone.more_targets) == (1, ())
