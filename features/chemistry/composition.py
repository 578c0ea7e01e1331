"""Compositions by their amounts: a key that equal ones share, and the class of the anions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ANIONS
from features.chemistry.formulas import SYMBOLS

MINOR_ANIONS = 0.1  # fraction of the anions up to which one does not count

_ANION_CLASSES = {
    "N": "nitride",
    "O": "oxide",
    "F": "fluoride",
    "S": "sulfide",
    "Cl": "chloride",
    "Se": "selenide",
    "Br": "bromide",
    "Te": "telluride",
    "I": "iodide",
}


def composition_key(amounts: Mapping[str, float]) -> str:
    """Return a name shared by all formulas of the same material, however they are written.

    Atomic fractions to four decimals, elements in alphabetical order: Li7GePS8 and
    Li10.5Ge1.5P1.5S12 have the same.
    """
    total = sum(amounts.values())
    return " ".join(f"{symbol}{amounts[symbol] / total:.4f}" for symbol in sorted(amounts))


def anion_class(amounts: Mapping[str, float]) -> str:
    """Return the chemical class of a composition by its anions, such as "oxide" or "mixed anions".

    Anions are the elements of `ANIONS`; one that makes up a tenth of them or less does not
    count beside others. "no anion" if there is none.
    """
    anions = {symbol: amount for symbol, amount in amounts.items() if symbol in ANIONS and amount}
    if not anions:
        return "no anion"
    total = sum(anions.values())
    named = [symbol for symbol, amount in anions.items() if amount > MINOR_ANIONS * total]
    return _ANION_CLASSES[named[0]] if len(named) == 1 else "mixed anions"


@cache
def positions(symbols: tuple[str, ...]) -> NDArray[np.int64]:
    """Return where each of `SYMBOLS` is among `symbols`, -1 for nowhere."""
    return np.array([symbols.index(s) if s in symbols else -1 for s in SYMBOLS])
