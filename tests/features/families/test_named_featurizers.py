"""Featurizers by the names of their classes."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import features.table
from features.families.named import code
from features.table import BuildResult, CsvSpec, FamilyError, FeatureTable, read_candidates
from tests.support.rankings import write_csv
from tests.support.tables.materials import LICL

MINE = """
import os, time

class Mine:
    def __init__(self, scale=1.0):
        self.scale = scale
    def feature_labels(self):
        return ["li", "note"]
    def featurize(self, composition):
        atoms = composition.as_dict()
        if "Xe" in atoms:
            raise ValueError("no xenon")
        if "Kr" in atoms:
            time.sleep(60)
        if "Ar" in atoms:
            os._exit(7)
        if "Ne" in atoms:
            return [1.0]
        return [self.scale * atoms.get("Li", 0.0), "salt" if "Cl" in atoms else 1]

class Silent:
    def featurize(self, composition):
        return []

class Offline(Mine):
    def __init__(self):
        import urllib.request
        urllib.request.urlopen("http://data.invalid/table.json")
"""
FORMULAS = ["Li2O", "LiF", "XeF2", "KrF2", "ArF2", "NeF2", "LiCl", "Li2O"]


def spec_of(**settings: Any) -> CsvSpec:
    return CsvSpec.model_validate(
        {"dataset": "csv", "path": "my.csv", "test_fraction": 0} | settings
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    rows = [[f"m{at}", text, at] for at, text in enumerate(FORMULAS)]
    write_csv(tmp_path / "my.csv", ["id", "formula", "target"], rows)
    return tmp_path


def build(folder: Path, spec: CsvSpec) -> BuildResult:
    return features.table.build(
        spec, data_dir=None, tables_dir=folder / "tables", base_dir=folder, workers=2
    )


def table_of(folder: Path, spec: CsvSpec) -> FeatureTable:
    return features.table.read(build(folder, spec).path)


def test_whatever_a_featurizer_does_costs_the_values_of_that_material_alone(folder: Path) -> None:
    mine = {"name": "mine.py:Mine", "params": {"scale": 2.0}, "timeout_s": 1.0}
    spec = spec_of(featurizers=[mine])
    table = table_of(folder, spec)
    assert table.feature_names == ("Mine li", "Mine note")
    nan = np.nan
    np.testing.assert_array_equal(table.X[:, 0], [4, 2, nan, nan, nan, nan, 2, 4])
    np.testing.assert_array_equal(table.X[:, 1], [1, 1, nan, nan, nan, nan, nan, 1])
    said = {row.line: row.reason for row in table.partial}
    assert "ValueError: no xenon" in said[4]
    assert "it took longer than 1 s" in said[5]
    assert "it ended its process (exit code 7)" in said[6]
    assert "1 values for 2 columns" in said[7]
    assert "'salt': no number" in said[8]

    write_csv(folder / "new.csv", ["formula"], [["Li3N"], ["XeF4"]])
    found = read_candidates(folder / "new.csv", spec, table=table)
    np.testing.assert_array_equal(found.X, [[6.0, 1.0], [nan, nan]])
    assert found.lacking["Mine"].tolist() == [False, True]


def test_values_are_kept_until_the_code_means_something_else(folder: Path) -> None:
    spec = spec_of(featurizers=[{"name": "mine.py:Mine", "timeout_s": 1.0}])
    before = code.code_of("mine.py")
    (folder / "mine.py").write_text(f'"""A comment."""\n# another\n{MINE}')
    assert code.code_of("mine.py") == before
    write_csv(folder / "my.csv", ["formula", "target"], [["Li2O", 1], ["LiF", 2]])
    assert not build(folder, spec).reused
    assert build(folder, spec).reused
    (folder / "mine.py").write_text(MINE.replace("self.scale *", "10 * self.scale *"))
    assert code.code_of("mine.py") != before
    assert table_of(folder, spec).X[0, 0] == 20.0


def test_matminers_classes_stand_among_the_families(folder: Path) -> None:
    rows = [["m0", "LiCl", 1], ["m1", "LiFePO4", 2]]
    write_csv(folder / "my.csv", ["id", "formula", "target"], rows)
    cifs = folder / "cifs"
    cifs.mkdir()
    (cifs / "m0.cif").write_bytes(LICL if isinstance(LICL, bytes) else LICL.encode())
    spec = spec_of(
        id="id",
        cifs="cifs",
        families=["matminer.featurizers.composition:Stoichiometry", "stoichiometry"],
        featurizers=[
            {"name": "matminer.featurizers.composition:ElementProperty", "preset": "magpie"},
            {"name": "matminer.featurizers.structure:DensityFeatures", "family": "density"},
        ],
    )
    table = table_of(folder, spec)
    own = [column.family for column in table.columns]
    assert list(dict.fromkeys(own)) == [
        "Stoichiometry",
        "stoichiometry",
        "ElementProperty-magpie",
        "density",
    ]
    parts = {name: table.X[:, [family == name for family in own]] for name in own}
    np.testing.assert_allclose(parts["Stoichiometry"], parts["stoichiometry"], atol=1e-9)
    assert parts["ElementProperty-magpie"].shape == (2, 132)
    assert np.isfinite(parts["density"][0]).all()
    assert np.isnan(parts["density"][1]).all()


@pytest.mark.parametrize(
    ("featurizer", "message"),
    [
        ({"name": "mine.py:Nobody"}, "'mine.py' has no 'Nobody'"),
        ({"name": "theirs.py:Mine"}, "no file theirs.py"),
        ({"name": "no_such_module:Mine"}, "cannot import 'no_such_module'"),
        ({"name": "mine.py:Mine", "params": {"depth": 1}}, "cannot be made with .*depth"),
        ({"name": "mine.py:Mine", "preset": "magpie"}, "from_preset"),
        ({"name": "mine.py:Silent"}, "has no feature_labels"),
        ({"name": "mine.py:Offline"}, "do that once on a machine with a network"),
    ],
)
def test_what_is_no_featurizer_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, featurizer: dict[str, Any], message: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(FamilyError, match=message):
        build(folder, spec_of(featurizers=[featurizer]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": ["a:B", "a:B"]}, "listed twice"),
        ({"families": ["a:B"], "featurizers": [{"name": "c:B"}]}, "two families called 'B'"),
        ({"featurizers": [{"name": "c:B", "family": "magpie"}]}, "two families called 'magpie'"),
        ({"families": ["matminer.featurizers.structure:DensityFeatures"]}, "needs CIF files"),
        ({"featurizers": [{"name": "no class"}]}, "should match pattern"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec_of(**settings)
