"""Finds what a study file names as `module:attribute`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from hpo.errors import SpecError


def make_importable(study_file: Path) -> None:
    """Let a study file name modules that lie beside it, or in the working directory."""
    for folder in (str(study_file.resolve().parent), str(Path.cwd())):
        # Behind everything else: a user's file must not hide an installed module.
        if folder not in sys.path:
            sys.path.append(folder)


def resolve(name: str, what: str) -> Any:
    """Import `module:attribute`.

    Raises
    ------
    SpecError
        If there is no such module or attribute; `what` says which setting named it.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as exc:
        raise SpecError(f"{what}: cannot import '{module_name}': {exc}") from exc
    except SyntaxError as exc:
        raise SpecError(
            f"{what}: {exc.filename}, line {exc.lineno}: not valid Python ({exc.msg})"
        ) from exc
    except OSError as exc:
        # LightGBM's wheel relies on the system's OpenMP runtime, which a bare machine lacks.
        hint = "; install it (Debian: libgomp1)" if "libgomp" in str(exc) else ""
        raise SpecError(f"{what}: '{module_name}' lacks a system library: {exc}{hint}") from exc
    except AttributeError as exc:
        raise SpecError(f"{what}: module '{module_name}' has no '{attribute}'") from exc
    return found
