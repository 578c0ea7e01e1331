"""Whether common oxidation states, one for each element, add up to a charge.

Stricter than `charge_neutrality`, which tells whether a composition can be neutral at all: here one
of two readings of a formula has to be likelier than the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

# Beside or instead of what pymatgen calls common: carbides and carbonates, but no hydrides.
_STATES = {"H": (1,), "C": (-4, 4), "Cu": (1, 2), "V": (4, 5), "U": (4, 6)}
_MOST_SUMS = 20_000
_EXACT = 6  # decimals of a charge


def can_have_charge(amounts: Mapping[str, float], charge: float = 0.0) -> bool:
    """Return whether each element can be given one of its common states so that they add up.

    A pure element is neutral. False where there are too many combinations to go through.
    """
    if len(amounts) == 1 and not charge:
        return True
    sums = {0.0}
    for symbol, amount in amounts.items():
        sums = {
            round(total + state * amount, _EXACT)
            for total in sums
            for state in _common_states(symbol)
        }
        if len(sums) > _MOST_SUMS:
            return False
    return any(abs(total - charge) < 10 * 10.0**-_EXACT for total in sums)


@cache
def _common_states(symbol: str) -> tuple[int, ...]:
    from pymatgen.core.periodic_table import Element

    return _STATES.get(symbol) or tuple(Element(symbol).common_oxidation_states)
