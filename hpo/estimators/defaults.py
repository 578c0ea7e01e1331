"""What an estimator's parameters are where nobody sets them."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

from hpo.estimators.construction import PASSTHROUGH, make_model
from hpo.estimators.registry import EARLY_STOPPING, find, stops_by_rows
from hpo.spec.estimators import EstimatorSpec


def default_params(spec: EstimatorSpec) -> dict[str, Any]:
    """Return the defaults of an estimator by parameter; `part.parameter` for a composite's parts.

    Raises
    ------
    SpecError
        If there is no such estimator.
    """
    return {
        f"{part}.{name}" if part else name: value
        for part, model in spec.parts.items()
        for name, value in _defaults_of(model).items()
    }


def _defaults_of(model: EstimatorSpec) -> dict[str, Any]:
    within: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # of what is within, as far as it can be made without data
        plain = model.model_copy(update={"impute": False, "scale": False})
        made: Any = make_model(plain, {}, 0, "[estimator]")
        within = made.get_params(deep=True)
    if model.steps:
        chosen = {step.key: step.model_dump(include={"name", "params"}) for step in model.steps}
        return (
            within
            | chosen
            | {
                f"{step.key}__{name}": value
                for step in model.steps
                if step.name != PASSTHROUGH
                for name, value in _defaults_of_class(step.name).items()
            }
        )
    return within | _defaults_of_class(model.name)


def _defaults_of_class(name: str) -> dict[str, Any]:
    entry, factory = find(name, "[estimator] name")
    parameters = inspect.signature(factory).parameters.values()
    named = {one.name: one.default for one in parameters if one.default is not one.empty}
    if not entry.own and stops_by_rows(factory):
        named[EARLY_STOPPING] = False
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        # What it takes beyond these, an instance knows, or the model that this passes them on to.
        with contextlib.suppress(Exception):
            made = factory()
            told = getattr(made, "model", made).get_params(deep=False)
            return {**told, **named}
    return named
