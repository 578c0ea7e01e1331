"""The values of a trial with parts: its score, or several of its figures, and their constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpo.errors import ObjectiveError, suggest
from hpo.objectives.scores import SCORE
from hpo.spec.objectives import BoundSpec, FunctionSpec, ProgramSpec
from hpo.spec.sections import StudySpec


class Values:
    """Finds the values of a trial among its figures, and by how much it breaks a constraint.

    Attributes
    ----------
    names
        Of the figures that are its values, the first of which is the score.
    """

    def __init__(self, spec: StudySpec) -> None:
        objective = spec.objective
        assert not isinstance(objective, FunctionSpec | ProgramSpec)
        self.names = tuple(objective.directions) or (SCORE,)
        self._constraints: Mapping[str, BoundSpec] = objective.constraints

    def of(self, figures: Mapping[str, Any]) -> list[float]:
        """Return the values of a trial that keeps these figures.

        Raises
        ------
        ObjectiveError
            If one of them is not there, or is undefined.
        """
        return [_find(figures, name, "directions") for name in self.names]

    def violations(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """Return by how much a trial breaks each constraint; it is kept at 0 and below.

        Raises
        ------
        ObjectiveError
            If one of the figures is not there, or is undefined.
        """
        return {
            name: must.violation(_find(figures, name, "constraints"))
            for name, must in self._constraints.items()
        }


def _find(figures: Mapping[str, Any], name: str, key: str) -> float:
    if name not in figures:
        raise ObjectiveError(
            f"[objective] {key}: '{name}' is none of the figures that a trial keeps; "
            f"{suggest(name, figures)}"
        )
    value = float(figures[name])
    if not math.isfinite(value):
        raise ObjectiveError(f"[objective] {key}: '{name}' must be finite, is {value}")
    return value
