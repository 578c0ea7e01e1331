"""Several objectives and constraints, of whatever is brought: run, and told everywhere alike."""

from __future__ import annotations

import json
import os
from pathlib import Path

import optuna
import pandas as pd
import pytest

from hpo.cli import main
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.study.record import find
from hpo.study.snapshot import trials_of
from hpo.tracking.rows import make_row
from tests.support.pages import Page

SPACE = '[space]\nalpha = { type = "float", low = 0.0, high = 3.0 }\n'
FUNCTION = """
def objective(trial):
    alpha = trial.suggest_float("alpha", 0.0, 3.0)
    trial.set_constraint("off", abs(alpha - 2.0) - 1.5)
    return 3 * (alpha - 1.0) ** 2 + 3, -alpha
"""
PROGRAM = """
import json, sys
alpha = float(sys.argv[1])
print("cost:", -alpha)
figures = {"score": 3 * (alpha - 1.0) ** 2 + 3, "off": abs(alpha - 2.0)}
json.dump(figures, open(sys.argv[2] + "/result.json", "w"))
"""
# The same two values of alpha, and the same constraint, as each kind says it.
KINDS = {
    "parts": SPACE
    + """[objective]
name = "tests.support.objectives:Figures"
directions = { score = "minimize", cost = "minimize" }
constraints = { off = { high = 1.5 } }
""",
    "function": """[objective]
function = "mine.py:objective"
directions = { score = "minimize", cost = "minimize" }
""",
    "program": SPACE
    + """[objective]
command = ["python3", "mine.py", "{alpha}", "{trial_dir}"]
score = [{ json = "result.json", key = "score" }, { regex = "cost: (?P<cost>.*)" }]
directions = ["minimize", "minimize"]
constraints = { off = { json = "result.json", key = "off", high = 1.5 } }
""",
}


@pytest.fixture
def run(hpo, monkeypatch):
    """Run a study of a kind, and return its record and what was said."""
    opened = []

    def begin(kind, name="x", *options):
        Path("mine.py").write_text(PROGRAM if kind == "program" else FUNCTION)
        Path(f"{name}.toml").write_text(f"trials = 30\nsampler.name = 'random'\n{KINDS[kind]}")
        said = hpo("run", f"{name}.toml", "--workers", "2", *options).stdout
        storage = open_storage(os.environ["HPO_STORAGE"], Access.READ)
        opened.append(storage)
        return find(storage, name), said

    monkeypatch.setenv("HPO_STORAGE", "sqlite:///hpo.db")
    yield begin
    for storage in opened:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
def test_a_front_is_told_everywhere(run, kind, capfd):
    record, said = run(kind)
    study = optuna.load_study(study_name="x", storage=record.storage)
    trials = study.trials
    assert len(trials) == 30
    for trial in trials:
        alpha = trial.params["alpha"]
        assert trial.values == pytest.approx([3 * (alpha - 1) ** 2 + 3, -alpha])
        assert trial.constraints == {"off": pytest.approx(abs(alpha - 2.0) - 1.5)}
    best = {trial.number for trial in study.best_trials}
    broken = {t.number for t in trials if t.constraints["off"] > 0}
    assert 0 < len(best) < 30 - len(broken) < 30
    names = tuple(study.metric_names or ())
    assert names[1:] == ("cost",)

    assert f"30 of 30 trials, {len(best)} trials on the Pareto front" in said
    assert main(["status", "x", "--json"]) == 0
    status = json.loads(capfd.readouterr().out)
    assert set(status["front"]["numbers"]) == best
    assert status["front"]["hypervolume"] > 0
    assert status["best_trial"] is None

    page = Page(Path("reports/x/report.html"))
    assert page.plots["front"] == page.plots["hypervolume"] == 1
    assert page.plots["history-cost"] == 1
    heads = page.rows.index(["trial", *names, "alpha"])
    told = page.rows[heads + 1 : heads + 1 + len(best)]
    assert {int(row[0]) for row in told} == best
    # The one with the best first value is the one that the page shows.
    first = min(best, key=lambda number: trials[number].values[0])
    assert int(told[0][0]) == first == status["front"]["numbers"][0]

    assert main(["export", "x"]) == 0
    rows = pd.read_csv("x.csv", float_precision="round_trip").set_index("number")
    assert set(rows.index[rows.on_front]) == best
    assert set(rows.index[rows["constraint.off"] > 0]) == broken
    assert rows["score.cost"].tolist() == [trial.values[1] for trial in trials]

    row = make_row(trials_of(record)[first], 0, None, names)
    assert row["values/cost"] == trials[first].values[1]
    assert row["constraints/off"] == trials[first].constraints["off"]


def test_fronts_are_compared_up_to_one_reference_point(run, capfd):
    for name, seed in (("x", 1), ("y", 2)):
        run("function", name, "--seed", str(seed))
    assert main(["compare", "x", "y", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["directions"] for row in rows] == [["minimize", "minimize"]] * 2
    worst = [max(row["front"]["reference_point"][k] for row in rows) for k in (0, 1)]
    assert main(["compare", "x", "y"]) == 0
    said = capfd.readouterr().out
    reference = ", ".join(f"{value:.6g}" for value in worst)
    assert f"Pareto fronts of score, cost; hypervolumes up to the worst values, ({reference})" in (
        said
    )
    page = Page(Path("reports/comparison.html"))
    found = [row for row in page.rows if row and row[0] in ("x", "y")][-2:]
    assert [int(row[1]) for row in found] == [len(row["front"]["numbers"]) for row in rows]


@pytest.mark.parametrize("kind", ["parts", "function"])
def test_a_trial_that_breaks_a_constraint_is_never_the_best(hpo, kind):
    text = KINDS[kind].replace('directions = { score = "minimize", cost = "minimize" }\n', "")
    function = FUNCTION.replace(", -alpha", "")
    # The smallest score of all is now out of reach.
    Path("mine.py").write_text(function.replace("1.5", "0.5"))
    Path("x.toml").write_text(f"trials = 20\nsampler.name = 'random'\n{text.replace('1.5', '0.5')}")
    said = hpo("run", "x.toml", "--workers", "2").stdout
    study = optuna.load_study(study_name="x", storage="sqlite:///hpo.db")
    best = study.best_trial
    assert best.constraints["off"] <= 0
    assert any(t.values[0] < best.value for t in study.trials)
    assert f"(trial {best.number})" in said
    assert "break" in Page(Path("reports/x/report.html")).text


def test_a_study_without_a_trial_that_counts_says_so(hpo, capfd):
    Path("mine.py").write_text(FUNCTION.replace("- 1.5", "+ 1.5").replace(", -alpha", ""))
    said = hpo("run", "mine.py:objective", "--trials", "3").stdout
    assert "3 of 3 trials\n" in said
    page = Page(Path("reports/mine/report.html"))
    assert "No best trial yet: constraints are broken by 3 finished trials" in page.text
    assert "no trial that has finished meets the constraints" in page.text
    assert main(["compare", "mine"]) == 0
    assert "no trial that has finished meets the constraints" in capfd.readouterr().out
