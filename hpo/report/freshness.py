"""Freshness of reports: a stamp beside each says what it was drawn from.

These are the marks of its study, one of which changes with every trial and every event, the table's
manifest, the code and the packages. The stamp is written last; a report without one, or one that
lacks a file, is drawn again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import features.table
from hpo.study.identity import provenance
from hpo.study.snapshot import StudySnapshot
from hpo.system.atomic_files import replace_file

STAMP_NAME = ".drawn_from"
_PACKAGES = (*provenance.PACKAGES, "jinja2", "matplotlib", "plotly")


def drawn_from(snapshot: StudySnapshot) -> dict[str, str]:
    """Return what tells everything that a report is drawn from, by what it is."""
    record = snapshot.record
    marks = dict(snapshot.marks)
    if record.table_path is not None:
        try:
            marks["table"] = str(features.table.read_manifest(record.table_path)["check"])
        except features.table.TableError as exc:
            marks["table"] = str(exc)
    versions = {**provenance.versions(_PACKAGES), "python": platform.python_version()}
    marks["packages"] = _sha256([json.dumps(versions).encode()])
    marks["code"] = _sha256(path.read_bytes() for path in _sources())
    marks["storage"] = _sha256([str(record.storage.engine.url).encode()])
    return marks


def save_stamp(
    folder: Path, marks: Mapping[str, str], files: Iterable[Path], *, whole: bool
) -> None:
    """Write what a report was drawn from, what it consists of, and whether nothing is missing."""
    names = sorted(str(path.relative_to(folder)) for path in files)
    stamp = {"drawn_from": marks, "files": names, "whole": whole}
    replace_file(folder / STAMP_NAME, json.dumps(stamp, indent=1))


def remove_stamp(folder: Path) -> None:
    """Say that a report is to be drawn again."""
    (folder / STAMP_NAME).unlink(missing_ok=True)


def is_current(snapshot: StudySnapshot, folder: Path) -> bool:
    """Return whether the report in a folder is whole and shows what there is."""
    return _read_stamp(folder).get("whole", True) and is_drawn(snapshot, folder)


def is_drawn(snapshot: StudySnapshot, folder: Path) -> bool:
    """Return whether the report in a folder shows all that could be shown of what there is."""
    stamp = _read_stamp(folder)
    files_are_there = all((folder / name).is_file() for name in stamp.get("files", ()))
    return files_are_there and stamp.get("drawn_from") == drawn_from(snapshot)


def _read_stamp(folder: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((folder / STAMP_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _sources() -> list[Path]:
    """Return the files whose code or text is in a report."""
    found: list[Path] = []
    for package in ("hpo", "features"):
        folder = provenance.ROOT / package
        found += (path for path in folder.rglob("*") if path.suffix in (".py", ".j2"))
    return sorted(found)


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()
