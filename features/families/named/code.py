"""Featurizers by the names of their classes, and what their code means."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

from features.errors import FamilyError, describe_failure

Input = Literal["composition", "structure"]


class Call(NamedTuple):
    """How a featurizer is made: the class by its name, a preset of its or None, arguments."""

    name: str
    preset: str | None
    params: dict[str, Any]
    takes: Input


def make(call: Call) -> Any:
    """Return a featurizer.

    Raises
    ------
    FamilyError
        There is none of that name, it cannot be made, or is no featurizer.
    """
    what = f"[[table.featurizers]] {call.name}"
    factory = _resolve(call.name)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            if call.preset is None:
                made = factory(**call.params) if callable(factory) else factory
            else:
                made = factory.from_preset(call.preset, **call.params)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # somebody else's class may raise anything
        how = {**({"preset": call.preset} if call.preset else {}), **call.params}
        raise FamilyError(
            f"{what}: cannot be made with {how}: {describe_failure(exc)}{_download_hint(exc)}"
        ) from exc
    lacking = [name for name in ("feature_labels", "featurize") if not hasattr(made, name)]
    if lacking:
        raise FamilyError(
            f"{what}: has no {' and no '.join(lacking)}, as matminer's featurizers have; name "
            "a class that has both"
        )
    return made


def _download_hint(exc: BaseException) -> str:
    """Say what to do where data cannot be downloaded."""
    chain: list[BaseException] = []
    link: BaseException | None = exc
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {type(one).__name__ for one in chain}
    if not names & {"ConnectionError", "URLError", "gaierror", "NewConnectionError", "HTTPError"}:
        return ""
    return "; it downloads data when it is first made: do that once on a machine with a network"


def _resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    what = f"[[table.featurizers]] {name}"
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = (
                _import_file(module) if _is_file(module) else importlib.import_module(module)
            )
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # somebody else's module may raise anything
        raise FamilyError(f"{what}: cannot import '{module}': {describe_failure(exc)}") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise FamilyError(f"{what}: '{module}' has no '{attribute}'")
        found = getattr(found, part)
    return found


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _find_file(module: str) -> Path | None:
    """Return the file of a module, without importing it; None if there is none."""
    if _is_file(module):
        places = (Path(folder or ".") / module for folder in ["", *sys.path])
        return next((place.resolve() for place in places if place.is_file()), None)
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin and spec.has_location:
            return Path(spec.origin)
    return None


def _import_file(module: str) -> Any:
    path = _find_file(module)
    if path is None:
        raise FileNotFoundError(f"there is no file {module} beside the study or here")
    spec = importlib.util.spec_from_file_location(f"featurizers_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def code_of(module: str) -> str:
    """Return a hash of what a module of the user's own means, and of those beside it; else "".

    Comments, docstrings and layout do not count. What is installed is known by its version.
    """
    path = _find_file(module)
    if path is None or {"site-packages", "dist-packages"} & {*path.parts}:
        return ""
    hashes: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if str(file) in hashes or file.suffix != ".py":
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # importing it says so
        hashes[str(file)] = hashlib.sha256(_meaning(tree).encode()).hexdigest()
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            beside = (file.parent / f"{name.replace('.', '/')}.py" for name in names)
            waiting += [place for place in beside if place.is_file()]
    by_name = sorted((Path(file).name, digest) for file, digest in hashes.items())
    return hashlib.sha256(json.dumps(by_name).encode()).hexdigest()


def _meaning(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)


def distributions(module: str) -> list[str]:
    """Return what is installed that a module is of."""
    # Reading what is installed takes a moment, which others need not wait.
    from importlib.metadata import packages_distributions

    if _is_file(module):
        return []
    return packages_distributions().get(module.partition(".")[0], [])
