"""Reads a study file and what the command line sets over it."""

from __future__ import annotations

import codecs
import json
import stat
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from hpo.errors import AbsentError, SpecError
from hpo.spec.messages import describe
from hpo.spec.objectives import CLASS_SCORING, objective_kind
from hpo.spec.sections import StudySpec
from hpo.wording import abridge

# What no study file comes near.
MAX_BYTES, MAX_DEPTH, MAX_LINES = 10_000_000, 32, 20
# TOML's own, and what databases take.
MIN_INTEGER = -(2**63)


def load(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and validate a study file.

    Parameters
    ----------
    path
        The TOML file, or a function `FILE.py:NAME` or `package.module:NAME` in its place, of which
        `overrides` say the rest. Without a `name` of its own, the study has the file's.
    overrides
        `key=value` texts, see `apply_overrides`.

    Raises
    ------
    SpecError
        With file, key, rule and value of everything that is wrong.
    """
    raw = read_toml(path)
    apply_overrides(raw, overrides)
    raw.setdefault("name", default_name(path))
    if names_function(path) and "trials" not in raw:
        raise SpecError(f"{path}: how many trials? Add --trials N")
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError as exc:
        raise SpecError(f"{path}: the names of file and folders must be valid UTF-8") from exc
    return validate(raw, str(path))


def names_function(path: Path) -> bool:
    """Whether what stands in the place of a study file is a function."""
    return ":" in path.name and not path.exists()


def default_name(path: Path) -> str:
    """Return the name of a study that has none of its own: its file's, or its function's module's.

    A function with another name than `objective` is named, too: a module may have several.
    """
    if not names_function(path):
        return path.stem
    module, _, function = path.name.rpartition(":")
    name = module.removesuffix(".py").rpartition(".")[2]
    return name if function == "objective" else f"{name}.{function}"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; of a function in its place, what a study file would say.

    Raises
    ------
    SpecError
        If it cannot be read or is no TOML.
    """
    if names_function(path):
        return {"objective": {"function": path.name}}
    if path.suffix == ".py":
        raise SpecError(f"{path}: must name a function in it, as in {path}:objective")
    try:
        raw = _parse(read_text(path))
    except ValueError as exc:
        raise SpecError(f"{path}: not valid TOML: {exc}") from exc
    _refuse_unusable(raw, str(path))
    return raw


def read_text(path: Path) -> str:
    """Read a file that somebody wrote by hand: UTF-8, of a size that this may be.

    Raises
    ------
    SpecError
        If it is none.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise SpecError(f"{path}: must be a file, and is a device, pipe or socket")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SpecError(f"{path}: must have {MAX_BYTES / 1e6:g} MB at most, and has more")
        # A mark of byte order is what some editors begin a file with, and shells of Windows.
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SpecError(
            f"{path}: not {exc.encoding.upper()} text: {exc.reason} at byte {exc.start}"
        ) from exc
    except OSError as exc:
        raise SpecError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise SpecError(f"{str(path)!r}: no path of a file: {exc}") from exc


def _parse(text: str) -> dict[str, Any]:
    """Parse TOML, or raise ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"nested in more than {MAX_DEPTH} levels") from None


