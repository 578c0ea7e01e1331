"""Regressors by name: what each is called, needs and can do."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hpo.errors import SpecError, suggest
from hpo.spec.sections import EstimatorSpec


@dataclass(frozen=True)
class Registered:
    """A regressor by name.

    Attributes
    ----------
    factory
        `module:attribute` of the class whose parameters a study file sets.
    fixed
        What every worker sets: one thread, no output.
    extra
        Parameters that the class takes without naming them in its signature.
    imputed
        Whether it needs columns without gaps.
    scaled
        Whether it needs columns of equal scale and without gaps.
    quantile
        The parameters with which it predicts the quantile of a level; None if it cannot.
    ranks
        Whether its predictions are scores without a unit, which only rank rows.
    trees
        The parameter whose every value is scored by one fit of the largest; "" if there is none.
    classifier
        What it stands for where the target has classes, by its name here; "" if for nothing.
    """

    factory: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    extra: frozenset[str] = frozenset()
    imputed: bool = False
    scaled: bool = False
    quantile: Callable[[float], Mapping[str, Any]] | None = None
    ranks: bool = False
    trees: str = ""
    classifier: str = ""


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

REGISTRY: Mapping[str, Registered] = MappingProxyType(
    {
        "hist_gradient_boosting": Registered(
            "sklearn.ensemble:HistGradientBoostingRegressor",
            quantile=lambda level: {"loss": "quantile", "quantile": level},
            trees="max_iter",
            classifier="HistGradientBoostingClassifier",
        ),
        "random_forest": Registered(
            "sklearn.ensemble:RandomForestRegressor",
            {"n_jobs": 1},
            classifier="RandomForestClassifier",
        ),
        "extra_trees": Registered(
            "sklearn.ensemble:ExtraTreesRegressor", {"n_jobs": 1}, classifier="ExtraTreesClassifier"
        ),
        "ridge": Registered("sklearn.linear_model:Ridge", scaled=True),
        # Distances are in the columns' own units, as between compositions they should be.
        "k_neighbors": Registered(
            "sklearn.neighbors:KNeighborsRegressor",
            {"n_jobs": 1},
            imputed=True,
            classifier="KNeighborsClassifier",
        ),
        "lightgbm": Registered(
            "lightgbm:LGBMRegressor",
            {"n_jobs": 1, "verbosity": -1},
            LIGHTGBM_EXTRA | {"alpha"},
            quantile=lambda level: {"objective": "quantile", "alpha": level},
            trees="n_estimators",
            classifier="LGBMClassifier",
        ),
        "lightgbm_ranker": Registered(
            "hpo.estimators.lightgbm_ranker:LightGbmRanker",
            {"n_jobs": 1, "verbosity": -1},
            LIGHTGBM_EXTRA | {"lambdarank_truncation_level"},
            ranks=True,
            trees="n_estimators",
        ),
        "HistGradientBoostingClassifier": Registered(
            "sklearn.ensemble:HistGradientBoostingClassifier", trees="max_iter"
        ),
        "RandomForestClassifier": Registered(
            "sklearn.ensemble:RandomForestClassifier", {"n_jobs": 1}
        ),
        "ExtraTreesClassifier": Registered("sklearn.ensemble:ExtraTreesClassifier", {"n_jobs": 1}),
        "KNeighborsClassifier": Registered(
            "sklearn.neighbors:KNeighborsClassifier", {"n_jobs": 1}, imputed=True
        ),
        "LogisticRegression": Registered("sklearn.linear_model:LogisticRegression", scaled=True),
        "LGBMClassifier": Registered(
            "lightgbm:LGBMClassifier",
            {"n_jobs": 1, "verbosity": -1},
            LIGHTGBM_EXTRA,
            trees="n_estimators",
        ),
    }
)


def ranks_only(estimator: EstimatorSpec) -> bool:
    """Return whether an estimator predicts scores without a unit, which only rank rows."""
    registered = REGISTRY.get(estimator.name)
    return registered is not None and registered.ranks


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


def check_names(
    params: Mapping[str, Any], valid: frozenset[str], fixed: Mapping[str, Any], name: str
) -> None:
    """Refuse parameters that the estimator `name` has not, or that are `fixed`."""
    for key in params:
        if key in fixed:
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
