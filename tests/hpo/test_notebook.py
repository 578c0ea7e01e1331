"""`import hpo` in a notebook, which a kernel of its own executes."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.support.samplers import need_package

CELLS = {
    "write": """%%writefile train.py
import hpo

def objective(trial):
    x = trial.suggest_float("x", 0, 10)
    (hpo.trial_dir(trial) / "x.txt").write_text(str(x))
    if trial.number == 2:
        raise ValueError("no such phase")
    return (x - 3) ** 2
""",
    "run": """import hpo
study = hpo.run("train.py:objective", trials=6, workers=2)
len(study.trials)""",
    "status": """hpo.status("train").counts.finished""",
    "load": """hpo.load_study("train").trials_dataframe()[["number", "value", "params_x"]]""",
    "enqueue": """hpo.enqueue("train", {"x": 3.0})""",
    "resume": """hpo.resume("train", trials=7, workers=1).best_params""",
    "folders": """from pathlib import Path
sorted(path.parent.name for path in Path().glob("logs/train/trials/*/x.txt"))""",
    "wrong": """def mine(trial): return 1.0
try: hpo.run(mine)
except hpo.HpoError as exc: print(exc)""",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs_watches_and_reads_a_study(hpo, tmp_path, monkeypatch):
    for name in ("ipykernel", "nbclient"):
        need_package(name)
    new, client = (importlib.import_module(name) for name in ("nbformat.v4", "nbclient"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = new.new_notebook(cells=[*map(new.new_code_cell, CELLS.values())])
    client.NotebookClient(book, kernel_name="python3", timeout=120).execute()
    outputs = dict(zip(CELLS, (cell.outputs for cell in book.cells), strict=True))

    def printed(name):
        return "".join(output.get("text", "") for output in outputs[name])

    def returned(name):
        return outputs[name][-1].data["text/plain"]

    assert returned("run") == "7"
    # The bar is drawn again in its place, at 0 and at the end.
    assert re.search(r"\r +\| 0/6 trials", printed("run"))
    assert re.search(r"\r█+\| 6/6 trials  best ", printed("run"))
    assert "trial 2 failed: objective: ValueError: no such phase\n" in printed("run")
    assert "\x1b" not in printed("run")
    assert returned("status") == "6"
    assert "params_x" in outputs["load"][-1].data["text/html"]
    assert returned("enqueue") == "[7]"
    assert returned("resume") == "{'x': 3.0}"
    assert returned("folders") == str([str(number) for number in range(8)])
    assert "cannot import what is defined in a notebook" in printed("wrong")
