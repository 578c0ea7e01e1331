"""Study files: what is refused, and whether the message says thing, rule, value and way out."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

from features.table import TransportSpec
from hpo.analysis.comparison.reported import read_reported_file
from hpo.errors import AbsentError, SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.objectives.factory import make_objective
from hpo.spec.cv import KFoldCv
from hpo.spec.loading import canonical, load, read_toml, validate
from hpo.spec.space import FloatDimension
from hpo.spec.variants import REPORTED_NAME, VARIANTS_NAME, read_variants, study_files
from hpo.study.identity.fingerprint import fingerprint
from tests.support.studies import ROOT, make_spec
from tests.support.trials import need

FOLDERS = [path for path in (ROOT / "studies").iterdir() if any(path.glob("*.toml"))]
STUDIES = sorted(path for folder in FOLDERS for path in study_files(folder))

VALID = """
trials = 10
[table]
dataset = "transport"
families = ["ratios"]
[cv]
scheme = "kfold"
[estimator]
name = "ridge"
[space]
alpha = { type = "float", low = 0.001, high = 10.0, log = true }
"""


PARABOLA = {"name": "tests.support.objectives:Parabola"}
NO_TABLE: dict[str, Any] = {"table": None, "cv": None, "estimator": None}
SECTIONS = {
    "table": {"dataset": "transport", "families": ["ratios"]},
    "cv": {"scheme": "kfold"},
    "estimator": {"name": "ridge"},
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_gives_its_name_to_the_study(tmp_path):
    spec = load(write(tmp_path, VALID))
    assert spec.name == "mine"
    assert spec.objective.name == "penalised_cv"
    assert spec.space["alpha"] == FloatDimension(type="float", low=0.001, high=10.0, log=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trials", "trails"), "trails: unknown key; did you mean 'trials'?"),
        (("scheme", "sheme"), r"cv: required key 'scheme' is missing; 'sheme' is unknown"),
        (('"kfold"', '"kfolds"'), r"cv.scheme: unknown 'kfolds'; did you mean 'kfold'\?"),
        (('"transport"', '"transprot"'), r"table.dataset: unknown 'transprot'; did you mean 'tra"),
        (('"float"', '"flaot"'), r"space.alpha.type: unknown 'flaot'; did you mean 'float'"),
        (("high", "hihg"), r"space.alpha.hihg: unknown key; did you mean 'high'"),
        (("low = 0.001", "low = 20"), "low must be smaller than high, got 20.0 and 10.0"),
        (("low = 0.001", "low = 0"), "a log scale needs low > 0, got 0.0"),
        (("log = true", "log = true, step = 0.1"), "log and step exclude each other"),
        (("log = true", "step = 0.7"), "must be a multiple of step"),
        (("low = 0.001", "low = -inf"), "must be finite"),
        (("trials = 10", "trials = 0"), "trials: .* greater than or equal to 1, got 0"),
        (("trials = 10", 'trials = "10"'), "trials: input should be a valid integer, got '10'"),
        (("trials = 10", "trials = "), "not valid TOML"),
        (('"ratios"', '"ratio"'), "table.families: unknown family 'ratio'"),
        (('[cv]\nscheme = "kfold"', ""), r"objective penalised_cv needs \[cv\]"),
        (("[cv]", "[objective]\nmetric='rsme'\n[cv]"), "unknown 'rsme'; did you mean 'rmse'"),
        (("[cv]", "[objective]\npenalty=-1\n[cv]"), "penalty: .*greater than or equal to 0"),
        (
            ("[cv]", "[objective]\nname='quantil'\n[cv]"),
            r"objective\.name: unknown 'quantil'; did you mean 'quantile'\?",
        ),
        (("[cv]", "[objective]\nname='spearmann'\n[cv]"), "did you mean 'spearman'"),
        (("[cv]", "[objective]\nname='rho'\n[cv]"), "penalised_cv, quantile, spearman"),
        (("[cv]", "[objective]\nname=3\n[cv]"), r"objective\.name: input should be .*, got 3"),
        (("[cv]", "[objective]\nname='quantile'\n[cv]"), r"objective\.level: required and missing"),
        (
            ("[cv]", "[objective]\nname='quantile'\nlevel=5\n[cv]"),
            r"objective\.level: .*less than 1, got 5",
        ),
        (
            ("[cv]", "[objective]\nname='quantile'\nlevl=0.5\n[cv]"),
            r"objective\.levl: unknown key; did you mean 'level'",
        ),
        (
            ("[cv]", "[objective]\nname='spearman'\npenalty=0.1\n[cv]"),
            r"objective\.penalty: unknown key; valid: constraints, directions, name",
        ),
        (("trials = 10", "trials = 10\nname = 'a b'"), "name: .*pattern"),
        (('name = "ridge"', 'name = "ridge"\nparams = {alpha = 1.0}'), "alpha: fixed in .* and in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, message):
    assert change[0] in VALID
    path = write(tmp_path, VALID.replace(change[0], change[1], 1))
    with pytest.raises(SpecError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    path = write(tmp_path, VALID.replace("trials = 10", "trails = 1\nseed = -1"))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 3  # trails unknown, trials missing, seed < 0


def test_a_missing_file_and_bad_bytes_are_said(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        load(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_bytes(b"trials = 1 # \xff")
    with pytest.raises(SpecError, match="not UTF-8 text"):
        load(tmp_path / "bad.toml")


def test_overrides_reach_any_field(tmp_path):
    path = write(tmp_path, VALID)
    spec = load(path, ["trials=99", "cv.folds=3", "table.target=seebeck_n", "name=other"])
    assert spec.trials == 99
    assert spec.cv == KFoldCv(scheme="kfold", folds=3)
    assert isinstance(spec.table, TransportSpec)
    assert spec.table.target == "seebeck_n"
    assert spec.name == "other"


def test_overrides_add_to_lists_and_take_from_them(tmp_path):
    path = write(tmp_path, VALID)
    table = load(path).table
    assert isinstance(table, TransportSpec)
    added = load(path, ["table.families+=stoichiometry"]).table
    assert isinstance(added, TransportSpec)
    assert added.families == (*table.families, "stoichiometry")
    both = ["table.families+=stoichiometry", f"table.families-={table.families[0]}"]
    taken = load(path, both).table
    assert isinstance(taken, TransportSpec)
    assert taken.families == (*table.families[1:], "stoichiometry")
    assert load(path, ["allow_target_derived+=x"]).allow_target_derived == ("x",)
    with pytest.raises(AbsentError, match=r"--set table\.families-=smakt: the list .* no 'smakt'"):
        load(path, ["table.families-=smakt"])
    with pytest.raises(SpecError, match=r"--set trials\+=3: is for a list, and there is"):
        load(path, ["trials+=3"])


@pytest.mark.parametrize("override", ["trials", "=3", "-=3", "trials.x=3"])
def test_a_bad_override_is_named(tmp_path, override):
    with pytest.raises(SpecError, match="--set"):
        load(write(tmp_path, VALID), [override])


def test_an_empty_space_is_one_trial():
    with pytest.raises(SpecError, match="trials must be 1, got 6"):
        make_spec(space={})
    assert make_spec(space={}, trials=1).space == {}


def test_a_custom_objective_needs_no_table():
    spec = make_spec(objective={"name": "a.b:C"}, table=None, cv=None, estimator=None)
    assert spec.table is None
    with pytest.raises(SpecError, match=r"belong to objectives penalised_cv, quantile and sp"):
        make_spec(objective={"name": "a.b:C"}, table=None)
    with pytest.raises(SpecError, match=r"objective\.parms: unknown key; did you mean 'params'"):
        make_spec(objective={"name": "a.b:C", "parms": {}}, table=None, cv=None, estimator=None)


def test_the_canonical_form_survives_a_round_trip_and_ignores_order():
    spec = make_spec()
    import json

    again = validate(json.loads(canonical(spec)), "stored")
    assert again == spec
    assert canonical(again) == canonical(spec)


@pytest.mark.parametrize("objective", [{"name": "quantile", "level": 0.05}, {"name": "spearman"}])
def test_objectives_over_a_table_need_what_they_score(objective):
    import json

    spec = make_spec(objective=objective)
    assert validate(json.loads(canonical(spec)), "stored") == spec
    with pytest.raises(SpecError, match=rf"objective {objective['name']} needs \[cv\]"):
        make_spec(objective=objective, cv=None)


def test_stored_studies_stay_what_they_were():
    """Texts and hashes as studies were stored with before there was another objective."""
    spec = make_spec()
    assert canonical(spec.objective) == '{"metric":"rmse","name":"penalised_cv","penalty":0.2}'
    objective = make_objective(make_spec(objective=PARABOLA, **NO_TABLE), None)
    now = fingerprint(spec, None, objective)
    assert now["objective"] == "79c7b7e403e3ea577ecc44507aae9992d292b69deb7d8250ad650f9d59af8683"
    assert now["space"] == "39bc9f5489480af3c7f695523ce95bb1b57279399705e9c4602fbf86529cc82f"
    assert validate({"name": "x", "trials": 1, **SECTIONS}, "stored").objective == spec.objective


def need_models(spec):
    for model in spec.estimator.parts.values() if spec.estimator else ():
        need(model.name)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_of_the_product_is_valid(path):
    from hpo.spec.leakage import refuse_leaks

    spec = load(path)
    need_models(spec)
    check_estimator(
        spec,
        expected_columns(spec),
        classifies=spec.table is not None and spec.table.classifies,
    )
    refuse_leaks(spec, expected_columns(spec))
    assert spec.description
    promised = re.search(r"\((\d+) features\)", spec.description)
    assert promised is None or int(promised[1]) == len(expected_columns(spec))


# What figures of each family are between, so that none is off by a factor or in another's place.
REPORTED = {
    "conductivity": {
        "r2": (0.5, 0.8),
        "spearman": (0.6, 0.9),
        "rmse": (1.3, 1.8),
        "mae": (0.8, 1.2),
    },
    "bandgap": {"r2": (0.7, 0.8), "rmse": (0.7, 0.8), "mae": (0.5, 0.55)},
    "catechol": {"score": (0.008, 0.013)},
}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_reported_figures_are_of_studies_that_exist(folder):

    if not (folder / REPORTED_NAME).is_file():
        return
    specs = {path.stem: load(path) for path in study_files(folder)}
    reported = read_reported_file(folder / REPORTED_NAME).by_study
    assert set(reported) <= set(specs)
    for name, experiment in reported.items():
        n_features = len(expected_columns(specs[name]))
        assert experiment.n_features in (None, n_features), name
        for figures in (vars(experiment.cv), vars(experiment.test), experiment.scores):
            for metric, (low, high) in REPORTED[folder.name].items():
                value = figures.get(metric)
                assert value is None or low < value < high, (name, metric)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_variants_are_valid_wherever_they_concern_a_study(folder):
    if not (folder / VARIANTS_NAME).is_file():
        return
    for name, variant in read_variants(folder / VARIANTS_NAME).items():
        concerned = 0
        for path in study_files(folder):
            with contextlib.suppress(AbsentError):
                spec = load(path, variant.set)
                need_models(spec)
                check_estimator(
                    spec,
                    expected_columns(spec),
                    classifies=spec.table is not None and spec.table.classifies,
                )
                concerned += 1
        assert concerned, name


def test_no_two_study_files_share_a_name():
    names = [load(path).name for path in STUDIES]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_of_byte_order_is_no_part_of_a_study(tmp_path, encoding):
    path = tmp_path / "x.toml"
    path.write_bytes("trials = 3\n[objective]\nfunction = 'x.py:f'\n".encode(encoding))
    assert read_toml(path)["trials"] == 3
