"""Estimators by name: what each is called, needs and can do."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hpo.errors import SpecError, suggest
from hpo.plugins import find_module, resolve
from hpo.spec.estimators import EstimatorSpec, named_estimators


@dataclass(frozen=True)
class Registered:
    """What is known of an estimator beside what its class says of itself.

    Attributes
    ----------
    factory
        `module:attribute` of the class whose parameters a study file sets.
    fixed
        What every worker sets: one thread, no output.
    extra
        Parameters that the class takes without naming them in its signature.
    scaled
        Whether it needs columns of equal scale; None where its kind says it (`SCALED`).
    own
        Whether it is the user's own: nothing is put before it, nor set, that was not asked for.
    quantile
        The parameters with which it predicts the quantile of a level; None if it cannot.
    ranks
        Whether its predictions are scores without a unit, which only rank rows.
    trees
        The parameter whose every value is scored by one fit of the largest; "" if there is none.
    classifier
        What it stands for where the target has classes, by its name here; "" if for nothing.
    needs
        The extra package that its module imports when it is fitted; "" if none.
    """

    factory: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    extra: frozenset[str] = frozenset()
    scaled: bool | None = None
    own: bool = False
    quantile: Callable[[float], Mapping[str, Any]] | None = None
    ranks: bool = False
    trees: str = ""
    classifier: str = ""
    needs: str = ""

    @property
    def package(self) -> str:
        """The package that it is of, or that it needs."""
        return self.needs or self.factory.partition(":")[0]

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return self.factory.rpartition(":")[2]

    @property
    def needs_scale(self) -> bool:
        """Whether columns should be of equal scale: linear, kernel, distance and neural models."""
        module = self.factory.partition(":")[0]
        return module in SCALED and not self.own if self.scaled is None else self.scaled


# Where penalties, distances or steps of a descent depend on the units of the columns.
SCALED = frozenset(
    f"sklearn.{name}"
    for name in (
        "gaussian_process",
        "kernel_ridge",
        "linear_model",
        "neighbors",
        "neural_network",
        "semi_supervised",
        "svm",
    )
)
LIGHTGBM_EXTRA = frozenset(
    {
        "extra_trees",
        "feature_fraction_bynode",
        "linear_lambda",
        "linear_tree",
        "max_bin",
        "min_data_in_bin",
        "path_smooth",
    }
)

LIGHTGBM = {"n_jobs": 1, "verbosity": -1}
XGBOOST = {"n_jobs": 1, "verbosity": 0}
CATBOOST = {"thread_count": 1, "verbose": False, "allow_writing_files": False}

# Short names, and classes of which more is known than they say. All others of scikit-learn's are
# found by their names; those here can be named by their classes, too.
REGISTRY: Mapping[str, Registered] = MappingProxyType(
    {
        "hist_gradient_boosting": Registered(
            "sklearn.ensemble:HistGradientBoostingRegressor",
            quantile=lambda level: {"loss": "quantile", "quantile": level},
            trees="max_iter",
            classifier="HistGradientBoostingClassifier",
        ),
        "random_forest": Registered(
            "sklearn.ensemble:RandomForestRegressor", classifier="RandomForestClassifier"
        ),
        # Its threads are all cores unless a number is said. Its extra trees are not quicker.
        "random_forest_intelex": Registered(
            "sklearnex.ensemble:RandomForestRegressor", {"n_jobs": 1}, needs="sklearnex"
        ),
        "extra_trees": Registered(
            "sklearn.ensemble:ExtraTreesRegressor", classifier="ExtraTreesClassifier"
        ),
        "ridge": Registered("sklearn.linear_model:Ridge"),
        # Distances are in the columns' own units, as between compositions they should be.
        "k_neighbors": Registered(
            "sklearn.neighbors:KNeighborsRegressor",
            scaled=False,
            classifier="KNeighborsClassifier",
        ),
        "lightgbm": Registered(
            "lightgbm:LGBMRegressor",
            LIGHTGBM,
            LIGHTGBM_EXTRA | {"alpha"},
            quantile=lambda level: {"objective": "quantile", "alpha": level},
            trees="n_estimators",
            classifier="LGBMClassifier",
        ),
        "lightgbm_ranker": Registered(
            "hpo.estimators.lightgbm_ranker:LightGbmRanker",
            LIGHTGBM,
            LIGHTGBM_EXTRA | {"lambdarank_truncation_level"},
            ranks=True,
            trees="n_estimators",
        ),
        "xgboost_aft": Registered(
            "hpo.estimators.extras.xgboost_aft:XGBAFTRegressor", {"n_jobs": 1}, needs="xgboost"
        ),
        "HistGradientBoostingClassifier": Registered(
            "sklearn.ensemble:HistGradientBoostingClassifier", trees="max_iter"
        ),
        "LGBMClassifier": Registered(
            "lightgbm:LGBMClassifier", LIGHTGBM, LIGHTGBM_EXTRA, trees="n_estimators"
        ),
        "XGBRegressor": Registered("xgboost:XGBRegressor", XGBOOST, classifier="XGBClassifier"),
        "XGBClassifier": Registered("xgboost:XGBClassifier", XGBOOST),
        "XGBRFRegressor": Registered(
            "xgboost:XGBRFRegressor", XGBOOST, classifier="XGBRFClassifier"
        ),
        "XGBRFClassifier": Registered("xgboost:XGBRFClassifier", XGBOOST),
        "CatBoostRegressor": Registered(
            "catboost:CatBoostRegressor", CATBOOST, classifier="CatBoostClassifier"
        ),
        "CatBoostClassifier": Registered("catboost:CatBoostClassifier", CATBOOST),
    }
)
# An estimator whose `fit` takes `bounds`, of shape (n_rows, 2), has this attribute, and it is true.
TAKES_BOUNDS = "takes_bounds"
# Packages that are extras of this one.
EXTRAS: Mapping[str, str] = MappingProxyType(
    {"xgboost": "xgboost", "catboost": "catboost", "sklearnex": "intelex"}
)


# Classes of scikit-learn's that can be imported once another module of its has been.
EXPERIMENTAL: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"IterativeImputer": ("sklearn.impute", "sklearn.experimental.enable_iterative_imputer")}
)
_THEIRS = frozenset(["sklearn", "lightgbm", "xgboost", "catboost"])
_FUNCTION = re.compile(r"(?:numpy|scipy|sklearn)(?:\.[a-z]\w*)*:[a-z]\w*")
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
    """Return the public module of every estimator, transformer and kernel of scikit-learn.

    Nothing is imported, unlike by scikit-learn's own list (`sklearn.utils.discovery`),
    which takes seconds that a worker need not spend: its modules say in their text what they offer.
    """
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


@functools.cache
def lookup(name: str) -> Registered | None:
    """Return what an estimator, a transformer or a kernel is by its name; None if there is none.

    A short name, the class of one, any class of scikit-learn's, or `module:attribute`.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    module, colon, class_name = name.rpartition(":")
    if colon:
        # A class of theirs by its whole name is theirs, not the user's own.
        known = lookup(class_name) if module.partition(".")[0] in _THEIRS else None
        is_theirs = known is not None and known.factory == name
        return known if is_theirs else Registered(name, own=True)
    for entry in REGISTRY.values():
        if entry.class_name == name:
            # What a short name is known to be used for, its class need not be.
            return replace(entry, scaled=None)
    place = EXPERIMENTAL[name][0] if name in EXPERIMENTAL else sklearn_classes().get(name)
    return Registered(f"{place}:{name}") if place else None


