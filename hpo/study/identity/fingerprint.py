"""What a score depends on, in named parts; a study goes on only where all of them are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from features.table import FeatureTable
from hpo.errors import ConflictError, ObjectiveError, SpecError, suggest
from hpo.estimators import trees
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import AnyObjective
from hpo.plugins import find_module
from hpo.spec.loading import canonical
from hpo.spec.sections import StudySpec
from hpo.study.identity.code_meaning import (
    Source,
    hash_meaning,
    imported_by,
    sha256,
    without_comments,
)
from hpo.study.identity.provenance import versions

Fingerprint = Mapping[str, str]

# How `code` is hashed: "1", the text of the modules, is that of fingerprints that do not say.
CODE_FORMAT = "2"

# The part of `code` that is the study's own, and that nothing need be imported for.
OWN_CODE = "own_code"

# Modules whose code decides a score. What the command line or a report looks like does not.
SCORING_MODULES = (
    "hpo.objectives.protocol",
    "hpo.objectives.factory",
    "hpo.objectives.cross_validation",
    "hpo.objectives.cv_objectives",
    "hpo.objectives.folds",
    "hpo.objectives.splitters",
    "hpo.objectives.metrics",
    "hpo.objectives.class_metrics",
    "hpo.objectives.censored.bounds",
    "hpo.objectives.censored.checks",
    "hpo.objectives.scoring",
    "hpo.estimators.protocol",
    "hpo.estimators.probabilities",
    "hpo.estimators.registry",
    "hpo.estimators.searched_families",
    "hpo.estimators.factory",
    "hpo.estimators.boosting",
    "hpo.estimators.composite",
    "hpo.estimators.construction",
    "hpo.estimators.kept_rows.choice",
    "hpo.estimators.kept_rows.lightgbm_rows",
    "hpo.estimators.lightgbm_ranker",
    "hpo.estimators.sklearn_private",
    "hpo.estimators.staged_trees",
    "hpo.estimators.extras.xgboost_aft",
    "hpo.estimators.trees",
    "hpo.spec.space",
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


def fingerprint(
    spec: StudySpec, table: FeatureTable | None, objective: AnyObjective
) -> Fingerprint:
    """Return the hash of every part that the scores of a study depend on, and `code_format`.

    The packages part is readable rather than hashed, so that a conflict can name versions.
    """
    return {
        "table": table.hash if table else "",
        "splits": objective.splits_hash,
        **fingerprint_of_spec(spec, objective),
    }


def fingerprint_of_spec(spec: StudySpec, objective: AnyObjective | None = None) -> Fingerprint:
    """Return the parts of a fingerprint that need neither the table nor the division into parts.

    An objective of the user's own is asked for modules and packages that its scores depend on.
    """
    own = getattr(objective, "scoring_packages", ())
    if isinstance(objective, CrossValidation):
        own = objective.bound.packages
    packages = versions((*SCORING_PACKAGES, *own))
    sources = _sources(spec, getattr(objective, "scoring_modules", ()))
    return {
        "space": sha256(*(f"{name}={canonical(d)}" for name, d in sorted(spec.space.items()))),
        "objective": sha256(
            canonical(spec.objective),
            canonical(spec.estimator),
            f"seed={spec.seed}",
            *([canonical(spec.fit)] if spec.fit else []),
        ),
        "code": sha256(hash_meaning(sources), without_comments(trees.source()), *_files(objective)),
        "code_format": CODE_FORMAT,
        **({OWN_CODE: hash_own_code(spec)} if own_modules(spec) else {}),
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
        If another part differs, or cannot be compared.
    """
    for part in accepted:
        if part not in PARTS:
            raise SpecError(f"--accept {part}: no such part; {suggest(part, PARTS)}")
    changed = [part for part in PARTS if stored.get(part) != current.get(part)]
    refused = [part for part in changed if part not in accepted]
    known = [part for part in refused if is_comparable(part, stored, current)]
    lines = []
    if known:
        lines.append(f"study '{name}' was begun with something else:")
        for part in known:
            before, now = stored.get(part, ""), current.get(part, "")
            lines.append(f"  {part}: {PARTS[part]} changed ({shorten(before)} -> {shorten(now)})")
        lines.append("Undo the change, or begin another study (--name NEW), or go on knowingly:")
    if known != refused:
        lines.append(
            f"study '{name}': whether its code changed cannot be told. An earlier version of hpo "
            f"hashed it as text (code_format {_code_format(stored)}, here "
            f"{_code_format(current)}). If you only upgraded hpo, accept it; you are asked once:"
        )
    if refused:
        lines.append(f"  --accept {','.join(refused)}   (written down in the study)")
        raise ConflictError("\n".join(lines), refused)
    return changed


