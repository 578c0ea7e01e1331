"""Formulas, and the families that need nothing but them (and the flag on the target)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from features.elements import ANIONS, ELEMENTS, ISOTOPES
from features.rows import Block, Log, Remark, Rows

# What programs write for "nothing". Case counts: Na is sodium. NaN could be a nitride, but is not.
_BLANK_FORMULAS = frozenset({"", "nan", "NaN", "None", "none", "null", "NULL", "N/A", "n/a", "NA"})


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


def parse_formula(text: str) -> dict[str, float]:
    """Return the atoms of each element in ``text``, as pymatgen reads it; D and T count as H.

    Raises
    ------
    ValueError
        With the reason why ``text`` is not a formula of known elements.
    """
    from pymatgen.core.composition import Composition
    from pymatgen.core.periodic_table import Element

    if text.strip() in _BLANK_FORMULAS:
        raise ValueError(f"formula {text!r}: it is empty; give the row a formula")
    try:
        with warnings.catch_warnings():
            # Superheavy elements have no electronegativity, but their atoms can be counted.
            warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
            composition = Composition(text)
    except (ValueError, OverflowError) as exc:
        hint = ", with waters as (H2O)5" if any(mark in text for mark in "·*•") else ""
        raise ValueError(
            f"formula {text!r}: cannot be read ({exc}); write it like Li7La3Zr2O12{hint}"
        ) from exc
    amounts: dict[str, float] = {}
    for element, amount in composition.items():
        symbol = str(getattr(element, "symbol", element))
        if not Element.is_valid_symbol(symbol):
            raise ValueError(f"formula {text!r}: {symbol!r} is no element; correct the formula")
        symbol = ISOTOPES.get(symbol, symbol)
        amounts[symbol] = amounts.get(symbol, 0.0) + float(amount)
    total = sum(amounts.values())
    if not (amounts and math.isfinite(total) and total > 0.0):
        raise ValueError(f"formula {text!r}: it has {total:g} atoms; correct the amounts")
    return amounts


def composition_key(amounts: Mapping[str, float]) -> str:
    """Return a name shared by all formulas of the same material, however they are written.

    Atomic fractions to four decimals, elements in alphabetical order: Li7GePS8 and
    Li10.5Ge1.5P1.5S12 have the same.
    """
    total = sum(amounts.values())
    return " ".join(f"{symbol}{amounts[symbol] / total:.4f}" for symbol in sorted(amounts))


def anion_class(text: str) -> str:
    """Return the chemical class of a formula by its anions, such as "oxide" or "mixed anions".

    Anions are the elements of :data:`ANIONS`; one that makes up a tenth of them or less does not
    count beside others. "no anion" if there is none, "unknown" for a text that is no formula.
    """
    try:
        amounts = parse_formula(text)
    except ValueError:
        return "unknown"
    anions = {symbol: amount for symbol, amount in amounts.items() if symbol in ANIONS and amount}
    if not anions:
        return "no anion"
    total = sum(anions.values())
    named = [symbol for symbol, amount in anions.items() if amount > MINOR_ANIONS * total]
    return _ANION_CLASSES[named[0]] if len(named) == 1 else "mixed anions"


def ratios(rows: Rows, _log: Log) -> Block:
    """Compute the Li atomic fraction, the anion atomic fraction and the number of elements."""
    values = np.zeros((len(rows), 3))
    for row, amounts in enumerate(rows.amounts):
        total = sum(amounts.values())
        anions = sum(amount for symbol, amount in amounts.items() if symbol in ANIONS)
        values[row] = amounts.get("Li", 0.0) / total, anions / total, len(amounts)
    return Block(values)


def smact_vector(rows: Rows, _log: Log) -> Block:
    """Compute the atomic fractions of H to Lr, the vector of ``smact``'s ``ml_rep_generator``.

    After Legrain et al., Chem. Mater. 2017, doi:10.1021/acs.chemmater.7b00789. A formula with an
    element beyond lawrencium has no such vector: its row is NaN.
    """
    fractions, remarks = fraction_matrix(rows, ELEMENTS, "the SMACT vector (H to Lr)")
    return Block(fractions, remarks)


def coerced_flag(rows: Rows, _log: Log) -> Block:
    """Flag the rows whose target is a threshold such as ``<1E-10``."""
    return Block(rows.is_coerced.astype(np.float64).reshape(-1, 1))


def fraction_matrix(
    rows: Rows, symbols: tuple[str, ...], covering: str
) -> tuple[NDArray[np.float64], tuple[Remark, ...]]:
    """Return the atomic fractions, of shape (n_rows, n_symbols), and remarks on the rest.

    A row with an element outside ``symbols`` is NaN and has a remark that names ``covering``.
    """
    position = {symbol: index for index, symbol in enumerate(symbols)}
    fractions = np.zeros((len(rows), len(symbols)))
    remarks = []
    for row, amounts in enumerate(rows.amounts):
        unknown = [symbol for symbol in amounts if symbol not in position]
        if unknown:
            fractions[row] = np.nan
            remarks.append(Remark(row, f"{', '.join(unknown)} is not in {covering}: all NaN"))
            continue
        total = sum(amounts.values())
        for symbol, amount in amounts.items():
            fractions[row, position[symbol]] = amount / total
    return fractions, tuple(remarks)
