"""A study that is written as TOML is read back as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.cli import main
from hpo.errors import AbsentError
from hpo.spec.loading import load, read_toml, validate
from hpo.spec.variants import VARIANTS_NAME, read_variants, study_files
from hpo.spec.writing import write_toml
from tests.support.studies import ROOT, make_spec

FILES = [
    file
    for folder in (ROOT / "studies").glob("*/")
    if [*folder.glob("*.toml")]
    for file in study_files(folder)
]


def read_back(spec: Any, folder: Path) -> Any:
    file = folder / "read_back.toml"
    file.write_text(write_toml(spec), encoding="utf-8")
    return load(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_study_file_and_its_variants_read_back(file, tmp_path):
    assert read_back(load(file), tmp_path) == load(file)
    beside = file.parent / VARIANTS_NAME
    for variant in read_variants(beside).values() if beside.is_file() else ():
        try:
            spec = load(file, variant.set)
        except AbsentError:
            continue
        assert read_back(spec, tmp_path) == spec


# A study file has no NUL.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(params=st.dictionaries(TEXTS, VALUES, max_size=4), description=TEXTS)
def test_any_parameters_and_texts_read_back(params, description, tmp_path_factory):
    own = {"name": "tests.support.objectives:Parabola", "params": params}
    spec = make_spec(
        description=description, table=None, cv=None, estimator=None, objective=own,
        space={"a b": {"type": "categorical", "choices": [1, 1.0, True, "x\x7f\n", math.inf]}},
    )  # fmt: skip
    assert read_back(spec, tmp_path_factory.mktemp("toml")) == spec


def test_what_show_prints_is_a_study_file(begin_study, tmp_path, monkeypatch, capfd):
    record = begin_study(description="quoted: \"é\", \\ and 'x'", pruning=False)
    monkeypatch.chdir(tmp_path)
    record.ledger.set_budget(9)
    assert main(["show", "small"]) == 0
    shown = capfd.readouterr().out
    Path("again.toml").write_text(shown, encoding="utf-8")
    assert load(Path("again.toml")) == record.spec
    assert "# the budget is 9 now" in shown
    assert main(["show", "small", "--json"]) == 0
    assert validate(read_toml(Path("again.toml")), "x") == record.spec
    assert main(["show", "smal"]) == 2
    assert "did you mean 'small'" in capfd.readouterr().err
