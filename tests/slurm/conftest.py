"""Nothing of whoever runs the tests."""

from __future__ import annotations

import os

import pytest

from tests.support.studies import ROOT


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """No cluster file and no variable of whoever runs the tests; jobs import from the checkout."""
    for variable in [key for key in os.environ if key.startswith(("HPO_SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.delenv("HPO_CLUSTERS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
