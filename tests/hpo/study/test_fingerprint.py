"""What counts as the code of an objective."""

from __future__ import annotations

import sys

import pytest

from hpo.study.fingerprint import fingerprint_of_spec
from tests.support.studies import make_spec

MODULES = {
    "objective": "from ownsystem.model import depth\nimport ownsystem.rows\nimport json\n",
    "model": "from ownsystem import constants\nfrom . import relative\n",
    "rows": "",
    "constants": "",
    "relative": "",
    "unused": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "ownsystem"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownsystem"]:
        del sys.modules[name]


def code_of(name):
    spec = make_spec(objective={"name": name}, cv=None, estimator=None, table=None)
    return fingerprint_of_spec(spec)["code"]


@pytest.mark.parametrize("changed", sorted(MODULES))
def test_the_code_is_the_objective_and_what_it_imports_of_its_folder(package, changed):
    before = code_of("ownsystem.objective:Own")
    path = package / f"{changed}.py"
    path.write_text(path.read_text() + "x = 1\n")
    assert (code_of("ownsystem.objective:Own") != before) == (changed != "unused")


def test_a_module_beside_the_study_file_may_import_another(tmp_path, monkeypatch):
    (tmp_path / "own_alone.py").write_text("import own_helper\nimport numpy\n")
    (tmp_path / "own_helper.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_of("own_alone:Own")
    (tmp_path / "own_helper.py").write_text("x = 1\n")
    assert code_of("own_alone:Own") != before
