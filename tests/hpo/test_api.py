"""`import hpo`: studies from scripts, by the names of the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hpo as engine

OFFERED = (
    *("HpoError", "Study", "enqueue", "load_study", "resume", "run", "status", "submit"),
    "trial_dir",
)

SCRIPT = """
import hpo

def objective(trial):
    x = trial.suggest_float("x", 0, 10)
    (hpo.trial_dir(trial) / "x.txt").write_text(str(x))
    return (x - 3) ** 2

if __name__ == "__main__":
    study = hpo.run(objective, trials=4, workers=2)
    assert len(study.trials) == 4
    assert study.best_value == min(study.trials_dataframe()["value"])
    assert study.report.is_file()
    assert hpo.enqueue("script", {"x": 3.0}) == [4]
    study = hpo.resume("script", trials=5, workers=1)
    assert study.best_params == {"x": 3.0}
    assert hpo.status("script").counts.finished == 5
    assert len(hpo.load_study("script").trials) == 5
    for wrong, said in (
        (lambda: hpo.run("nofile.toml"), "nofile.toml"),
        (lambda: hpo.run(objective, nosuch=4), "not understood"),
        (lambda: hpo.run(lambda trial: 1.0, trials=4), "cannot import it"),
        (lambda: hpo.load_study("other"), "holds no study 'other'"),
    ):
        try:
            wrong()
        except hpo.HpoError as exc:
            assert said in str(exc), exc
        else:
            raise AssertionError(said)
    print("done")
"""


@pytest.mark.slow
def test_a_script_runs_its_own_function_and_reads_what_came_out(hpo):
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert len([*Path("logs/script/trials").glob("*/x.txt")]) == 5


@pytest.mark.slow
def test_a_function_of_a_prompt_is_refused_with_what_to_do(hpo):
    code = "import hpo\ndef f(trial):\n    return 1.0\ntry:\n    hpo.run(f, trials=2)\n"
    code += "except hpo.HpoError as exc:\n    print(exc)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "write it into a file: hpo.run('train.py:objective')" in done.stdout


@pytest.mark.slow
def test_a_trials_folder_without_hpo_is_beside_the_script(hpo, tmp_path):
    code = "import hpo, optuna\nstudy = optuna.create_study(study_name='s')\n"
    code += "print(hpo.trial_dir(study.ask()))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "trials/s/0\n"
    assert (tmp_path / "trials/s/0").is_dir()


def test_importing_loads_nothing_and_names_what_there_is():
    code = "import hpo, sys; assert not {'optuna', 'numpy', 'pandas'} & {*sys.modules}; dir(hpo)"
    assert subprocess.run([sys.executable, "-c", code], check=True).returncode == 0
    assert sorted(dir(engine)) == sorted(OFFERED)
    assert all(getattr(engine, name) for name in OFFERED)
    with pytest.raises(AttributeError, match="'nothing'"):
        getattr(engine, "noth" + "ing")


def test_in_one_process_a_file_is_what_it_is_now_and_that_of_its_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "def objective(trial):\n    return trial.suggest_float('x', {0}, {0} + 1)\n"
    for folder, low in (("a", 1), ("b", 2), ("a", 3)):
        Path(folder).mkdir(exist_ok=True)
        Path(f"{folder}/train.py").write_text(body.format(low))
        study = engine.run(f"{folder}/train.py:objective", trials=2, name=f"low{low}")
        assert all(low <= trial.values[0] <= low + 1 for trial in study.trials)
