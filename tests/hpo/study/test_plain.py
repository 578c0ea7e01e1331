"""Studies that Optuna alone made are read as what they are, and their database stays as it is."""

from __future__ import annotations

import gc
import json
import math
import warnings
from pathlib import Path

import optuna
import pandas as pd
import pytest
import sqlalchemy as sa

from hpo.cli import main
from tests.support.ledgers import begin_without_table
from tests.support.pages import Page

NO_STUDY_FILE = (
    "study 'x' was made by Optuna alone and has no study file; see it with hpo status, report, "
    "compare or export, or let it go on with hpo adopt"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path, monkeypatch):
    """A database that Optuna made and filled: two studies, one with several objectives."""
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///optuna.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    single = optuna.create_study(study_name="x", storage=storage, direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 10)
        trial.suggest_categorical("kind", ["a", None])
        trial.report(x / 2, 7)
        trial.set_user_attr("note", [1, "b"])
        if trial.number == 2:
            raise optuna.TrialPruned
        if trial.number == 3:
            return math.inf
        return float(trial.number)

    single.optimize(objective, n_trials=5)
    several = optuna.create_study(
        study_name="front", storage=storage, directions=["minimize", "maximize"]
    )
    several.optimize(lambda trial: (trial.suggest_float("y", 0, 1), 2.0), n_trials=1)
    storage.remove_session()
    storage.engine.dispose()
    yield url
    # A command ends with its process, and leaves its connection open until then.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def tables(url: str) -> set[str]:
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool
    )
    with engine.connect() as c:
        return set(sa.inspect(c).get_table_names())


@pytest.mark.slow
def test_status_names_them(url, capsys):
    before = tables(url)
    assert main(["status", "--storage", url]) == 0
    assert capsys.readouterr().out == (
        "x: plain Optuna study: 5 trials (1 pruned), best inf (trial 3); no study file\n"
        "front: plain Optuna study: 1 trial, 2 objectives, 1 trial on the Pareto front; "
        "no study file\n"
    )
    assert main(["status", "x", "--json", "--storage", url]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["trials"]) == (
        "plain Optuna study",
        {"COMPLETE": 4, "PRUNED": 1},
    )
    assert tables(url) == before


@pytest.mark.slow
def test_their_trials_are_exported(url, capsys):
    assert main(["export", "x", "--storage", url, "--output", "x.csv"]) == 0
    assert capsys.readouterr().out == "x.csv: 5 trials\n"
    frame = pd.read_csv("x.csv", float_precision="round_trip")
    assert list(frame.columns) == [
        "number", "state", "score", "started", "completed", "param.x", "param.kind", "step 7",
        "note",
    ]  # fmt: skip
    # Of a pruned trial Optuna keeps the last value that it reported.
    assert list(frame["score"]) == [0, 1, frame["step 7"][2], math.inf, 4]
    assert (frame["step 7"] == frame["param.x"] / 2).all()
    assert set(frame["note"]) == {'[1, "b"]'}
    assert main(["export", "front", "--storage", url, "--output", "front.csv"]) == 0
    assert pd.read_csv("front.csv")["score.value 1"].tolist() == [2.0]


@pytest.mark.slow
def test_reports_and_comparisons_show_them_and_change_nothing(url, capsys):
    before = tables(url)
    content = Path("optuna.db").read_bytes() if url.startswith("sqlite") else b""
    for name, title in (("x", "is trial 3, with score"), ("front", "Pareto front")):
        assert main(["report", name, "--storage", url]) == 0
        page = Page(Path(capsys.readouterr().out.strip()))
        assert title in page.text
        assert page.row("y" if name == "front" else "x")[2].startswith("0 to 1")
    assert Path("reports/x/report.html").is_file()
    assert main(["compare", "x", "front", "--storage", url, "--json"]) == 0
    x, front = json.loads(capsys.readouterr().out)
    assert (x["trial"], x["scores"]["score"]) == (3, math.inf)
    assert front["front"]["numbers"] == [0]
    assert tables(url) == before
    if content:
        assert Path("optuna.db").read_bytes() == content


@pytest.mark.slow
def test_a_page_of_a_study_of_ours_is_not_replaced(url, capsys):
    Path("reports/x").mkdir(parents=True)
    Path("reports/x/.study").write_text("{}")
    assert main(["report", "x", "--storage", url]) == 0
    assert Path("reports/x-optuna/report.html").is_file()
    assert not Path("reports/x/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("rank", "x", "candidates.csv"),
        ("provenance", "x"),
        ("logs", "x"),
        ("intervals", "x", "x", "x"),
        ("simulate", "--study", "x"),
        ("resume", "x"),
        ("refill", "x"),
        ("stop", "x"),
        ("budget", "x", "5"),
        ("wandb", "x", "--mode", "offline"),
    ],
    ids=lambda command: command[0],
)
def test_what_needs_a_study_file_says_that_there_is_none(command, url, capsys):
    before = tables(url)
    content = Path("optuna.db").read_bytes() if url.startswith("sqlite") else b""
    assert main([*command, "--storage", url]) == 2
    assert capsys.readouterr().err.strip() == f"error: {NO_STUDY_FILE}"
    assert tables(url) == before
    if content:
        assert Path("optuna.db").read_bytes() == content


@pytest.mark.slow
def test_a_wrong_name_is_answered_by_all_names(url, capsys):
    assert main(["status", "fron", "--storage", url]) == 2
    assert (
        "holds no study 'fron'; did you mean 'front'? (valid: front, x)" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_they_stand_beside_ours(url, capsys):
    begin_without_table(url, name="ours").storage.engine.dispose()
    assert main(["status", "--storage", url]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "ours", "x", "front",
    ]  # fmt: skip
    assert main(["provenance", "x", "--storage", url]) == 2
    assert NO_STUDY_FILE in capsys.readouterr().err
