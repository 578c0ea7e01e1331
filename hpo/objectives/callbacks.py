"""Functions of the user's own that are called after a trial, as `Study.optimize` of Optuna does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.errors import SpecError
from hpo.plugins import resolve
from hpo.spec.sections import StudySpec

Callback = Callable[[Study, FrozenTrial], Any]


def callbacks_of(spec: StudySpec) -> Mapping[str, Callback]:
    """Import the callbacks that a study names, by their names.

    Raises
    ------
    SpecError
        If one is not there, or cannot be called with a study and a trial.
    """
    found = {}
    for what, name in spec.named_callbacks.items():
        callback = resolve(name, what)
        try:
            inspect.signature(callback).bind(None, None)
        except (TypeError, ValueError) as exc:
            raise SpecError(
                f"{what}: {name} must be a function callback(study, trial), is {callback!r}: {exc}"
            ) from exc
        found[name] = callback
    return found
