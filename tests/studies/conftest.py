"""Calculators of saddle searches, where they are installed."""

from __future__ import annotations

import pytest

from studies.saddle.calculators.registry import make_calculator
from studies.saddle.objective import SaddleSearch
from tests.support.saddle import (
    PARAMS,
    installed,
)


@pytest.fixture
def ase():
    installed("ase", "saddle")


@pytest.fixture
def scine(ase):
    installed("scine_sparrow", "saddle")
    return make_calculator({"name": "scine"})


@pytest.fixture
def objective(scine, tmp_path):
    return SaddleSearch(None, seed=1, **PARAMS, screenings=str(tmp_path / "screenings"))
