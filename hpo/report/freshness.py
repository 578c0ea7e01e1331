"""Tells whether a report shows what there is: the stamp beside it says what it was drawn from.

A report is drawn from all rows of its study, the table's manifest and code. The stamp is written
last; a report without one, or one that lacks a file, is drawn again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

import sqlalchemy as sa

import features.table
from hpo.storage.schema import EVENTS, METADATA, OPTUNA_METADATA, TRIALS
from hpo.study import provenance
from hpo.study.record import StudyRecord
from hpo.system.atomic_files import replace_file

STAMP_NAME = ".drawn_from"
_EVENTS: str = EVENTS.name
_PACKAGES = (*provenance.PACKAGES, "jinja2", "matplotlib", "plotly")


def drawn_from(record: StudyRecord) -> dict[str, str]:
    """Return a hash of everything that a report is drawn from, by what it is."""
    hashes = record.storage.patiently(lambda: _hash_rows(record))
    if record.table_path is not None:
        try:
            hashes["table"] = str(features.table.read_manifest(record.table_path)["check"])
        except features.table.TableError as exc:
            hashes["table"] = str(exc)
    versions = {**provenance.versions(_PACKAGES), "python": platform.python_version()}
    hashes["packages"] = _sha256([json.dumps(versions).encode()])
    hashes["code"] = _sha256(path.read_bytes() for path in _sources())
    hashes["storage"] = _sha256([str(record.storage.engine.url).encode()])
    return hashes


def save_stamp(
    folder: Path, before: Mapping[str, str], now: Mapping[str, str], files: Iterable[Path]
) -> None:
    """Write what a report was drawn from, unless somebody changed it meanwhile.

    Parameters
    ----------
    folder
        The report's.
    before, now
        `drawn_from` before its models were fitted, which may write down an event, and after.
    files
        What the report consists of.
    """
    if any(before[name] != now[name] for name in now if name != _EVENTS):
        return
    names = sorted(str(path.relative_to(folder)) for path in files)
    replace_file(folder / STAMP_NAME, json.dumps({"drawn_from": now, "files": names}, indent=1))


def remove_stamp(folder: Path) -> None:
    """Say that a report is to be drawn again."""
    (folder / STAMP_NAME).unlink(missing_ok=True)


def is_current(record: StudyRecord, folder: Path) -> bool:
    """Return whether the report in a folder is whole and shows what there is."""
    try:
        stamp = json.loads((folder / STAMP_NAME).read_bytes())
        files, hashes = stamp["files"], stamp["drawn_from"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return all((folder / name).is_file() for name in files) and hashes == drawn_from(record)


def _hash_rows(record: StudyRecord) -> dict[str, str]:
    """Hash the rows of a study, table by table."""
    trials = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == record.study_id)
    hashes = {}
    with record.storage.read() as c:
        for table in (*OPTUNA_METADATA.sorted_tables, *METADATA.sorted_tables):
            if "study_id" in table.c:
                own = table.c.study_id == record.study_id
            elif "trial_id" in table.c:
                own = table.c.trial_id.in_(trials)
            else:
                continue
            query = sa.select(table).where(own).order_by(*table.primary_key)
            hashes[table.name] = _sha256(repr(tuple(row)).encode() for row in c.execute(query))
    return hashes


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