def near(wrong: str, valid: Iterable[str]) -> str:
    """Return which valid name may be meant: a table may have hundreds of columns."""
    found = difflib.get_close_matches(wrong, sorted(valid), n=1, cutoff=0.5)
    return f"did you mean '{found[0]}'?" if found else "check [table] families"


def is_function(text: str) -> bool:
    """Return whether a parameter's text names a function of NumPy's, SciPy's or scikit-learn's."""
    return _FUNCTION.fullmatch(text) is not None


def find(name: str, what: str, also: Iterable[str] = ()) -> tuple[Registered, Any]:
    """Return what an estimator is by its name, and its class.

    Parameters
    ----------
    name
        As for `lookup`.
    what
        Which setting names it.
    also
        What may be named there beside.

    Raises
    ------
    SpecError
        If there is none, or its package is not installed.
    """
    entry = lookup(name)
    if entry is None:
        short = [key for key in REGISTRY if key[0].islower()]
        known = [*REGISTRY, *sklearn_classes(), *EXPERIMENTAL, *also]
        last = name.rpartition(".")[2]
        meant = last if last in known else nearest(name, known)
        hint = f"did you mean '{meant}'? " if meant else ""
        raise SpecError(
            f"{what}: unknown '{name}'; {hint}(a class of scikit-learn's, LightGBM's, XGBoost's or "
            f"CatBoost's, {', '.join([*short, *also])}, or module:attribute)"
        )
    package = entry.package
    if package in EXTRAS and find_module(package) is None:
        raise SpecError(
            f"{what}: '{name}' needs the package {package}, which is not installed: pip install "
            f"'hpo[{EXTRAS[package]}]'"
        )
    if entry.class_name in EXPERIMENTAL:
        importlib.import_module(EXPERIMENTAL[entry.class_name][1])
    return entry, resolve(entry.factory, what)


