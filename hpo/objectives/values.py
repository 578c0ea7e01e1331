"""The values of a trial with parts: its score, or several of its figures, and their constraints."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hpo.errors import ObjectiveError, suggest
from hpo.objectives.scores import SCORE
from hpo.records import Judged
from hpo.spec.objectives import BoundSpec, FunctionSpec, ProgramSpec
from hpo.spec.sections import StudySpec


@dataclass(frozen=True)
class Values:
    """Finds the values of a trial among its figures, and by how much it breaks a constraint.

    Attributes
    ----------
    names
        Of the figures that are its values, the first of which is the score.
    constraints
        What figures must be, by their names.
    """

    names: tuple[str, ...] = (SCORE,)
    constraints: Mapping[str, BoundSpec] = field(default_factory=dict)

    @classmethod
    def of_spec(cls, spec: StudySpec) -> Self:
        """Return what a study file says of them, whose objective has parts."""
        objective = spec.objective
        assert not isinstance(objective, FunctionSpec | ProgramSpec)
        return cls(tuple(objective.directions) or (SCORE,), objective.constraints)

    def check(self, known: Collection[str]) -> None:
        """Refuse names that are none of these figures.

        Raises
        ------
        ObjectiveError
            Naming the first of them.
        """
        for key, names in (("directions", self.names), ("constraints", self.constraints)):
            for name in names:
                if name not in known:
                    raise _unknown(name, key, known)

    def judge(self, figures: Mapping[str, Any]) -> Judged:
        """Return the values of a trial that keeps these figures, and what constraints it breaks.

        Raises
        ------
        ObjectiveError
            If one of them is not there, or is undefined.
        """
        return Judged(
            [_find(figures, name, "directions") for name in self.names],
            {
                name: must.violation(_find(figures, name, "constraints"))
                for name, must in self.constraints.items()
            },
        )


BY_SCORE = Values()


def _find(figures: Mapping[str, Any], name: str, key: str) -> float:
    if name not in figures:
        raise _unknown(name, key, figures)
    value = float(figures[name])
    if not math.isfinite(value):
        raise ObjectiveError(f"[objective] {key}: '{name}' must be finite, is {value}")
    return value


def _unknown(name: str, key: str, known: Collection[str]) -> ObjectiveError:
    return ObjectiveError(
        f"[objective] {key}: '{name}' is none of the figures that a trial keeps; "
        f"{suggest(name, known)}"
    )
