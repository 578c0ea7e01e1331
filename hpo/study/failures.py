"""Why trials failed: reasons that differ in numbers alone are one kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

# A number that stands by itself, not the digit of a name such as x0.
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d_.]*(?:[eE][-+]?\d+)?(?!\w)")


class FailureKind(NamedTuple):
    """Failed trials whose reasons are alike.

    Attributes
    ----------
    reason
        That of the first of them.
    numbers
        Their numbers, ascending.
    """

    reason: str
    numbers: tuple[int, ...]


def group_failures(failures: Iterable[tuple[int, str]]) -> list[FailureKind]:
    """Return the kinds of reasons, the most frequent one first.

    Parameters
    ----------
    failures
        Number and reason of failed trials, in any order.
    """
    alike: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, reason in sorted(failures):
        alike[_NUMBER.sub("0", reason)].append((number, reason))
    kinds = [FailureKind(found[0][1], tuple(n for n, _ in found)) for found in alike.values()]
    return sorted(kinds, key=lambda kind: (-len(kind.numbers), kind.numbers[0]))