def is_comparable(part: str, stored: Fingerprint, current: Fingerprint) -> bool:
    """Return whether two fingerprints can tell if a part changed; each was hashed by its version.

    Only how code is hashed has ever changed.
    """
    return part != "code" or _code_format(stored) == _code_format(current)


def _code_format(of: Fingerprint) -> str:
    return of.get("code_format", "1")


NOT_COMPARABLE = "whether it changed cannot be told, as an earlier version of hpo hashed its text"

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
    """Return what differs of `hpo.study.identity.provenance.facts`, which need not change a score.

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
            f"({shorten(stored.get(part, ''))} -> {shorten(current[part])})"
            for part in refused
        ]
        lines.append("Undo the change, or go on without --strict (written down in the study)")
        raise ConflictError("\n".join(lines), refused)
    return changed


def _files(objective: AnyObjective | None) -> list[str]:
    """Return hashes of the files of a program, which is hashed as it is."""
    files = getattr(objective, "code_files", ())
    return [sha256(path.name, path.read_bytes().hex()) for path in files]


def _sources(spec: StudySpec, more: Sequence[str]) -> tuple[Source, ...]:
    # Another sampler, pruner or terminator may go on with a study; no callback changes a score.
    others = ("[sampler", "[pruner", "[terminator", "callbacks")
    own = own_modules(spec).items()
    named = [module for what, module in own if not what.startswith(others)]
    engine = (read_source(module) for module in SCORING_MODULES)
    return tuple(source for source in (*engine, *_with_imported([*named, *more])) if source)


def own_modules(spec: StudySpec) -> dict[str, str]:
    """Return the modules of what a study names as `module:attribute`, by what names them."""
    return {what: name.partition(":")[0] for what, name in spec.named_modules.items()}


def hash_own_code(spec: StudySpec, folders: Sequence[Path] = ()) -> str:
    """Return a hash of what importing a study's own modules would run; nothing is imported.

    These are the modules that it names, the packages that they are in, and what they import of
    the same folder. `folders` are looked into at last, as if they were importable.
    """
    named = own_modules(spec).values()
    packages = {
        module.rsplit(".", depth)[0]
        for module in named
        for depth in range(1, module.count(".") + 1)
    }
    found = _with_imported([*named, *sorted(packages)], folders)
    # Of what is installed the version counts, but for the module itself.
    own = [one for one in found if one.module in named or "site-packages" not in one.file]
    return hash_meaning(tuple(own))


def with_own_code(
    stored: Fingerprint, spec: StudySpec, folders: Sequence[Path]
) -> tuple[Fingerprint, Fingerprint]:
    """Return a study's fingerprint, and what it is now, with its own code as all of its code."""
    try:
        own = hash_own_code(spec, folders)
    except ObjectiveError as exc:
        own = str(exc)
    now = {**stored, "code": own, "code_format": CODE_FORMAT}
    return {**stored, "code": stored[OWN_CODE]}, now


def _with_imported(named: Sequence[str], folders: Sequence[Path] = ()) -> list[Source]:
    """Return modules, and those of the same folder that they import, directly or not.

    What lies in site-packages is not followed: its version says what it is.
    """
    found: dict[str, Source] = {}
    todo = list(named)
    while todo:
        source = read_source(todo.pop(0), folders)
        if source and source.module not in found:
            found[source.module] = source
            todo += sorted(_imported_beside(source))
    return [*found.values()]


def _imported_beside(source: Source) -> set[str]:
    file, prefix = Path(source.file), f"{source.package}." if source.package else ""
    if "site-packages" in file.parts or file.suffix != ".py":
        return set()
    return {
        name
        for name in imported_by(source)
        if name.startswith(prefix)
        and name != source.module
        and (file.parent / f"{name.removeprefix(prefix).replace('.', '/')}.py").is_file()
    }


def hash_code(modules: Sequence[str]) -> str:
    """Return a hash of what modules mean, comments and layout aside."""
    return hash_meaning(tuple(source for name in modules if (source := read_source(name))))


def read_source(module: str, folders: Sequence[Path] = ()) -> Source | None:
    """Return the file of a module as it is now; None if it has none. Nothing is imported."""
    found = find_module(module, folders)
    read = getattr(found.loader, "get_data", None) if found else None
    if found is None or found.origin is None or read is None:
        return None
    return Source(module, found.parent or "", found.origin, read(found.origin))


def shorten(value: str) -> str:
    """Return what tells two fingerprints apart: hashes by their beginning, versions in full."""
    return value if " " in value or not value else value[:12]
