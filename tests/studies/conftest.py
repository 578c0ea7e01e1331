"""Calculators of saddle searches, where they are installed."""

from __future__ import annotations

import pytest

from studies.saddle.calculators.registry import make_calculator
from tests.support.saddle import installed, prepared


@pytest.fixture
def ase():
    installed("ase", "saddle")


@pytest.fixture
def scine(ase):
    installed("scine_sparrow", "saddle")
    return make_calculator({"name": "scine"})


@pytest.fixture
def objective(scine, tmp_path):
    return prepared(tmp_path)
