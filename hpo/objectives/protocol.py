"""The protocol of an objective: named parts, a score for each, and how they are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from hpo.spec.objectives import Direction

Params = Mapping[str, Any]

# Numbers; a part may keep a text beside them, for when the objective settles it.
Scores = Mapping[str, Any]


@runtime_checkable
class Objective(Protocol):
    """What the engine asks of an objective.

    What it may tell beside its scores (a preparation, a baseline, what its totals are called,
    predictions and figures) is said in `hpo.objectives.told`.

    One may have `scoring_modules` and `scoring_packages`, too: names of modules that its own file
    does not import, and of installed packages, that its scores depend on. A study goes on only with
    the same.

    Attributes
    ----------
    direction
        Optuna's word for which scores are better.
    score_name
        What the score is, with its unit if it has one; labels every figure.
    parts
        Names of the parts of a trial, in the order in which they are scored.
    splits_hash
        A hash of how the data were divided into parts; "" where nothing is divided.
    """

    direction: Direction
    score_name: str
    parts: Sequence[str]
    splits_hash: str

    def score_part(self, params: Params, part: int) -> Scores:
        """Score one part; the result has the key `score`, others are kept beside it.

        Values are numbers, also of numpy, or texts of a million characters together; `score` is
        finite, others that are not finite are kept as undefined (nan). Names are printable, have
        512 characters at most and are a thousand at most; `wall_s` is the engine's. What breaks
        these rules or raises anything fails the trial, with a reason (`hpo.objectives.scores`).
        A worker may be told to leave at any moment of it, by an exception.
        """

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Combine the scores of all parts, in their order; the result has the key `score`.

        Given is what `score_part` returned, numbers as floats. The rules are the same, but that
        texts are refused, and the names `worker`, `failure`, `pruned` and `part 0` and so on.
        """
