"""Classes of materials as they stand in tables: texts, or numbers that are names."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from features.errors import DatasetError
from features.intake.numbers import is_missing, parse_number
from features.records import CONTROL

# A column of which nearly every row has a label of its own names rows, or measures them.
MAX_CLASSES, MAX_SHARE = 20, 0.5


class Labels:
    """Reads a target of classes; `finish` gives them the order that scikit-learn gives them.

    Numbers are one label however they are written: 1 and 1.0.

    Parameters
    ----------
    what
        The file and the column, for errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._places: dict[str, int] = {}

    def read(self, text: str) -> tuple[float, bool]:
        """Return a number that stands for a label until `finish`; labels are no thresholds.

        Raises
        ------
        ValueError
            With the reason why there is no label.
        """
        label = text.strip()
        if is_missing(label):
            raise ValueError(f"target {text!r}: it is missing")
        if CONTROL.search(label):
            raise ValueError(f"target {text!r} has control characters")
        number = _number(label)
        label = label if number is None else f"{number:g}"
        return float(self._places.setdefault(label, len(self._places))), False

    def finish(self, y: NDArray[np.float64]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return the labels of the rows that are used, and each row's position among them.

        Texts are in the order of their characters, numbers ascending.

        Raises
        ------
        DatasetError
            There is one class alone, or nearly as many as rows, or two differ in case alone.
        """
        found = [label for label, place in self._places.items() if (y == place).any()]
        if len(found) < 2:
            raise DatasetError(f"{self._what}: classes must be two or more, there is {found[0]!r}")
        if len(found) > max(MAX_CLASSES, MAX_SHARE * len(y)):
            raise DatasetError(
                f"{self._what}: {len(found)} labels in {len(y)} rows are no classes; leave task = "
                '"classification" out for numbers'
            )
        folded = Counter(label.casefold() for label in found)
        alike = sorted(label for label in found if folded[label.casefold()] > 1)
        if alike:
            raise DatasetError(
                f"{self._what}: labels {alike[0]!r} and {alike[1]!r} differ in case alone; write "
                "them alike"
            )
        numbers = [_number(label) for label in found]
        if None in numbers:
            classes = sorted(found)
        else:
            classes = [label for _, label in sorted(zip(numbers, found, strict=True))]
        position = np.zeros(len(self._places))
        for at, label in enumerate(classes):
            position[self._places[label]] = at
        return tuple(classes), position[y.astype(int)]


def _number(label: str) -> float | None:
    try:
        return parse_number(label, "label")
    except ValueError:
        return None