def extra_packages(spec: EstimatorSpec) -> tuple[str, ...]:
    """Return the installed distributions of extras that an estimator is made by, and its parts."""
    inner = {part: (one.name, one.params, one.steps) for part, one in spec.parts.items()}
    names = {name for name, _, _ in inner.values()}
    for _, params, steps in inner.values():
        within = [params, *(step.model_dump() for step in steps)]
        names |= {name for _, name in named_estimators("", within)}
    entries = [entry for name in names if (entry := lookup(name)) is not None]
    packages = {entry.package for entry in entries} & EXTRAS.keys()
    # XGBoost without its parts for GPUs is a distribution of its own.
    installed = importlib.metadata.packages_distributions() if packages else {}
    return tuple(sorted(dist for package in packages for dist in installed.get(package, [package])))


def find_entry(spec: EstimatorSpec) -> Registered | None:
    """Return what the estimator of a section is; None for a pipeline and for what there is not."""
    return None if spec.steps else lookup(spec.name)


def ranks_only(estimator: EstimatorSpec) -> bool:
    """Return whether an estimator predicts scores without a unit, which only rank rows."""
    entry = find_entry(estimator)
    return entry is not None and entry.ranks


@functools.cache
def parameter_names(factory: Any) -> frozenset[str]:
    """Return the names of the parameters that an estimator's factory takes.

    Where a constructor takes more than it names, as XGBoost's do, an instance is asked.

    Raises
    ------
    SpecError
        If it cannot be called.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as exc:
        raise SpecError(f"[estimator] name: {factory!r} cannot be called: {exc}") from exc
    own = getattr(factory, "_get_param_names", None)
    if own is not None:
        names = frozenset(own())
    else:
        names = frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        # Making one may need arguments that are not known yet: then its names are all there are.
        with contextlib.suppress(Exception):
            names |= frozenset(factory().get_params(deep=False))
    return names


EARLY_STOPPING = "early_stopping"
# Above so many rows, and not below, scikit-learn's "auto" means early stopping.
AUTO_ROWS = 10_000


@functools.cache
def stops_by_rows(factory: Any) -> bool:
    """Return whether a class stops early where there are many rows, unless it is told otherwise."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False
    return EARLY_STOPPING in parameters and parameters[EARLY_STOPPING].default == "auto"


def check_names(
    params: Mapping[str, Any], valid: frozenset[str], fixed: Mapping[str, Any], name: str
) -> None:
    """Refuse parameters that the estimator `name` has not, or that are `fixed`."""
    for key, value in params.items():
        if key in fixed and (value != fixed[key] or isinstance(value, bool)):
            raise SpecError(
                f"{name}: '{key}' is set to {fixed[key]!r} by every worker and cannot be changed"
            )
        if key not in valid:
            settable = valid - set(fixed)
            hint = f"; {suggest(key, settable)}" if settable else ": it takes none"
            raise SpecError(f"{name} has no parameter '{key}'{hint}")


def weight_argument(model: object) -> str:
    """Return what the weights of rows are called in a model's `fit`; "" if it takes none."""
    # Half a second that `hpo --help` and a report of a finished study do not need.
    from sklearn.utils.validation import has_fit_parameter

    steps = getattr(model, "steps", None)
    name, last = steps[-1] if steps else ("", model)
    if not has_fit_parameter(last, "sample_weight"):
        return ""
    return f"{name}__sample_weight" if name else "sample_weight"


def bounds_argument(model: Any) -> str:
    """Return what bounds of the target are called in a model's `fit`; "" if it takes none."""
    steps = getattr(model, "steps", None)
    name, last = steps[-1] if steps else ("", model)
    if not getattr(last, TAKES_BOUNDS, False):
        return ""
    return f"{name}__bounds" if name else "bounds"
