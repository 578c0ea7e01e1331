"""Tables that a function of the study's own makes."""

from __future__ import annotations

import numpy as np
import pytest

from features.table import (
    DatasetError,
    OwnSpec,
    build,
    changed_families,
    find_structures,
    read,
    read_candidates,
)
from hpo.errors import SpecError
from hpo.spec.loading import validate
from tests.support.tables.own_tables import CALLS

LOADER = "tests.support.tables.own_tables:load_rows"


def build_own(tmp_path, loader=LOADER, **params):
    spec = OwnSpec(dataset="own", loader=loader, params=params)
    place = {"data_dir": tmp_path, "tables_dir": tmp_path / "tables", "base_dir": tmp_path}
    return build(spec, **place)


@pytest.fixture(autouse=True)
def numbers(tmp_path):
    np.savetxt(tmp_path / "numbers.csv", np.arange(8.0))
    CALLS.clear()


def test_a_table_holds_what_the_function_returned(tmp_path):
    built = build_own(tmp_path, n_rows=5)
    assert {"data_dir": tmp_path, "n_rows": 5} in CALLS
    assert (built.reused, built.n_rows, built.n_features) == (False, 5, 2)
    assert built.skipped[0].reason == "no number"
    table = read(built.path)
    assert table.ids.tolist() == [f"row-{k}" for k in range(5)]
    assert table.train.groups.tolist()[:4] == ["group-0", "group-1", "group-2", "group-0"]
    np.testing.assert_array_equal(table.X[:, 1], np.arange(5.0) ** 2)
    np.testing.assert_array_equal(table.y, np.arange(5.0) * 3.0)
    assert table.is_train.all()
    assert [column.derived_from_target for column in table.columns] == [False, True]
    assert table.manifest["sources"][0]["file"] == "numbers.csv"
    assert table.manifest["citation"] == "nobody"


def test_the_same_content_is_one_table_and_other_content_is_another(tmp_path):
    first = build_own(tmp_path)
    written = (first.path / "table.parquet").stat().st_mtime_ns
    again = build_own(tmp_path)
    assert (again.reused, again.path) == (True, first.path)
    assert (first.path / "table.parquet").stat().st_mtime_ns == written
    assert build_own(tmp_path, shift=0.5).path != first.path
    np.savetxt(tmp_path / "numbers.csv", np.arange(8.0) + 1.0)
    changed = build_own(tmp_path)
    assert not changed.reused
    assert changed.path != first.path


@pytest.mark.parametrize(
    ("loader", "params", "message"),
    [
        ("no_such_module:load", {}, r"\[table\] loader: cannot import 'no_such_module'"),
        ("tests.support.tables.own_tables:lost", {}, "has no 'lost'"),
        ("tests.support.tables.own_tables:CALLS", {}, "is no function"),
        (LOADER, {"n_rosw": 3}, r"cannot be called as .*n_rosw"),
        ("tests.support.tables.own_tables:load_nothing", {}, "must return features.table.OwnRows"),
    ],
)
def test_a_wrong_function_is_named(tmp_path, loader, params, message):
    with pytest.raises(DatasetError, match=message):
        build_own(tmp_path, loader, **params)


def test_what_needs_families_is_refused(tmp_path):
    spec = OwnSpec(dataset="own", loader=LOADER)
    table = read(build_own(tmp_path).path)
    place = {"data_dir": tmp_path, "tables_dir": tmp_path, "base_dir": tmp_path}
    with pytest.raises(DatasetError, match="no structures to describe"):
        find_structures(spec, **place)
    with pytest.raises(DatasetError, match="no features for new candidates"):
        changed_families(table, spec)
    with pytest.raises(DatasetError, match="no features for new candidates"):
        read_candidates(tmp_path / "numbers.csv", spec)


def test_a_study_file_says_what_is_wrong_with_its_loader():
    raw = {"name": "x", "trials": 1, "table": {"dataset": "own", "loader": "nothing"}}
    with pytest.raises(SpecError, match=r"table\.loader: .* got 'nothing'"):
        validate(raw, "x.toml")


STUDY = """
trials = 3
allow_target_derived = ["twin"]
[table]
dataset = "own"
loader = "beside_the_file:load_rows"
[cv]
scheme = "group_kfold"
folds = 3
[estimator]
name = "ridge"
[space]
alpha = { type = "float", low = 0.1, high = 10.0 }
"""


@pytest.mark.slow
def test_a_study_runs_on_a_table_of_its_own(hpo, tmp_path):
    (tmp_path / "beside_the_file.py").write_text(
        "from tests.support.tables.own_tables import load_rows\n"
    )
    (tmp_path / "own.toml").write_text(STUDY)
    data = ("--data", str(tmp_path))
    said = hpo("run", "own.toml", "--workers", "1", *data).stdout
    assert "own: finished, 3 of 3 trials" in said
    assert "unchanged, reused" in hpo("features", "build", "own.toml", *data).stdout
    # A column measured with the target is a feature only where the file says so.
    (tmp_path / "leaky.toml").write_text(STUDY.replace('["twin"]', "[]"))
    refused = hpo("run", "leaky.toml", "--workers", "1", *data, code=2).stderr
    assert "made from the target: 'twin'" in refused
