"""What a score depends on, in named parts; a study goes on only where all of them are the same."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from features.table import FeatureTable
from hpo.errors import ConflictError, SpecError, suggest
from hpo.estimators import trees
from hpo.objectives.protocol import Objective
from hpo.spec.loading import canonical
from hpo.spec.sections import StudySpec
from hpo.study.provenance import versions

Fingerprint = Mapping[str, str]

# Modules whose text decides a score. What the command line or a report looks like does not.
SCORING_MODULES = (
    "hpo.objectives.cross_validation",
    "hpo.estimators.boosting",
    "hpo.estimators.trees",
    "hpo.objectives.folds",
    "hpo.objectives.metrics",
    "hpo.estimators.factory",
    "hpo.estimators.lightgbm_ranker",
    "hpo.estimators.composite",
    "hpo.spec.space",
    "hpo.estimators.staged_trees",
    "hpo.worker.sampler",
)
SCORING_PACKAGES = ("lightgbm", "numpy", "optuna", "scikit-learn", "scipy")

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "table": "the feature table: rows, features or target",
        "splits": "the division into cross-validation folds",
        "space": "the search space",
        "objective": "the objective, the estimator or the seed",
        "code": "the code that computes a score",
        "packages": "the versions of the packages that compute a score",
    }
)


def fingerprint(spec: StudySpec, table: FeatureTable | None, objective: Objective) -> Fingerprint:
    """Return the hash of every part that the scores of a study depend on.

    The packages part is readable rather than hashed, so that a conflict can name versions.
    """
    return {
        "table": table.hash if table else "",
        "splits": objective.splits_hash,
        **fingerprint_of_spec(spec, objective),
    }


def fingerprint_of_spec(spec: StudySpec, objective: Objective | None = None) -> Fingerprint:
    """Return the parts of a fingerprint that need neither the table nor the division into parts.

    An objective of the user's own is asked for modules and packages that its scores depend on.
    """
    packages = versions((*SCORING_PACKAGES, *getattr(objective, "scoring_packages", ())))
    modules = _modules(spec, getattr(objective, "scoring_modules", ()))
    return {
        "space": _sha256(*(f"{name}={canonical(d)}" for name, d in sorted(spec.space.items()))),
        "objective": _sha256(
            canonical(spec.objective),
            canonical(spec.estimator),
            f"seed={spec.seed}",
            *([canonical(spec.fit)] if spec.fit else []),
        ),
        "code": _sha256(*(_source(module) for module in modules), trees.source()),
        "packages": " ".join(f"{name}={version}" for name, version in sorted(packages.items())),
    }


def compare(
    name: str, stored: Fingerprint, current: Fingerprint, accepted: Sequence[str] = ()
) -> list[str]:
    """Return the parts that changed and were accepted.

    Parameters
    ----------
    name
        The study's, for the error.
    stored, current
        Fingerprints of the study and of what is here now.
    accepted
        Names of parts that may differ.

    Raises
    ------
    ConflictError
        If another part differs.
    """
    for part in accepted:
        if part not in PARTS:
            raise SpecError(f"--accept {part}: no such part; {suggest(part, PARTS)}")
    changed = [part for part in PARTS if stored.get(part) != current.get(part)]
    refused = [part for part in changed if part not in accepted]
    if refused:
        lines = [f"study '{name}' was begun with something else:"]
        for part in refused:
            before, now = stored.get(part, ""), current.get(part, "")
            lines.append(f"  {part}: {PARTS[part]} changed ({_short(before)} -> {_short(now)})")
        lines.append("Undo the change, or begin another study (--name NEW), or go on knowingly:")
        lines.append(f"  --accept {','.join(refused)}   (written down in the study)")
        raise ConflictError("\n".join(lines), refused)
    return changed


ORIGIN: Mapping[str, str] = MappingProxyType(
    {
        "commit": "the commit of the checkout",
        "diff": "the uncommitted changes of the checkout",
        "lock": "the lock file",
        "python": "the version of Python",
    }
)


def compare_origin(
    name: str, stored: Mapping[str, str], current: Mapping[str, str], *, strict: bool
) -> list[str]:
    """Return what differs of `hpo.study.provenance.facts`, which need not change a score.

    Raises
    ------
    ConflictError
        If `strict`, and the commit, uncommitted changes, the lock file or Python differ.
    """
    changed = [part for part in current if stored.get(part) != current[part]]
    refused = [part for part in changed if part in ORIGIN]
    if strict and refused:
        lines = [f"study '{name}' was begun elsewhere, and --strict forbids that:"]
        lines += [
            f"  {part}: {ORIGIN[part]} changed "
            f"({_short(stored.get(part, ''))} -> {_short(current[part])})"
            for part in refused
        ]
        lines.append("Undo the change, or go on without --strict (written down in the study)")
        raise ConflictError("\n".join(lines), refused)
    return changed


def _modules(spec: StudySpec, more: Sequence[str]) -> list[str]:
    models = spec.estimator.parts.values() if spec.estimator else ()
    own = [spec.objective.name, *(model.name for model in models)]
    named = [name.partition(":")[0] for name in own if ":" in name]
    return [*SCORING_MODULES, *_with_imported([*named, *more])]


def _with_imported(named: Sequence[str]) -> list[str]:
    """Return modules, and those of the same folder that they import, directly or not.

    What lies in site-packages is not followed: its version says what it is.
    """
    found: list[str] = []
    todo = list(named)
    while todo:
        module = todo.pop(0)
        if module not in found:
            found.append(module)
            todo += sorted(_imported_beside(module))
    return found


def _imported_beside(module: str) -> set[str]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return set()
    file, prefix = Path(spec.origin), f"{spec.parent}." if spec.parent else ""
    if "site-packages" in file.parts:
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = prefix.rstrip(".") if node.level else ""
            whole = ".".join(part for part in (start, node.module) if part)
            names |= {whole, *(f"{whole}.{alias.name}" for alias in node.names)}
    beside = {name for name in names if name.startswith(prefix) and name != module}
    return {
        name
        for name in beside
        if (file.parent / f"{name.removeprefix(prefix).replace('.', '/')}.py").is_file()
    }


def _source(module: str) -> str:
    loaded = sys.modules.get(module)
    if loaded is not None:
        return inspect.getsource(loaded)
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return ""
    return Path(found.origin).read_text(encoding="utf-8")


def _sha256(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text.encode()).to_bytes(8, "little"))
        digest.update(text.encode())
    return digest.hexdigest()


def _short(value: str) -> str:
    return value if " " in value or not value else value[:12]


def shorten(value: str) -> str:
    """Return what tells two fingerprints apart: hashes by their beginning, versions in full."""
    return value if " " in value or not value else value[:12]
