"""Reads a score from a JSON file that a program has written."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from hpo.errors import ObjectiveError, describe_os_error, suggest
from hpo.redaction import redact
from hpo.wording import abridge, one_line

# A file of scores has a few numbers.
_MAX_BYTES = 64_000_000
# Names of files or keys that a reason lists.
_MAX_NAMES = 20


def read_score(folder: Path, name: str, key: str) -> Any:
    """Return what a JSON file in a folder has at a dotted key, such as `metrics.rmse`.

    Raises
    ------
    ObjectiveError
        Naming the file or the key that is not there, and what is there instead.
    """
    path = folder / name
    try:
        # A pipe would be waited for.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ObjectiveError(f"{name}: must be a file, and is a folder, pipe or device")
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ObjectiveError(
            f"{name}: the program did not write it in the trial's folder, $HPO_TRIAL_DIR, "
            f"{folder}; {_files_in(folder)}"
        ) from None
    except OSError as exc:
        raise ObjectiveError(f"{name}: cannot be read: {describe_os_error(exc)}") from exc
    if len(data) > _MAX_BYTES:
        raise ObjectiveError(f"{name}: has more than {_MAX_BYTES / 1e6:g} MB")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as exc:
        begins = abridge(repr(data[:80])[1:], 80) if data else "nothing"
        raise ObjectiveError(
            f"{name}: not valid JSON ({one_line(str(exc), 80)}); it has {redact(begins)}"
        ) from None
    found = _find_key(content, key)
    if len(found) != 1:
        keys = list(_keys_in(content))
        hint = suggest(key, keys) if keys else f"it has {abridge(repr(content), 80)}"
        raise ObjectiveError(f"{name}: there is no '{key}'; {redact(hint)}")
    return found[0]


def _find_key(content: Any, key: str) -> list[Any]:
    """Return what a dotted key leads to, in a list; nothing if it leads nowhere."""
    if isinstance(content, dict) and key in content:
        # Also a key that has a dot itself.
        return [content[key]]
    first, dot, rest = key.partition(".")
    if isinstance(content, dict) and first in content and dot:
        return _find_key(content[first], rest)
    if isinstance(content, list) and first.isdecimal() and int(first) < len(content):
        inner = content[int(first)]
        return _find_key(inner, rest) if dot else [inner]
    return []


def _keys_in(content: Any) -> list[str]:
    """Return the dotted keys of the first numbers and texts in it, a few."""
    found: list[str] = []
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting and len(found) < _MAX_NAMES:
        key, value = waiting.pop(0)
        if isinstance(value, dict):
            inner = list(value.items())[:_MAX_NAMES]
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in inner]
        elif key:
            found.append(abridge(key, 60))
    return found


def _files_in(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return "the folder is gone"
    more = ", …" if len(names) > _MAX_NAMES else ""
    return f"there are {', '.join(map(abridge, names[:_MAX_NAMES]))}{more}"
