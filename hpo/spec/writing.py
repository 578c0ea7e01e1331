"""Writes a study as TOML that reads back as the same study."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpo.spec.sections import StudySpec

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_toml(spec: StudySpec) -> str:
    """Return a study as a study file says it, with every default written out."""
    return "\n".join(_lines(spec.model_dump(mode="json"), ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Return a section and the sections below it; what is not set is left out."""
    below = {key: value for key, value in table.items() if _is_section(value, path)}
    if path:
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
    for key, value in table.items():
        if key not in below and value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in below.items():
        yield from _lines(value, (*path, key))


def _is_section(value: Any, path: tuple[str, ...]) -> bool:
    """Whether a value is a section of its own; what has no others in it is one line there."""
    if not isinstance(value, dict):
        return False
    return not path or any(isinstance(inner, dict) for inner in value.values())


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_value(v)}" for key, v in value.items() if v is not None)
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    return f"[{', '.join(map(_value, value))}]"


def _text(text: str) -> str:
    # TOML escapes as JSON does, and one character more.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
