"""A function of the user's own that is given a trial, as `Study.optimize` of Optuna calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from hpo.errors import ObjectiveError
from hpo.plugins import resolve
from hpo.spec.objectives import Direction, FunctionSpec


class FunctionObjective:
    """An objective that evaluates a trial as a whole.

    Attributes
    ----------
    name
        Of the function, for errors.
    directions
        Which values are better, one for each that is returned.
    value_names
        What each value is, for figures.
    code_files
        Files of a program, which its values depend on.
    parts
        None: a trial of it has no parts.
    splits_hash
        "": nothing is divided.
    """

    parts: Sequence[str] = ()
    splits_hash = ""

    def __init__(
        self,
        function: Callable[[Trial], Any],
        name: str = "objective",
        directions: Sequence[Direction] = ("minimize",),
        value_names: Sequence[str] = (),
        code_files: Sequence[Path] = (),
    ) -> None:
        self._function, self.name = function, name
        self.directions, self.code_files = tuple(directions), tuple(code_files)
        numbered = [f"objective value {k}" for k in range(len(self.directions))]
        self.value_names = tuple(value_names) or (
            tuple(numbered) if len(numbered) > 1 else ("objective value",)
        )

    @property
    def direction(self) -> Direction:
        """Which values are better, of the first objective."""
        return self.directions[0]

    @property
    def score_name(self) -> str:
        """What the first value is."""
        return self.value_names[0]

    def evaluate(self, trial: Trial) -> Any:
        """Return the value of a trial, or one for each direction; whatever it raises comes out."""
        return self._function(trial)


def function_objective(spec: FunctionSpec) -> FunctionObjective:
    """Import the function that a study names.

    Raises
    ------
    SpecError
        If there is no such function.
    ObjectiveError
        If it is none.
    """
    found = resolve(spec.function, "[objective] function")
    if not callable(found):
        raise ObjectiveError(
            f"[objective] function {spec.function}: must be a function of a trial, is {found!r}"
        )
    return FunctionObjective(
        found, spec.function.rpartition(":")[2], spec.all_directions, spec.value_names
    )
