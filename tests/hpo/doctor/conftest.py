"""What all checks of a machine share in tests."""

from __future__ import annotations

import pytest

from hpo.doctor import checks


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("HPO_STORAGE", "HPO_TABLES", "HPO_REPORTS", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    # Nothing of a SLURM that this machine may have.
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", str(bin_dir))


@pytest.fixture
def quick_imports(monkeypatch):
    """Do not load a worker where the test is about something else."""
    monkeypatch.setattr(checks, "_IMPORTS", "print(0.1)\nprint('[]')")
