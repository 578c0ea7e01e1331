"""Whether a quicker way of fitting is for a model or its rows, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Suitability(Enum):
    """Whether a way is for what is asked about.

    `OTHER_KIND`: it was never meant for models of this kind, which is nothing to speak of.
    `DECLINED`: it is meant for them, and something is in the way; the log says what.
    """

    SUITABLE = "suitable"
    DECLINED = "declined"
    OTHER_KIND = "other kind"


@dataclass(frozen=True)
class Verdict:
    """A suitability, and what is in the way: a text where it is `DECLINED`, else empty."""

    suitability: Suitability
    reason: str = ""

    @property
    def suits(self) -> bool:
        """Whether the way may be taken."""
        return self.suitability is Suitability.SUITABLE


SUITABLE = Verdict(Suitability.SUITABLE)
OTHER_KIND = Verdict(Suitability.OTHER_KIND)


def declined(reason: str) -> Verdict:
    """Return the verdict that something is in the way."""
    return Verdict(Suitability.DECLINED, reason)
