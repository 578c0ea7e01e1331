"""What a test needs of the machine, and how it is skipped or fails without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

SHARED_DATA = Path(
    os.environ.get("HPO_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)


def unavailable(what: str, hint: str) -> NoReturn:
    """Skip a test for want of something, or fail where HPO_TEST_REQUIRE says it must be there."""
    required = os.environ.get("HPO_TEST_REQUIRE", "").split(",")
    if what in required or "all" in required:
        pytest.fail(f"{what} is required here and missing: {hint}")
    pytest.skip(f"needs {what}: {hint}")
