"""What is imported early is not imported before it is time, and breaks nothing."""

from __future__ import annotations

import contextlib
import sys

from hpo.system import early_imports
from hpo.system.early_imports import EarlyImports


def test_nothing_is_imported_before_it_begins(monkeypatch, tmp_path):
    (tmp_path / "in_time.py").write_text("")
    (tmp_path / "broken_one.py").write_text("raise ImportError('no')")
    monkeypatch.syspath_prepend(str(tmp_path))
    # What is spared the garbage collector would be so for all other tests.
    monkeypatch.setattr(early_imports, "loading", contextlib.nullcontext)
    made = EarlyImports(["broken_one", "in_time"])
    made.wait()
    assert "in_time" not in sys.modules
    for _ in range(2):
        made.begin()
    made.wait()
    assert sys.modules.pop("in_time", None) is not None
