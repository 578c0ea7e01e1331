"""Checks of an estimator section before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from features.table import Column
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.construction import of_one_target
from hpo.estimators.factory import BoundEstimator, prepare
from hpo.spec.sections import StudySpec
from hpo.spec.space import CategoricalDimension, FamiliesDimension, as_choice


def check_estimator(
    spec: StudySpec, columns: Sequence[Column], *, classifies: bool = False, n_targets: int = 1
) -> None:
    """Try the estimator over a table's columns at both ends of every dimension, and the baseline.

    `classifies` says whether the target has classes, `n_targets` how many targets there are.

    Raises
    ------
    SpecError
        If it names a column or a parameter that there is not, if it refuses a value, or if it
        cannot predict what the objective scores.
    """
    if spec.estimator is None:
        return
    bound = prepare(spec, columns, classifies=classifies, n_targets=n_targets)
    for params in (*_ends(spec), *([spec.baseline] if spec.baseline is not None else [])):
        _try(bound, params)
    weighing = [
        what
        for what, given in (
            ("[fit] group_weight", spec.fit is not None),
            ("[table] weight", getattr(spec.table, "weight", None) is not None),
        )
        if given
    ]
    if weighing and not bound.weight_argument:
        raise SpecError(
            f"{' and '.join(weighing)}: estimator '{bound.spec.name}' takes no weights of rows"
        )


def expected_columns(spec: StudySpec) -> tuple[Column, ...]:
    """Return the columns that a study's table will have, as far as its spec says.

    None of a table of the study's own, or with categories: its rows alone say what columns it has.
    """
    return spec.table.declared_columns if spec.table else ()


def _ends(spec: StudySpec) -> list[dict[str, Any]]:
    ends: list[dict[str, Any]] = [{}]
    for name, dimension in spec.space.items():
        if isinstance(dimension, CategoricalDimension | FamiliesDimension):
            ends.extend({name: as_choice(choice)} for choice in dimension.choices)
        else:
            ends.extend({name: end} for end in (dimension.low, dimension.high))
    return ends


def _try(bound: BoundEstimator, params: Mapping[str, Any]) -> None:
    try:
        model = bound.make(params)
        _check_values(of_one_target(model))
        _check_kind(bound, model)
    except (SpecError, ObjectiveError):
        raise
    except (Exception, SystemExit) as exc:  # a user's own estimator may raise anything
        tried = {**bound.spec.fixed, **params}
        raise SpecError(f"[estimator] {bound.spec.name} refuses {tried}: {exc}") from exc


def _check_kind(bound: BoundEstimator, model: Any) -> None:
    """Refuse a classifier of numbers and a regressor of classes, as far as it says what it is."""
    from sklearn.base import is_classifier, is_regressor

    if not hasattr(model, "__sklearn_tags__"):
        return
    if bound.classifies and is_regressor(model):
        does, has = "predicts numbers", "classes"
    elif not bound.classifies and is_classifier(model):
        does, has = "predicts classes", "numbers"
    else:
        return
    hint = "" if bound.classifies else '; if they are classes, [table] task = "classification"'
    raise SpecError(f"[estimator] {bound.spec.name}: {does}, and the target has {has}{hint}")


def _check_values(estimator: Any) -> None:
    models = getattr(estimator, "models", None)
    if models is not None:
        for model in models:
            _check_values(model)
        return
    # scikit-learn checks values in fit alone; this is the check that its fit begins with.
    for step in getattr(estimator, "named_steps", {"": estimator}).values():
        # LightGBM inherits the check without the constraints that it looks at.
        if hasattr(step, "_parameter_constraints"):
            step._validate_params()
