"""Errors of pydantic in the words of a study file."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from hpo.errors import suggest
from hpo.spec.cv import SplitterCv, cv_kind
from hpo.spec.estimators import EstimatorSpec
from hpo.spec.objectives import (
    CustomObjectiveSpec,
    FunctionSpec,
    ProgramSpec,
    objective_kind,
)
from hpo.spec.search import PruningSpec
from hpo.wording import abridge


def describe(kind: Any, error: Any) -> str:
    """Return `key: rule, got value` for one pydantic error."""
    location, valid = _locate(kind, error["loc"])
    rule = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{location}: unknown key; {suggest(str(error['loc'][-1]), valid)}"
    if error["type"] == "missing":
        return f"{location}: required and missing"
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        key = _key_of(context)
        if key == "name":
            # A program has no name, but a command.
            tags = [
                "module:attribute" if tag == "custom" else tag for tag in tags if tag != "program"
            ]
        tag = str(context["tag"])
        hint = suggest(tag, [one for one in tags if one != "splitter"])
        if "splitter" in tags:
            hint += '; a class of scikit-learn\'s is named as splitter = "KFold"'
        return f"{location}.{key}: unknown '{abridge(tag)}'; {hint}"
    if error["type"] == "union_tag_not_found":
        key = _key_of(error["ctx"])
        near = difflib.get_close_matches(key, map(str, error["input"]), n=1)
        hint = f"; '{near[0]}' is unknown, did you mean '{key}'?" if near else ""
        return f"{location}: required key '{key}' is missing{hint}"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        options = [option.strip(" '") for option in error["ctx"]["expected"].split(" or ")]
        options = [part.strip(" '") for option in options for part in option.split(",")]
        return (
            f"{location}: unknown '{abridge(error['input'])}'; {suggest(error['input'], options)}"
        )
    if error["type"] == "value_error":
        return f"{location}: {rule}" if location else rule
    return f"{location}: {rule[0].lower()}{rule[1:]}, got {abridge(repr(error['input']))}"


# What tells the members of a union apart, where that is more than one key.
_KINDS = {f"{objective_kind.__name__}()": "name", f"{cv_kind.__name__}()": "scheme"}


def _key_of(context: Mapping[str, Any]) -> str:
    """Return the key by which the members of a union are told apart."""
    key = str(context["discriminator"]).strip("'")
    return _KINDS.get(key, key)


def _locate(kind: Any, loc: Sequence[int | str]) -> tuple[str, list[str]]:
    """Return an error's dotted key without pydantic's union tags, and the keys valid beside it."""
    names: list[str] = []
    valid: list[str] = []
    for item in loc:
        kind = _strip(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            valid = list(fields)
            field = fields.get(str(item))
            kind = field.annotation if field else None
            names.append(str(item))
        elif _is_union(kind):
            members = [_strip(member) for member in get_args(kind)]
            models = [member for member in members if hasattr(member, "model_fields")]
            if len(models) == 1 and not _has_tag(models[0], item):
                kind, names = None, [*names, str(item)]
                continue
            kind = next((model for model in models if _has_tag(model, item)), None)
        elif get_origin(kind) in (dict, tuple, list):
            kind = next((a for a in reversed(get_args(kind)) if a is not Ellipsis), None)
            names.append(str(item))
        elif kind is not None:
            kind = None  # pydantic's own name of a member of a union of plain types
        else:
            names.append(str(item))
    return ".".join(names), valid


def _strip(kind: Any) -> Any:
    """Return a type without Annotated and Optional around it."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif _is_union(kind) and type(None) in get_args(kind):
            rest = [member for member in get_args(kind) if member is not type(None)]
            kind = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
        else:
            return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


# Tags of the members of a union that no fixed word tells apart.
_TAGS: Mapping[str, type[BaseModel]] = {
    "custom": CustomObjectiveSpec,
    "function": FunctionSpec,
    "plain": EstimatorSpec,
    "program": ProgramSpec,
    "section": PruningSpec,
    "splitter": SplitterCv,
}


def _has_tag(model: type[BaseModel], tag: int | str) -> bool:
    # A tag is the one value that its field can have; other literals are choices.
    literals = [
        get_args(field.annotation)
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
    ]
    return (tag,) in literals or _TAGS.get(str(tag)) is model