def _refuse_unusable(value: Any, source: str) -> None:
    """Refuse what TOML may hold and nothing behind it can: depth, huge integers, NUL."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        key, item = waiting.pop()
        where = f"{source}: {abridge('.'.join(key))}" if key else source
        if len(key) > MAX_DEPTH:
            raise SpecError(f"{where}: nested in more than {MAX_DEPTH} levels")
        if isinstance(item, dict):
            waiting += [((*key, name), inner) for name, inner in item.items()]
        elif isinstance(item, list):
            waiting += [((*key, str(at)), inner) for at, inner in enumerate(item)]
        elif isinstance(item, int) and not MIN_INTEGER <= item <= -MIN_INTEGER - 1:
            raise SpecError(f"{where}: must be an integer of 64 bits, and is beyond them")
        if "\0" in "".join(key[-1:]) or (isinstance(item, str) and "\0" in item):
            raise SpecError(f"{where}: must have no NUL character")


def validate(raw: Mapping[str, Any], source: str) -> StudySpec:
    """Return the spec that a mapping describes; `source` is named in errors."""
    if isinstance(raw.get("space"), dict):
        raw = {**raw, "space": _name_space_by_part(raw["space"])}
    if isinstance(raw.get("enqueue"), list):
        raw = {**raw, "enqueue": [_name_point_by_part(point) for point in raw["enqueue"]]}
    spec: StudySpec = validate_as(StudySpec, _score_classes(raw), source)
    return spec


def with_trials(spec: StudySpec, trials: int) -> StudySpec:
    """Return a study with another budget.

    Raises
    ------
    SpecError
        If it cannot have that one.
    """
    return validate({**spec.model_dump(mode="json"), "trials": trials}, f"study '{spec.name}'")


def _score_classes(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Score classes by the logarithm of their probabilities, if a file does not say how."""
    table, objective = raw.get("table"), raw.get("objective", {})
    classes = isinstance(table, dict) and (
        table.get("task") == "classification"
        or (table.get("dataset"), table.get("target")) == ("band_gap", "is_metal")
    )
    if not classes or not isinstance(objective, dict) or {"metric", "scoring"} & objective.keys():
        return raw
    if objective_kind(objective) != "penalised_cv":
        return raw
    return {**raw, "objective": {**objective, "scoring": CLASS_SCORING}}


def _name_space_by_part(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space by names such as second.max_depth, which TOML reads as nested sections."""
    parts = {name for name, value in space.items() if _is_mapping_of_mappings(value)}
    return _name_by_part(space, parts)


def _name_point_by_part(point: Any) -> Any:
    """Return a point by such names."""
    if not isinstance(point, dict):
        return point
    parts = {name for name, value in point.items() if isinstance(value, dict)}
    # What names an estimator is a choice of one, not parameters of a part.
    return _name_by_part(point, {name for name in parts if not point[name].keys() & {"name"}})


def _name_by_part(values: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in values.items():
        named |= {f"{name}.{k}": v for k, v in value.items()} if name in parts else {name: value}
    return named


def _is_mapping_of_mappings(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())


def validate_as(kind: Any, raw: Any, source: str) -> Any:
    """Return `raw` as an instance of a pydantic type, or say all that is wrong with it."""
    try:
        # JSON mode: strict, and still a list is a tuple and a text is a path.
        return TypeAdapter(kind).validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as exc:
        lines = [describe(kind, error) for error in exc.errors()]
        if len(lines) > MAX_LINES:
            lines[MAX_LINES:] = [f"and {len(lines) - MAX_LINES} more"]
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
        raise SpecError(f"--set {abridge(override)}: must be key=value, as in --set trials=100")
    named = f"--set {abridge(override)}"
    *sections, last = key.strip().split(".")
    if len(sections) > MAX_DEPTH:
        raise SpecError(f"{named}: nested in more than {MAX_DEPTH} levels")
    value = parse_value(text, named)
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SpecError(f"{named}: '{section}' is a value, not a section")
    if change:
        target[last] = _changed(target.get(last, []), change, value, named)
    else:
        target[last] = value


def parse_value(text: str, named: str) -> Any:
    """Return what a text says: TOML, or else itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except (RecursionError, ValueError) as exc:
        what = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise SpecError(f"{named}: not valid TOML: {what}") from exc
    _refuse_unusable(value, named)
    return value


def _changed(values: Any, change: str, value: Any, named: str) -> list[Any]:
    if not isinstance(values, list):
        raise SpecError(f"{named}: is for a list, and there is {abridge(repr(values))}")
    if change == "+":
        return [*values, value]
    if value not in values:
        listed, absent = abridge(repr(values)), abridge(repr(value))
        raise AbsentError(f"{named}: the list {listed} has no {absent}")
    return [item for item in values if item != value]
