"""What `hpo check` refuses is what `hpo run` refuses, in the same words, and nothing is written."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hpo.cli import main
from hpo.estimators.checks import expected_columns
from hpo.spec.loading import load, validate
from tests.support.bad_input.broken_studies import (
    CORPUS,
    CSV,
    ENSEMBLE,
    GATED,
    LOADER,
    MODEL,
    OBJECTIVE,
    OWN_ESTIMATOR,
    OWN_OBJECTIVE,
    OWN_TABLE,
    STUDY,
)
from tests.support.requirements import SHARED_DATA, unavailable
from tests.support.studies import ROOT
from tests.support.trials import need


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for variable in ("STORAGE", "DATA", "TABLES", "REPORTS", "NAME", "TRIALS", "SEED"):
        monkeypatch.delenv(f"HPO_{variable}", raising=False)


def write(name: str, content: str | bytes | None) -> None:
    if content is not None:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        Path(name).write_bytes(data)


def listing() -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def error_of(said: str) -> str:
    """The error, without what is said before it."""
    assert "Traceback" not in said
    found = re.search(r"^error: (.*)", said, re.DOTALL | re.MULTILINE)
    assert found is not None, said
    return found[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CORPUS)), ids=[broken.what for broken in CORPUS])
def test_check_refuses_what_run_refuses_in_the_same_words(number, capfd):
    broken = CORPUS[number]
    module = f"broken_{number}"
    text = broken.study
    write("x.toml", text.replace("MODULE", module) if isinstance(text, str) else text)
    write("mine.csv", broken.csv)
    write(f"{module}.py", broken.module)
    before = listing()
    checked = main(["check", "x.toml", "--data", "."]), error_of(capfd.readouterr().err)
    assert listing() == before
    ran = main(["run", "x.toml", "--data", ".", "--workers", "1"]), error_of(capfd.readouterr().err)
    assert checked == ran
    assert checked[0] == 2
    assert re.search(broken.says.replace("MODULE", module), checked[1], re.DOTALL), checked[1]
    assert "x.toml" in checked[1].splitlines()[0]


SOUND: dict[str, tuple[str, str | None, str | None]] = {
    "families": (STUDY, CSV, None),
    "objective": (OWN_OBJECTIVE, None, OBJECTIVE),
    "objective over families": (
        OWN_OBJECTIVE + '[table]\ndataset = "csv"\npath = "mine.csv"\nfamilies = ["ratios"]\n',
        CSV,
        OBJECTIVE.replace("        pass", "        assert table.train.X.shape[1] > 0"),
    ),
    "own table": (OWN_TABLE, None, LOADER),
    "ensemble over an own table": (
        OWN_TABLE.replace('name = "ridge"', ENSEMBLE)
        .replace("no_such_family", "other")
        .replace("alpha =", '"two.alpha" ='),
        None,
        LOADER.replace('Column("square", "made")', 'Column("square", "other")'),
    ),
    "own estimator": (OWN_ESTIMATOR, CSV, MODEL),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_what_check_passes_can_be_run(name, capfd, warm):
    text, csv, source = SOUND[name]
    module = f"sound_{list(SOUND).index(name)}"
    write("x.toml", text.replace("MODULE", module))
    write("mine.csv", csv)
    write(f"{module}.py", source)
    before = listing()
    assert main(["check", "x.toml"]) == 0
    assert listing() == before
    assert capfd.readouterr().out.startswith("x.toml: ok, study 'x', 1 dimension\n")
    assert "x: finished, 2 of 2 trials" in warm.run("run", "x.toml", "--workers", "1").stdout


@pytest.mark.slow
def test_what_only_features_tell_is_told_by_run(capfd):
    spec = validate({"name": "x", **tomllib.loads(STUDY)}, "x.toml")
    gated = GATED.replace("no_such_column", expected_columns(spec)[0].name)
    text = STUDY.replace('name = "ridge"', gated).replace("alpha =", '"base.alpha" =')
    write("x.toml", text)
    write("mine.csv", CSV)
    assert main(["check", "x.toml"]) == 0
    assert main(["run", "x.toml"]) == 2
    assert "must be 1, which holds for none of the" in error_of(capfd.readouterr().err)


@pytest.mark.slow
def test_a_folder_is_checked_whole_before_any_of_it_is_run(capfd):
    Path("many").mkdir()
    write("many/a.toml", STUDY)
    write("many/b.toml", STUDY.replace("folds = 3", "folds = 50"))
    write("many/c.toml", OWN_OBJECTIVE.replace("MODULE", "sound_in_a_folder"))
    write("many/mine.csv", CSV)
    write("many/sound_in_a_folder.py", "raise SystemExit\n")
    assert main(["check", "many"]) == 2
    said = capfd.readouterr()
    assert said.out.startswith("many/a.toml: ok, study 'a', 1 dimension\n")
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert main(["run", "many"]) == 2
    *again, last = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")
    ]
    assert again == errors
    assert ["b.toml" in errors[0], "c.toml" in errors[1], len(errors)] == [True, True, 2]
    assert last == "error: many: 2 study files not valid, none was run"
    assert not Path("hpo.db").exists()
    assert not Path("tables").exists()


@pytest.mark.slow
def test_a_variant_and_a_budget_are_checked_as_they_are_run(capfd):
    write("x.toml", STUDY)
    write("mine.csv", CSV)
    write("variants.toml", '[many]\ndescription = "more folds"\nset = ["cv.folds=40"]\n')
    for options in (["--variant", "many"], ["--variant", "mnay"], ["--set", "space={}"]):
        assert main(["check", "x.toml", *options]) == 2
        checked = error_of(capfd.readouterr().err)
        assert main(["run", "x.toml", *options]) == 2
        assert error_of(capfd.readouterr().err) == checked


def test_a_folder_that_a_variant_does_not_concern_is_no_success(capfd):
    Path("many").mkdir()
    write("many/a.toml", STUDY)
    write("many/mine.csv", CSV)
    write("many/variants.toml", '[same]\ndescription = "nothing"\nset = ["cv.folds=3"]\n')
    for command in ("check", "run"):
        assert main([command, "many", "--variant", "same"]) == 2
        said = capfd.readouterr()
        assert "a: variant same does not concern it" in said.err
        assert "error: --variant same concerns no study file that was given" in said.err
        assert said.out == ""


STUDIES = sorted(
    path
    for path in (ROOT / "studies").glob("*/*.toml")
    if path.name not in ("reported.toml", "variants.toml")
)
# Data that a study reads beside what is installed: where it lies below the test data.
DATA = {"obelix": "obelix", "band_gap": "bandgap", "own": "catechol"}


def data_of(path: Path) -> list[str]:
    spec = load(path)
    for model in spec.estimator.parts.values() if spec.estimator else ():
        need(model.name)
    if path.parent.name == "saddle":
        for package in ("ase", "scine_sparrow"):
            pytest.importorskip(package)
    if spec.table is None or spec.table.dataset not in DATA:
        return []
    folder = SHARED_DATA / DATA[spec.table.dataset]
    if not folder.is_dir():
        unavailable("data", f"no {folder}; set HPO_TEST_DATA to the folder above it")
    return ["--data", str(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_of_the_product_passes(path, capfd):
    assert main(["check", str(path), *data_of(path)]) == 0, capfd.readouterr().err
    assert not listing()
