"""Checks of an estimator section before anything is computed."""

from __future__ import annotations

from typing import Any

from features.table import Column
from hpo.errors import SpecError
from hpo.estimators.factory import adapt_estimator, bind, make_estimator, staged_of
from hpo.estimators.registry import weight_argument
from hpo.spec.sections import CompositeSpec, EstimatorSpec, StudySpec


def check_estimator(spec: StudySpec, source: str) -> None:
    """Try the estimator at both ends of every dimension.

    Raises
    ------
    SpecError
        If a parameter is unknown to the estimator, if it refuses a value, or if it cannot
        predict what the objective scores.
    """
    if spec.estimator is None:
        return
    try:
        estimator = adapt_estimator(spec)
        staged_of(spec)
    except SpecError as exc:
        raise SpecError(f"{source}: {exc}") from exc
    from hpo.spec.space import CategoricalDimension

    # What columns a table of the study's own has, its function alone knows.
    if isinstance(estimator, CompositeSpec) and expected_columns(spec):
        try:
            estimator = bind(estimator, expected_columns(spec))
        except SpecError as exc:
            raise SpecError(f"{source}: {exc}") from exc
    ends: list[dict[str, Any]] = [{}]
    for name, dimension in spec.space.items():
        if isinstance(dimension, CategoricalDimension):
            ends.extend({name: choice} for choice in dimension.choices)
        else:
            ends.extend({name: end} for end in (dimension.low, dimension.high))
    for params in ends:
        try:
            _check_values(make_estimator(estimator, params, spec.seed))
        except SpecError as exc:
            raise SpecError(f"{source}: {exc}") from exc
        except Exception as exc:
            tried = {**estimator.fixed, **params}
            raise SpecError(
                f"{source}: [estimator] {estimator.name} refuses {tried}: {exc}"
            ) from exc
    _check_weights(spec, estimator, source)


def _check_weights(spec: StudySpec, estimator: EstimatorSpec, source: str) -> None:
    if spec.fit is not None and not weight_argument(make_estimator(estimator, {}, spec.seed)):
        raise SpecError(
            f"{source}: [fit] group_weight: estimator '{estimator.name}' takes no weights of rows"
        )


def expected_columns(spec: StudySpec) -> tuple[Column, ...]:
    """Return the columns that a study's table will have, as its families declare them."""
    return spec.table.columns if spec.table else ()


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
