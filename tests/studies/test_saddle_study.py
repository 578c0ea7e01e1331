"""A study of saddle searches: its score, its results, its commands."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

import hpo.study.identity.fingerprint
from hpo.errors import HpoError, ObjectiveError
from hpo.records import Access
from hpo.spec.loading import load
from hpo.storage.backends import open_storage
from hpo.study.identity.fingerprint import fingerprint
from hpo.study.record import find
from studies.saddle.commands import main
from studies.saddle.gad import Settings
from studies.saddle.objective import Problem, SaddleSearch
from studies.saddle.results import write_params
from studies.saddle.validation import Run, compare, validate
from tests.support.saddle import (
    FOLDER,
    PARAMS,
    installed,
    params_of,
)
from tests.support.studies import ROOT

# As the report lists them.
RANGES = {
    "dt_min": (1e-7, 1e-5),
    "dt_max": (0.01, 0.1),
    "plateau_patience": (3, 20),
    "plateau_boost": (1.2, 3.0),
    "plateau_shrink": (0.3, 0.7),
    "escape_disp_threshold": (1e-5, 1e-3),
    "escape_window": (10, 50),
    "escape_neg_vib_std": (0.1, 1.0),
    "escape_delta": (0.05, 0.5),
    "adaptive_delta_scale": (0.0, 2.0),
    "trust_radius_max": (0.1, 0.5),
}


def test_the_score_is_the_rate_less_a_hundredth_of_the_normalised_steps(objective):
    def part(converged, steps):
        return {"score": 0.0, "converged": int(converged), "steps": steps}

    total = objective.combine([part(1, 4), part(0, 20), part(1, 8), part(0, 20), part(1, 2)])
    assert total["convergence_rate"] == pytest.approx(2 / 3)
    assert total["mean_steps"] == 6.0
    assert total["score"] == pytest.approx(2 / 3 - 0.01 * 6 / 20)
    assert (total["watched_rate"], total["regressions"]) == (0.5, 1)
    none = objective.combine([part(0, 20)] * 5)
    assert (none["score"], none["mean_steps"]) == (-0.01, 20.0)


def test_what_a_score_depends_on_is_part_of_the_fingerprint(objective, monkeypatch):
    spec = load(FOLDER / "g2_far.toml")
    before = fingerprint(spec, None, objective)
    assert "scine-sparrow=" in before["packages"]
    source = hpo.study.identity.fingerprint.read_source
    for changed in ("studies.saddle.gad", "studies.saddle.calculators.scine"):

        def change(module, folders=(), changed=changed):
            found = source(module, folders)
            if module != changed:
                return found
            assert found is not None
            return found._replace(data=found.data + b"\nADDED = 1\n")

        monkeypatch.setattr("hpo.study.identity.fingerprint.read_source", change)
        assert fingerprint(spec, None, objective)["code"] != before["code"], changed


def test_settings_that_are_none_are_refused(ase, objective):
    with pytest.raises(ObjectiveError, match="did you mean 'escape_delta'"):
        objective.score_part({"escape_detla": 0.1}, 0)
    with pytest.raises(HpoError, match=r"\[objective.params\]: nsteps: unknown key"):
        Problem({"nsteps": 3})
    with pytest.raises(ObjectiveError, match="leaves none for tuning"):
        Problem({**PARAMS, "held_out": 0.99, "geometries": {"source": "g2", "elements": ["O"]}})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("g2_*.toml")), ids=lambda path: path.stem)
def test_study_files_search_the_ranges_of_the_report(ase, path):
    space = load(path).model_dump()["space"]
    assert {name: (found["low"], found["high"]) for name, found in space.items()} == RANGES
    logarithmic = {name for name, found in space.items() if found["log"]}
    assert logarithmic == {"dt_min", "dt_max", "escape_disp_threshold"}
    for name, default in asdict(Settings()).items():
        low, high = RANGES[name]
        middle = np.sqrt(low * high) if name in logarithmic else (low + high) / 2
        assert default == pytest.approx(middle, rel=0.05), name
    assert Problem(params_of(path)).tuning


def test_settings_are_written_for_shells_and_programs():
    params = {"escape_delta": 0.15, "escape_window": 25, "dt_min": 2.3e-6}
    exports = write_params(params, "exports").splitlines()
    assert len(exports) == len(fields(Settings)) == 11
    assert "export ESCAPE_DELTA=0.15" in exports
    assert "export DT_MIN=2.3e-06" in exports
    words = shlex.split(write_params(params, "arguments"))
    assert words[:2] == ["--dt-min", "2.3e-06"]
    assert words[words.index("--escape-window") + 1] == "25"
    assert json.loads(write_params(params, "json"))["trust_radius_max"] == 0.3


def test_a_difference_is_paired_and_resampled_by_molecule():
    def runs(converged):
        return [
            Run(f"m{k // 5}", k % 5, done, 10 if done else 99, 0, 1)
            for k, done in enumerate(converged)
        ]

    default, best = runs([False] * 40), runs([k % 2 == 0 for k in range(40)])
    found = compare("all", default, best, 50)
    assert (found.n_molecules, found.gained, found.lost) == (8, 20, 0)
    assert found.difference == 0.5
    # Wilson's interval of 0 of 40, by hand: z^2 / (n + z^2).
    assert found.default.interval == pytest.approx((0.0, 3.8415 / 43.8415), abs=1e-4)
    assert found.best.mean_steps == 10.0
    assert found.default.mean_steps is None
    assert found.best.mean_steps_spent == 30.0
    assert found.steps_difference == -20.0
    low, high = found.difference_interval
    assert 0.4 <= low < 0.5 < high <= 0.6
    # Starts of one molecule that go together leave less to be sure of.
    apart = compare("all", default, runs([k // 5 % 2 == 0 for k in range(40)]), 50)
    assert apart.difference_interval[0] < low


@pytest.mark.slow
def test_validation_says_the_same_with_one_process_and_with_two(objective):
    best = {"escape_window": 10, "plateau_patience": 3}
    alone, runs = validate(objective.problem, best, [1000], 1)
    assert [c.name.split()[0] for c in alone] == ["molecules", "molecules", "all"]
    assert alone[0].n_molecules + alone[1].n_molecules == alone[2].n_molecules
    together, same = validate(objective.problem, best, [1000], 2)
    assert (together, same) == (alone, runs)


STUDY = """
trials = 3
[objective]
name = "studies.saddle.objective:SaddleSearch"
[objective.params]
geometries = { source = "g2", elements = ["H", "C", "O"], min_atoms = 4, max_atoms = 5 }
held_out = 0.3
noise_angstrom = 0.4
noise_seeds = 2
screening_steps = 20
n_steps = 20
n_samples = 3
n_watched = 2
[space]
escape_delta = { type = "float", low = 0.05, high = 0.5 }
escape_window = { type = "int", low = 10, high = 15 }
"""


@pytest.mark.slow
def test_a_study_runs_and_its_results_can_be_used(hpo, capsys):
    installed("scine_sparrow", "saddle")
    Path("tiny.toml").write_text(STUDY)
    hpo("check", "tiny.toml")
    assert "report: " in hpo("run", "tiny.toml", "--workers", "2").stdout
    told = json.loads(hpo("status", "tiny", "--json").stdout)["told"]
    assert told["prepared"]
    assert told["baseline"]["params"] == asdict(Settings())
    page = Path("reports/tiny/report.html").read_text()
    assert "convergence rate" in page
    assert "Steps from each start" in page

    def saddle(*arguments, code=0):
        assert main([*arguments, "--storage", "sqlite:///hpo.db"]) == code
        return capsys.readouterr()

    rows = json.loads(saddle("screen", "tiny", "--json").out)
    assert sorted(row["role"] for row in rows if row["role"]) == ["hard"] * 3 + ["watched"] * 2
    words = saddle("results", "tiny", "--as", "arguments").out.split()
    results = json.loads(Path("hpo_results.json").read_text())
    assert len(results["trials"]) == 3
    best = max(results["trials"], key=lambda trial: trial["score"])
    assert results["best_trial"] == best["number"]
    assert results["best_params"] == best["params"]
    assert results["best_convergence_rate"] == best["convergence_rate"]

    searched = saddle_without_storage(
        capsys, "search", "tiny.toml", "--json", "--geometries", "found", *words
    )
    found = {row["sample"]: row for row in json.loads(searched)}
    assert len(list(Path("found").glob("*.xyz"))) == sum(r["converged"] for r in found.values())
    # What is exported makes the very same searches.
    _, objective = find(open_storage("sqlite:///hpo.db", Access.READ), "tiny").open_objective()
    assert isinstance(objective, SaddleSearch)
    for k, sample in enumerate(objective.samples):
        part = objective.score_part(best["params"], k)
        assert (found[sample.name]["converged"], found[sample.name]["steps"]) == (
            part["converged"],
            part["steps"],
        )

    assert "seeds 0 to 1" in saddle("validate", "tiny", "--first-seed", "1", code=2).err
    assert "molecules held out" in saddle("validate", "tiny", "--seeds", "1").out
    assert Path("tiny_validation_figures/rates.svg").is_file()
    validated = json.loads(Path("tiny_validation.json").read_text())
    assert validated["params"] == results["best_params"]
    assert len(validated["runs"]["best"]) == validated["comparisons"][-1]["best"]["n_samples"]
    near = saddle("validate", "tiny", "--seeds", "1", "--set", "noise_angstrom=0.0", "--json")
    assert json.loads(near.out)["changed"] == ["noise_angstrom=0.0"]
    assert "no complete trial 7" in saddle("results", "tiny", "--trial", "7", code=2).err
    assert "did you mean 'tiny'" in saddle("results", "tinny", code=2).err


def saddle_without_storage(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_commands_refuse_studies_of_something_else(capsys):
    assert main(["search", str(ROOT / "studies" / "transport" / "seebeck.toml")]) == 2
    assert "is no search for saddle points" in capsys.readouterr().err


def test_settings_may_come_from_the_environment(scine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(STUDY)
    rows = []
    for delta in ("0.05", "0.5", "wide"):
        monkeypatch.setenv("ESCAPE_WINDOW", "2")
        monkeypatch.setenv("ESCAPE_DISP_THRESHOLD", "1")
        monkeypatch.setenv("ESCAPE_DELTA", delta)
        if delta == "wide":
            with pytest.raises(SystemExit, match="2"):
                main(["search", "tiny.toml"])
            break
        rows.append(json.loads(saddle_without_storage(capsys, "search", "tiny.toml", "--json")))
    assert sum(row["kicks"] for row in rows[0]) > 0
    assert rows[0] != rows[1]


@pytest.mark.parametrize("command", ["screen", "search", "results", "validate"])
def test_every_command_is_documented_and_explains_itself(command, capsys):
    assert f"python -m studies.saddle {command}" in (FOLDER / "README.md").read_text()
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"usage: python -m studies.saddle {command}" in capsys.readouterr().out


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "studies.saddle", "serch"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "invalid choice: 'serch'" in done.stderr
