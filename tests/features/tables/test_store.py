"""Tables on disk: whole or not there, verified when read, one hash everywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.atomic_files import clear_dead_scratch, scratch_folder
from features.table import (
    Column,
    FeatureTable,
    PartialRow,
    SkippedRow,
    TableError,
    Target,
    read,
    read_manifest,
    write,
)
from tests.support.studies import ROOT


def pieces(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "dataset": "hand",
        "ids": ["a", "b", "é"],
        "formulas": ["LiF", "LiCl", "Li2O"],
        "X": np.array([[1.0, np.nan], [0.5, -2.0], [3.0, 4.0]]),
        "y": np.array([1.0, 2.0, 3.0]),
        "groups": ["g", "g", "h"],
        "is_train": np.array([True, True, False]),
        "columns": [Column("u", "ratios"), Column("v", "cell", "A")],
        "target": Target("sigma", "S/cm", log10=True),
    }
    return made | changes


@pytest.mark.parametrize(
    ("mask", "adjacent"),
    [("110", True), ("011", True), ("111", True), ("010", True), ("101", False), ("000", False)],
)
def test_rows_are_views_where_they_are_adjacent(tmp_path: Path, mask: str, adjacent: bool) -> None:
    table = read(write(tmp_path, **pieces(weights=np.array([1.0, 2.0, 3.0]))))
    picked = np.array([row == "1" for row in mask])
    view = table.rows(picked)
    for name in ("ids", "X", "X_new", "y", "groups", "weights"):
        found, whole = getattr(view, name), getattr(table, name)
        np.testing.assert_array_equal(found, whole[picked])
        assert not found.flags.writeable
        assert np.shares_memory(found, whole) == adjacent
    assert view.X_new is view.X


def test_round_trip(tmp_path: Path) -> None:
    skipped = [SkippedRow(7, "z", "x.csv", "no formula")]
    partial = [PartialRow(2, "a", "x.csv", "cell", "b is empty")]
    table = read(write(tmp_path, **pieces(skipped=skipped, partial=partial)))
    assert table.name == f"hand-2-{table.hash[:12]}" == table.path.name
    assert (table.n_rows, table.n_features, table.feature_names) == (3, 2, ("u", "v"))
    np.testing.assert_array_equal(table.X, pieces()["X"])
    assert table.X.flags.c_contiguous
    assert table.ids.tolist() == ["a", "b", "é"]
    assert (list(table.skipped), list(table.partial)) == (skipped, partial)
    assert table.columns[1] == Column("v", "cell", "A")
    assert table.target == Target("sigma", "S/cm", log10=True)
    assert table.train.ids.tolist() == ["a", "b"]
    assert table.test.y.tolist() == [3.0]


def test_weights_and_folds_are_kept_with_the_rows(tmp_path: Path) -> None:
    plain = write(tmp_path, **pieces())
    weights, test_fold = np.array([1.0, 0.5, 2.0]), np.array([0, -1, 1])
    table = read(write(tmp_path, **pieces(weights=weights, test_fold=test_fold)))
    assert table.hash != read(plain).hash
    assert table.train.weights is not None
    assert table.train.weights.tolist() == [1.0, 0.5]
    held_out = table.holding_out(np.array([0])).train.test_fold
    assert held_out is not None
    assert held_out.tolist() == [-1]
    with pytest.raises(TableError, match="above 0"):
        write(tmp_path, **pieces(weights=np.array([1.0, 0.0, 2.0])))


def test_bounds_are_kept_with_the_rows(tmp_path: Path) -> None:
    bounds = np.array([[1.0, 1.0], [-np.inf, 2.0], [2.5, 3.5]])
    table = read(write(tmp_path, **pieces(bounds=bounds)))
    plain = read(write(tmp_path, **pieces()))
    assert plain.bounds is None
    assert table.hash != plain.hash
    assert table.bounds is not None
    assert table.bounds.tolist() == bounds.tolist()
    held_out = table.holding_out(np.array([1]))
    assert held_out.test.bounds is not None
    assert held_out.test.bounds.tolist() == [[-np.inf, 2.0]]
    assert held_out.hash != plain.holding_out(np.array([1])).hash
    for wrong in ([2.0, 3.0], [-np.inf, np.inf], [np.nan, 1.0]):
        with pytest.raises(TableError, match=r"bounds must be a lower .* those of 'a' are"):
            write(tmp_path, **pieces(bounds=np.array([wrong, *bounds[1:]])))
    with pytest.raises(TableError, match=r"of shape \(3, 2\)"):
        write(tmp_path, **pieces(bounds=bounds[:, :1]))
    target = Target("kind", classes=("a", "b", "c", "d"))
    with pytest.raises(TableError, match="classes has no bounds"):
        write(tmp_path, **pieces(bounds=bounds, target=target))


@pytest.mark.parametrize("name", ["ids", "X", "y", "groups", "is_train", "formulas"])
def test_arrays_are_read_only(tmp_path: Path, name: str) -> None:
    table: FeatureTable = read(write(tmp_path, **pieces()))
    with pytest.raises(ValueError, match="read-only"):
        getattr(table, name)[0] = 0


def test_pandas_opens_it(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.read_parquet(write(tmp_path, **pieces()) / "table.parquet")
    assert list(frame.columns) == ["id", "formula", "y", "group", "split", "u", "v"]
    assert list(frame["split"]) == ["train", "train", "test"]


def test_hash_rests_on_content_alone(tmp_path: Path) -> None:
    names = {write(tmp_path / str(i), **pieces()).name for i in range(2)}
    minus_zero = pieces(X=np.array([[1.0, -np.nan], [0.5, -2.0], [3.0, 4.0]]))
    names.add(write(tmp_path / "nan", **minus_zero).name)
    assert len(names) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"ids": ["a", "b", "c"]},
        {"X": np.array([[1.0, np.nan], [0.5, -2.0], [3.0, 4.5]])},
        {"y": np.array([1.0, 2.0, 3.5])},
        {"groups": ["g", "h", "h"]},
        {"is_train": np.array([True, True, True])},
        {"columns": [Column("u", "ratios"), Column("w", "cell", "A")]},
        {"columns": [Column("u", "ratios", derived_from_target=True), Column("v", "cell", "A")]},
        {"target": Target("sigma", "S/cm")},
    ],
)
def test_hash_changes_with_all_a_score_depends_on(tmp_path: Path, change: dict[str, Any]) -> None:
    assert write(tmp_path, **pieces()).name != write(tmp_path, **pieces(**change)).name


def test_same_content_again_renews_the_account_of_rows(tmp_path: Path) -> None:
    first = write(tmp_path, **pieces())
    again = write(tmp_path, **pieces(skipped=[SkippedRow(9, "q", "x.csv", "why")]))
    assert first == again
    assert read(again).skipped[0].id == "q"


@pytest.mark.parametrize(
    "change",
    [
        {"ids": ["a", "a", "b"]},
        {"ids": ["a", "b"]},
        {"y": np.array([1.0, np.nan, 2.0])},
        {"X": np.array([[1.0, np.inf], [0.5, -2.0], [3.0, 4.0]])},
        {"is_train": np.zeros(3, dtype=bool)},
        {"columns": [Column("u", "ratios"), Column("y", "cell")]},
        {"columns": [Column("u", "ratios"), Column("u", "cell")]},
    ],
)
def test_pieces_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(TableError, match="table: "):
        write(tmp_path, **pieces(**change))
    assert not [path for path in tmp_path.rglob("*") if path.name != ".tmp"]


def test_missing_half_and_foreign_tables(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is none; build it first"):
        read(tmp_path / "nowhere")
    folder = write(tmp_path, **pieces())
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(TableError, match="format version 99"):
        read_manifest(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"n_rows": 4}))
    with pytest.raises(TableError, match="was changed"):
        read(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(TableError, match=r"no manifest\.json"):
        read(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole"), **pieces())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(["table.parquet", "manifest.json"]), data=st.data())
def test_any_damage_is_a_table_error(
    whole: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir(exist_ok=True)
    for source in whole.iterdir():
        (copy / source.name).write_bytes(source.read_bytes())
    original = (whole / name).read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    if data.draw(st.booleans()):
        damaged = original[:at]
    else:
        bit = 1 << data.draw(st.integers(0, 7))
        damaged = original[:at] + bytes([original[at] ^ bit]) + original[at + 1 :]
    (copy / name).write_bytes(damaged)
    try:
        table = read(copy)
    except TableError:
        return
    # White space between JSON tokens may differ without anything being different.
    assert name == "manifest.json"
    assert table.hash == read(whole).hash


def test_a_damaged_table_is_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path, **pieces())
    (folder / "table.parquet").write_bytes(b"PAR1")
    assert read(write(tmp_path, **pieces())).n_rows == 3


def test_unwritable_folder_is_a_table_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot be written"):
        write(tmp_path / "file", **pieces())


def test_live_scratch_is_left_and_dead_scratch_cleared(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from features.atomic_files import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as f:\n"
        "    (f / 'x').write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        assert clear_dead_scratch(tmp_path) == 0
        assert len(list((tmp_path / ".tmp").iterdir())) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5.0
    while clear_dead_scratch(tmp_path) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_scratch_cleans_up_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder(tmp_path):
        raise RuntimeError
    assert list((tmp_path / ".tmp").iterdir()) == []
