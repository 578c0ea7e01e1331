"""Rows of texts on disk: in any order, as they were put there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from hpo.errors import HpoError
from hpo.system.stored_rows import StoredRows


def test_rows_come_back_in_any_order() -> None:
    rows = [("LiF", "", ("a\n", "é€\ud800")), ("", "x" * 10_000, ()), ("y", "", ("",))]
    stored = StoredRows()
    stored.extend(rows[:1])
    stored.extend(rows[1:])
    assert len(stored) == 3
    assert [*stored.take([2, 0, 1, 0])] == [rows[2], rows[0], rows[1], rows[0]]


def test_no_room_for_them_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(HpoError, match=r"none: a temporary file cannot be written: .*TMPDIR"):
        StoredRows()
