"""Tables that a process keeps for itself and for its forks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import features.table
import hpo.study.record
from features.table import SkippedRow, TableError
from hpo.study.record import keep_table, read_table_of
from tests.support.studies import make_spec


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpo.study.record, "_kept", [])


@pytest.fixture
def own_table(hand_table: Path, tmp_path: Path) -> Path:
    """A table that a test may damage, of the same rows as `hand_table`."""
    return _write(hand_table, tmp_path)


def _write(hand_table: Path, folder: Path, skipped: tuple[SkippedRow, ...] = ()) -> Path:
    table = features.table.read(hand_table)
    names = ("dataset", "ids", "formulas", "X", "y", "groups", "is_train", "columns", "target")
    return features.table.write(
        folder, **{name: getattr(table, name) for name in names}, skipped=skipped
    )


def test_a_kept_table_is_read_once_and_is_the_one_on_disk(own_table: Path) -> None:
    spec = make_spec()
    keep_table(spec, own_table)
    kept = read_table_of(spec, own_table)
    (own_table / "table.parquet").unlink()
    assert kept is not None
    assert read_table_of(spec, own_table) is kept
    assert kept.train is kept.train


@pytest.mark.parametrize("outer", [None, 0, 1])
def test_held_out_rows_are_those_of_whoever_asks(hand_table: Path, outer: int | None) -> None:
    cv = {"scheme": "kfold", "folds": 4}
    kept_for = make_spec(cv=cv | {"outer": 0})
    keep_table(kept_for, hand_table)
    spec = make_spec(cv=cv if outer is None else cv | {"outer": outer})
    found, expected = read_table_of(spec, hand_table), features.table.read(hand_table)
    assert found is not None
    assert (found is read_table_of(kept_for, hand_table)) == (outer == 0)
    if outer is None:
        np.testing.assert_array_equal(found.X, expected.X)
    else:
        assert found.hash != expected.hash
        assert found.X_new is found.X


def test_a_table_whose_manifest_was_replaced_is_read_again(
    hand_table: Path, own_table: Path
) -> None:
    spec, skipped = make_spec(), (SkippedRow(7, "z", "x.csv", "no formula"),)
    keep_table(spec, own_table)
    assert _write(hand_table, own_table.parent, skipped) == own_table
    found = read_table_of(spec, own_table)
    assert found is not None
    assert found.skipped == skipped


def test_a_damaged_manifest_is_refused_although_the_table_is_kept(own_table: Path) -> None:
    keep_table(make_spec(), own_table)
    manifest = own_table / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"n_rows": 7}))
    with pytest.raises(TableError, match="changed after it was written"):
        read_table_of(make_spec(), own_table)
