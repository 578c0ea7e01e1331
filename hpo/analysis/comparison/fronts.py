"""Pareto fronts of several studies, up to one reference point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.study import StudyDirection

from hpo.analysis.comparison.studies import Row
from hpo.storage.best import Front, hypervolume, worst


@dataclass(frozen=True)
class ComparedFronts:
    """Fronts of studies with the same values.

    Attributes
    ----------
    value_names
        What the values are.
    reference_point
        The worst of each value among the trials of all studies.
    hypervolumes
        By study, up to that point.
    sizes
        How many trials each front has.
    """

    value_names: tuple[str, ...]
    reference_point: tuple[float, ...]
    hypervolumes: dict[str, float]
    sizes: dict[str, int]


def compare_fronts(rows: Sequence[Row]) -> list[ComparedFronts]:
    """Return the fronts of studies with several objectives, those of the same ones together."""
    alike: dict[tuple[tuple[str, ...], ...], dict[str, Front]] = defaultdict(dict)
    for row in rows:
        if row.front is not None:
            alike[row.front.value_names, row.directions][row.name] = row.front
    found = []
    for (names, directions), fronts in alike.items():
        signs = [StudyDirection[direction.upper()] for direction in directions]
        reference = worst(np.array([front.reference_point for front in fronts.values()]), signs)
        volumes = {
            study: hypervolume(front.values, reference, signs) for study, front in fronts.items()
        }
        sizes = {study: len(front.numbers) for study, front in fronts.items()}
        found.append(ComparedFronts(names, tuple(reference.tolist()), volumes, sizes))
    return found
