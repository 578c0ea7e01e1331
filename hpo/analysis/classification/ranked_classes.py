"""Candidates by their probability of one class, with the set of classes that each may be of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.classification.prediction_sets import PredictionSets
from hpo.errors import SpecError, suggest

Floats = NDArray[np.float64]
BETWEEN = " | "  # labels of a set


@dataclass(frozen=True, eq=False)
class RankedClasses:
    """What is predicted of every line of a file of candidates.

    Attributes
    ----------
    labels, wanted
        The classes, and which of them lines are ranked by.
    probabilities
        Array of shape (n_lines, n_classes); NaN without a rank.
    sets
        Of every line.
    """

    labels: tuple[str, ...]
    wanted: int
    probabilities: Floats
    sets: PredictionSets

    @classmethod
    def joined(cls, pieces: Sequence[RankedClasses]) -> RankedClasses:
        """Return what is predicted of the lines of all pieces, in their order."""
        first = pieces[0]
        holds = np.concatenate([piece.sets.holds for piece in pieces])
        return cls(
            first.labels,
            first.wanted,
            np.concatenate([piece.probabilities for piece in pieces]),
            PredictionSets(holds, first.sets.coverage),
        )

    def columns(self, lines: NDArray[np.int64]) -> dict[str, Sequence[float] | Sequence[str]]:
        """Return what a ranking tells of some lines, by column.

        The entropy of the probabilities is in bits: 0 is sure, 1 is a toss of a coin.
        """
        known = np.nan_to_num(self.probabilities[lines])
        bits = -np.sum(known * np.log2(np.where(known > 0, known, 1.0)), axis=1)
        likely = [self.labels[k] for k in known.argmax(axis=1)]
        sets = [
            BETWEEN.join(label for label, held in zip(self.labels, of_line, strict=True) if held)
            for of_line in self.sets.holds[lines]
        ]
        each = {f"probability {label}": known[:, k] for k, label in enumerate(self.labels)}
        return {"class": likely, **each, "entropy_bits": bits + 0.0, "set": sets}


def find_class(label: str | None, labels: Sequence[str]) -> int:
    """Return the position of a class; the last one if none is named.

    Raises
    ------
    SpecError
        If there is no such class.
    """
    if label is None:
        return len(labels) - 1
    if label not in labels:
        raise SpecError(f"--class {label}: no class of the target; {suggest(label, labels)}")
    return labels.index(label)
