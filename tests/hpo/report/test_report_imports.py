"""What a report imports is imported while workers still compute, and not before it is time."""

from __future__ import annotations

import contextlib
import sys

import pytest

from hpo.report import imports
from hpo.report.imports import ReportImports


@pytest.fixture
def own(monkeypatch, tmp_path):
    """Two modules, of which one cannot be imported, in place of those of a report."""
    (tmp_path / "in_time.py").write_text("")
    (tmp_path / "broken_one.py").write_text("raise ImportError('no')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(imports, "MODULES", ("broken_one", "in_time"))
    # What is spared the garbage collector would be so for all other tests.
    monkeypatch.setattr(imports, "loading", contextlib.nullcontext)
    yield
    sys.modules.pop("in_time", None)


@pytest.mark.usefixtures("own")
def test_nothing_is_imported_before_it_begins():
    made = ReportImports(())
    made.wait()
    assert "in_time" not in sys.modules
    for _ in range(2):
        made.begin()
    made.wait()
    assert "in_time" in sys.modules
