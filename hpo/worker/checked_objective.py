"""An objective as a worker calls it: what it hands over is checked before anything is stored."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import create_trial

from hpo.errors import ObjectiveError
from hpo.objectives.protocol import Objective, Params, Scores
from hpo.objectives.scores import (
    check_direction,
    check_name,
    check_part,
    check_parts,
    check_total,
    refusing,
    shown,
)
from hpo.objectives.values import BY_SCORE, Values
from hpo.records import WALL_KEY, Judged, ResolvedTrial
from hpo.spec.objectives import Direction


class CheckedObjective:
    """An objective that returns what can be stored, or raises ObjectiveError, whatever it does.

    It is given copies and sees of its parts what it returned, so that neither it nor the engine
    changes what the other one keeps.

    Parameters
    ----------
    objective
        What is checked.
    drawn
        Names of the parameters that are drawn, which it may not settle.
    values
        Which of its figures are values, and held to constraints.

    Raises
    ------
    ObjectiveError
        If its parts or its direction are not valid.
    """

    def __init__(
        self, objective: Objective, drawn: Collection[str], values: Values = BY_SCORE
    ) -> None:
        self._objective, self._drawn, self._values = objective, frozenset(drawn), values
        with refusing("[objective]"):
            # Read once: they may be computed, and not be the same the next time.
            self.parts: Sequence[str] = check_parts(objective.parts)
            self.direction: Direction = check_direction(objective.direction)

    def score_part(self, params: Params, part: int) -> dict[str, float | str]:
        """Score one part."""
        with refusing(self.parts[part]):
            return check_part(self._objective.score_part(dict(params), part))

    def combine(self, parts: Sequence[Scores]) -> dict[str, float]:
        """Combine the scores of all parts."""
        with refusing("combine"):
            return check_total(self._objective.combine(_theirs(parts)))

    def judge(self, scores: Scores) -> Judged:
        """Return the values of a trial that keeps these scores, and what constraints it breaks."""
        return self._values.judge(scores)

    def settle(self, parts: Sequence[Scores], *, pruned: bool) -> ResolvedTrial | None:
        """Return what becomes of the parts of a trial at its end; None if nothing does."""
        with refusing("settle"):
            settle = getattr(self._objective, "settle", None)
            settled = None if settle is None else settle(_theirs(parts), pruned=pruned)
            return None if settled is None else self._check_settled(settled, parts)

    def _check_settled(self, settled: Any, parts: Sequence[Scores]) -> ResolvedTrial:
        if not isinstance(settled, ResolvedTrial):
            raise ObjectiveError(f"must return a ResolvedTrial or None, returned {shown(settled)}")
        kept = [check_part(part) for part in itertools.islice(iter(settled.parts), len(parts) + 1)]
        if len(kept) != len(parts):
            raise ObjectiveError(f"must return as many parts as there are: {len(parts)}")
        params = {check_name(name): value for name, value in dict(settled.params).items()}
        spaces = {check_name(name): space for name, space in dict(settled.distributions).items()}
        drawn = self._drawn & params.keys()
        if drawn:
            raise ObjectiveError(f"parameter {shown(min(drawn))} is drawn and cannot be settled")
        # Optuna refuses what is out of its distribution, and parameters that have none.
        create_trial(value=0.0, params=params, distributions=spaces)
        for space in spaces.values():
            distribution_to_json(space)
        timed = zip(kept, parts, strict=True)
        return ResolvedTrial(params, spaces, [{**k, WALL_KEY: part[WALL_KEY]} for k, part in timed])


def _theirs(parts: Sequence[Scores]) -> list[Mapping[str, Any]]:
    """Return copies of scores as the objective returned them."""
    return [{name: value for name, value in part.items() if name != WALL_KEY} for part in parts]
