"""Reads a study file and what the command line sets over it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from hpo.errors import AbsentError, SpecError
from hpo.spec.messages import describe
from hpo.spec.sections import StudySpec


def load(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and validate a study file.

    Parameters
    ----------
    path
        The TOML file. Without a `name` of its own, the study has the file's.
    overrides
        `key=value` texts, see `apply_overrides`.

    Raises
    ------
    SpecError
        With file, key, rule and value of everything that is wrong.
    """
    raw = read_toml(path)
    apply_overrides(raw, overrides)
    raw.setdefault("name", path.stem)
    return validate(raw, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    SpecError
        If it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SpecError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SpecError(f"{path}: not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise SpecError(f"{path}: not valid TOML: {exc}") from exc


def validate(raw: Mapping[str, Any], source: str) -> StudySpec:
    """Return the spec that a mapping describes; `source` is named in errors."""
    if isinstance(raw.get("space"), dict):
        raw = {**raw, "space": _name_by_part(raw["space"])}
    spec: StudySpec = validate_as(StudySpec, raw, source)
    return spec


def with_trials(spec: StudySpec, trials: int) -> StudySpec:
    """Return a study with another budget.

    Raises
    ------
    SpecError
        If it cannot have that one.
    """
    return validate({**spec.model_dump(mode="json"), "trials": trials}, f"study '{spec.name}'")


def _name_by_part(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space by names such as second.max_depth, which TOML reads as nested sections."""
    named: dict[str, Any] = {}
    for name, value in space.items():
        is_section = isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())
        named |= {f"{name}.{key}": v for key, v in value.items()} if is_section else {name: value}
    return named


def validate_as(kind: Any, raw: Any, source: str) -> Any:
    """Return `raw` as an instance of a pydantic type, or say all that is wrong with it."""
    try:
        # JSON mode: strict, and still a list is a tuple and a text is a path.
        return TypeAdapter(kind).validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as exc:
        lines = [describe(kind, error) for error in exc.errors()]
        raise SpecError("\n".join(f"{source}: {line}" for line in lines)) from exc


def canonical(spec: BaseModel | None) -> str:
    """Return the one text that equal specs share, whatever the order or spelling of the file."""
    dump = None if spec is None else spec.model_dump(mode="json")
    return json.dumps(dump, sort_keys=True, separators=(",", ":"))


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `key=value` texts in a mapping, in place.

    Dotted keys reach into sections; values are TOML, or else text. `key+=value` puts a value at
    the end of a list, `key-=value` takes it out.

    Raises
    ------
    AbsentError
        If a value is to be taken out of a list that does not have it.
    SpecError
        If a text is none of these, or a section is a value.
    """
    for override in overrides:
        _override(raw, override)


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    change = key[-1:] if key[-1:] in ("+", "-") else ""
    key = key.removesuffix(change)
    if not equals or not key.strip():
        raise SpecError(f"--set {override}: must be key=value, as in --set trials=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SpecError(f"--set {override}: '{section}' is a value, not a section")
    if change:
        target[last] = _changed(target.get(last, []), change, value, override)
    else:
        target[last] = value


def _changed(values: Any, change: str, value: Any, override: str) -> list[Any]:
    if not isinstance(values, list):
        raise SpecError(f"--set {override}: is for a list, and there is {values!r}")
    if change == "+":
        return [*values, value]
    if value not in values:
        raise AbsentError(f"--set {override}: the list {values!r} has no {value!r}")
    return [item for item in values if item != value]
