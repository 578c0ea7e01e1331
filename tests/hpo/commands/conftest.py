"""What the tests of commands share: a finished study, made as a user makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.studies import ROOT
from tests.support.warm import Warm

STUDY = """
trials = 3
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
[cv]
scheme = "kfold"
folds = 2
[estimator]
name = "ridge"
[space]
alpha = { type = "float", low = 0.001, high = 10.0, log = true }
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A folder with a finished study, its table and a saved model of it."""
    folder = tmp_path_factory.mktemp("finished")
    formulas = [f"Li{n}{element}O{n}" for element in ("Na", "K", "Mg", "Ca") for n in (1, 2, 3)]
    lines = [f"{formula},{at}.5" for at, formula in enumerate(formulas)]
    (folder / "mine.csv").write_text("\n".join(["formula,target", *lines]) + "\n")
    (folder / "t.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        warm.run("run", "t.toml", "--workers", "1")
        warm.run("rank", "t", "mine.csv", "--output", "ranked.csv")
    return folder
