"""The folder of a study's report: its name, unless that is taken by a study of another storage."""

from __future__ import annotations

import json
from pathlib import Path

from hpo.study.record import StudyRecord
from hpo.system.atomic_files import replace_file

OWNER_NAME = ".study"


def report_folder(record: StudyRecord, reports_dir: Path) -> Path:
    """Return where the report of a study is, or is to be written.

    A folder that says nothing of its study is free. So is one of a study that was deleted from the
    same storage: there is one of each name.
    """
    folder = reports_dir / record.name
    owner, ours = _read_owner(folder), _owner(record)
    if owner is None or ours["uid"] == owner["uid"] or ours["storage"] == owner["storage"]:
        return folder
    return reports_dir / f"{record.name}-{record.uid[:8]}"


def mark_folder(record: StudyRecord, folder: Path) -> None:
    """Write down whose report a folder holds; it is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    if _read_owner(folder) != _owner(record):
        replace_file(folder / OWNER_NAME, json.dumps(_owner(record)))


def _owner(record: StudyRecord) -> dict[str, str]:
    url = record.storage.engine.url
    if url.get_backend_name() == "sqlite":
        storage = f"sqlite:///{Path(str(url.database)).resolve()}"
    else:
        storage = f"postgresql://{url.host}:{url.port}/{url.database}"
    return {"uid": record.uid, "storage": storage}


def _read_owner(folder: Path) -> dict[str, str] | None:
    try:
        owner = json.loads((folder / OWNER_NAME).read_bytes())
        return {"uid": str(owner["uid"]), "storage": str(owner["storage"])}
    except (OSError, ValueError, LookupError, TypeError):
        return None
