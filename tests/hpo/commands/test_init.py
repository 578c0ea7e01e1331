"""`hpo init`: a study file that runs, for CSV files of every kind."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo.cli import main
from hpo.plugins import find_module
from tests.support.warm import Warm

N = 24
RNG = np.random.default_rng(0)
FORMULAS = [f"Li{k % 6 + 1}Zr{k % 3 + 1}O{k % 4 + 2}" for k in range(N)]
X = [f"{value:.3f}" for value in RNG.uniform(0.0, 9.0, N)]
Y = [f"{float(x) * 2 + RNG.normal():.3f}" for x in X]
LIMITS = [
    ("<2", y, ">=9", f"{y}..{float(y) + 1:.3f}")[k % 4 if k > 11 else 1] for k, y in enumerate(Y)
]
RANGES = [f"{float(y):.3f}..{float(y) + 1:.3f}" for y in Y]
ROUTE = [("melt", "sol-gel", "spark")[k % 3] for k in range(N)]
LABEL = ["metal" if float(x) > 4.5 else "insulator" for x in X]
DOI = [f"10.1/{k // 2}" for k in range(N)]


def table(*columns: tuple[str, list[str]], sep: str = ",", quote: str = "", rows: int = N) -> str:
    lines = [[name for name, _ in columns], *zip(*(values for _, values in columns), strict=True)]
    return "".join(
        sep.join(f"{quote}{c}{quote}" for c in line) + "\n" for line in lines[: rows + 1]
    )


def commas(values: list[str]) -> list[str]:
    return [value.replace(".", ",") for value in values]


USUAL = (("composition", FORMULAS), ("x", X), ("route", ROUTE), ("y_measured", Y))
NUMBERS = [str(k + 1) for k in range(N)]
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (
        table(*USUAL),
        {
            "formula": "composition",
            "target": "y_measured",
            "columns": ["x"],
            "categorical": ["route"],
        },
    ),
    "R's write.csv": (table(("", NUMBERS), *USUAL, quote='"'), {"columns": ["x"]}),
    "semicolons and decimal commas": (
        table(("formula", FORMULAS), ("T (K)", commas(X)), ("sigma (S/cm)", commas(Y)), sep=";"),
        {"target": "sigma (S/cm)", "target_unit": "S/cm", "columns": ["T (K)"]},
    ),
    "tabs": (table(*USUAL, sep="\t"), {"target": "y_measured"}),
    "conditions": (
        table(("formula", FORMULAS), ("Eg (eV)", Y), ("T.K", X)),
        {"target": "Eg (eV)", "target_unit": "eV", "columns": ["T.K"]},
    ),
    "conditions behind": (
        table(("z", Y), ("w", ["", *X[1:]]), ("T_sinter", X), ("time (h)", X[::-1])),
        {"target": "z", "columns": ["w", "T_sinter", "time (h)"]},
    ),
    "no formula": (table(("a", X), ("b", ROUTE), ("z", Y)), {"columns": ["a"], "target": "z"}),
    "formula and target alone": (table(("material", FORMULAS), ("gap", Y)), {"target": "gap"}),
    "classes": (
        table(("x", X), ("route", ROUTE), ("phase", LABEL)),
        {"target": "x", "categorical": ["route", "phase"]},
    ),
    "classes by name": (
        table(("x", X), ("route", ROUTE), ("class", LABEL)),
        {"target": "class", "task": "classification"},
    ),
    "two values": (
        table(("x", Y), ("label", [str(int(label == "metal")) for label in LABEL])),
        {"target": "label", "task": "classification"},
    ),
    "texts alone": (
        table(("route", ROUTE), ("class", LABEL)),
        {"target": "class", "categorical": ["route"], "task": "classification"},
    ),
    "papers": (table(("doi", DOI), ("x", X), ("y_measured", Y)), {"group": "doi"}),
    "split, fold and weight": (
        table(
            ("x", X),
            ("target", Y),
            ("set", ["test" if k % 6 == 0 else "train" for k in range(N)]),
            ("fold", [str(k % 2) for k in range(N)]),
            ("sample_weight", ["1", "2"] * (N // 2)),
        ),
        {"split": "set", "fold": "fold", "weight": "sample_weight", "columns": ["x"]},
    ),
    "many decades": (
        table(("x", X), ("y_measured", [f"{10 ** float(x):.3e}" for x in Y])),
        {"log10": True},
    ),
    "few rows": (table(("a", X), ("b", Y), rows=6), {"test_fraction": 0.0}),
    "gaps": (
        table(("a", ["" if k % 4 == 0 else x for k, x in enumerate(X)]), ("b", Y)),
        {"columns": ["a"]},
    ),
    "target twice": (
        table(("a", X), ("b", [f"{float(y) * 10:.2f}" for y in Y]), ("target", Y)),
        {"columns": ["a"]},
    ),
    "columns that are no properties": (
        table(
            ("doi", DOI),
            ("a", X),
            ("ref_1", DOI),
            ("ICSD ID", [str(k // 2) for k in range(N)]),
            ("bulk", ["", "", "1"] * (N // 3)),
            ("sigma", Y),
        ),
        {"columns": ["a"], "categorical": None, "group": "doi"},
    ),
    "limits and ranges": (
        table(("T (K)", X), ("z", LIMITS), ("x", X[::-1])),
        {"target": "z", "censored": "interval", "columns": ["T (K)", "x"]},
    ),
    "limits beside a target": (
        table(("x", X), ("depth", LIMITS), ("target", Y[::-1])),
        {"target": "target", "censored": None, "columns": ["x", "depth"]},
    ),
    "ranges alone": (
        table(("x", X), ("band_gap (eV)", RANGES)),
        {"target": "band_gap (eV)", "target_unit": "eV", "censored": "interval"},
    ),
    "ranges of what is no target": (
        table(("x", X), ("year", RANGES), ("target", Y)),
        {"target": "target", "columns": ["x"]},
    ),
    "odd headers": (
        table(('a "quoted"', X), ("ä # b", ROUTE), ("c = [1]", Y)).replace('"quoted"', "'quoted'"),
        {"target": "c = [1]"},
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", FILES)
def test_a_study_file_is_written_that_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    text, expected = FILES[kind]
    (folder / "my data.csv").write_text(text, encoding="utf-8")
    assert main(["init", "my data.csv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = tomllib.loads((folder / "my_data.toml").read_text(encoding="utf-8"))
    assert {key: written["table"].get(key) for key in expected} == expected
    assert told["target"] == written["table"]["target"]
    assert main(["check", "my_data.toml"]) == 0


@pytest.mark.parametrize("kind", ["R's write.csv", "two values", "split, fold and weight"])
def test_it_runs(folder: Path, kind: str, warm: Warm) -> None:
    (folder / "my.csv").write_text(FILES[kind][0], encoding="utf-8")
    assert main(["init", "my.csv"]) == 0
    sets = ["estimator.params.n_estimators=5", "cv.folds=2"]
    if "splitter" in (folder / "my.toml").read_text():
        sets = sets[:1]
    options = [part for one in sets for part in ("--set", one)]
    warm.run("run", "my.toml", "--trials", "2", "--workers", "1", *options)


@pytest.mark.parametrize("installed", [True, False])
def test_limits_of_a_target_have_an_estimator_that_is_fitted_to_them_if_there_is_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr("hpo.study.draft.find_module", lambda _: None)
    elif find_module("xgboost") is None:
        pytest.skip("XGBoost is not installed")
    (folder / "my.csv").write_text(FILES["limits and ranges"][0])
    assert main(["init", "my.csv"]) == 0
    text = (folder / "my.toml").read_text()
    written = tomllib.loads(text)
    assert written["estimator"]["name"] == ("xgboost_aft" if installed else "extra_trees")
    assert ("aft_loss_distribution_scale" in written["space"]) == installed
    assert ("xgboost_aft (hpo[xgboost]) to intervals" in text) != installed
    assert main(["check", "my.toml"]) == 0


def test_several_targets_are_written_as_they_are_named_and_offered_where_they_may_be(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sigma = [f"{10 ** float(x):.3e}" for x in X[::-1]]
    (folder / "my.csv").write_text(table(("x", X), ("gap (eV)", Y), ("sigma_S", sigma)))
    assert main(["init", "my.csv"]) == 0
    said = "# several targets at once: hpo init "
    (line,) = [one for one in Path("my.toml").read_text().splitlines() if one.startswith(said)]
    assert main(["init", *shlex.split(line.removeprefix(said)), "--output", "both.toml"]) == 0
    assert "regression of 'gap (eV)', 'sigma_S'" in capsys.readouterr().out
    text = Path("both.toml").read_text()
    assert tomllib.loads(text)["table"] == {
        "dataset": "csv",
        "path": "my.csv",
        "target": ["gap (eV)", "sigma_S"],
        "target_unit": ["eV", ""],
        "log10": [False, True],
        "columns": ["x"],
        "test_fraction": 0.0,
    }
    assert said not in text
    assert main(["check", "both.toml"]) == 0


def test_nothing_is_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my.csv").write_text(FILES["plain"][0])
    (folder / "my.toml").write_text("mine")
    assert main(["init", "my.csv"]) == 2
    assert "is there already, and stays" in capsys.readouterr().err
    assert (folder / "my.toml").read_text() == "mine"
    (folder / "below").mkdir()
    assert main(["init", "my.csv", "--output", "below/other.toml", "--target", "X"]) == 0
    written = tomllib.loads((folder / "below" / "other.toml").read_text())
    assert (written["table"]["path"], written["table"]["target"]) == ("../my.csv", "X")


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (table(("y", Y)), [], "no column can be a feature: there is none"),
        (table(("name", NUMBERS), ("note", DOI)), ["--target", "nope"], "no column 'nope'"),
        (table(("a", X), ("b", Y), rows=3), [], "a study needs 6"),
        (table(("a", ["1"] * N), ("target", Y)), [], "'a' has one value alone"),
        (table(("a", X), ("b", ["1"] * N)), ["--target", "b"], "has one value alone"),
        (table(("a", Y), ("target", Y)), [], "the target in another form"),
        (
            table(("a", X), ("class", ["only", *["other"] * (N - 1)])),
            [],
            "class 'only' of 'class' has 1 training row",
        ),
        ("a,b\n", [], "no row below the header"),
        ("1.5,2\n3,4\n5,6\n", [], "first line has numbers alone"),
        ("a,b\n1,2\n", [], "no column can be the target, .*'a' has one value alone"),
        (
            table(("a", X), ("route", ROUTE), ("b", Y)),
            ["--target", "b", "--target", "route"],
            "several targets are numbers, and 'route' holds texts",
        ),
        (table(("a", X), ("b", Y)), ["--output", "no/my.toml"], "there is no folder no"),
    ],
)
def test_files_that_make_no_study_are_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    arguments: list[str],
    message: str,
) -> None:
    (folder / "my.csv").write_text(text)
    assert main(["init", "my.csv", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (folder / "my.toml").exists()
