"""Where scikit-learn's classes are, by their names alone, without importing what is not asked for.

scikit-learn's own list, `sklearn.utils.discovery.all_estimators`, imports every module of it, which
takes seconds that a worker need not spend. Its modules say in their text what they offer.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpo.plugins import find_module

_CLASS = re.compile(r"^class ([A-Z]\w+)\b", re.MULTILINE)
_EXPORTED = re.compile(r"^__all__ = (\[.*?\])", re.MULTILINE | re.DOTALL)
# What is no estimator, nor anything within one.
_OTHERS = re.compile(
    r"Display$|^Halving|^Base|Split|Fold|^Leave|Mixin$|Callback|^Parameter|^Scoring|Vectorizer$"
)
# Kernels of Gaussian processes are parameters of these.
_BELOW = ("gaussian_process.kernels",)


@functools.cache
def sklearn_classes() -> Mapping[str, str]:
    """Return the public module of every estimator, transformer and kernel of scikit-learn."""
    found = find_module("sklearn")
    places = found.submodule_search_locations if found else None
    if not places:
        return {}
    root = Path(next(iter(places)))
    files = {f"sklearn.{path.stem}": path for path in root.glob("[a-z]*.py")}
    files |= {f"sklearn.{path.parent.name}": path for path in root.glob("[a-z]*/__init__.py")}
    files |= {f"sklearn.{name}": root / f"{name.replace('.', '/')}.py" for name in _BELOW}
    classes: dict[str, str] = {}
    for module, path in sorted(files.items()):
        if module.partition(".")[2] in ("base", "conftest", "exceptions", "experimental", "utils"):
            continue
        text = path.read_text(encoding="utf-8")
        exported = _EXPORTED.search(text) if path.name == "__init__.py" else None
        names = ast.literal_eval(exported[1]) if exported else _CLASS.findall(text)
        classes |= {name: module for name in names if _is_class(name)}
    return classes


def _is_class(name: str) -> bool:
    return name[0].isupper() and "_" not in name and _OTHERS.search(name) is None


def nearest(wrong: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that somebody may have meant, whatever its letters and hyphens."""
    plain = {_plain(name): name for name in sorted(valid)}
    near = difflib.get_close_matches(_plain(wrong), plain, n=1, cutoff=0.6)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9:]", "", name.lower())
