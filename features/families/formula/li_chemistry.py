"""Plain numbers on a lithium compound, from its formula alone."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ELEMENTS
from features.chemistry.formulas import SYMBOLS
from features.chemistry.oxidation_states import average_states
from features.families.formula.composition import unknown_elements
from features.families.formula.element_statistics import Array, element_table
from features.rows import Block, Log, Rows

ANION_COLUMNS = ("O", "S", "Se", "F", "Cl", "Br", "I", "N")
N_COLUMNS = 9 + len(ANION_COLUMNS)

# An average oxidation state nearer to 0 than this, in e, is 0.
ZERO_CHARGE = 1e-6

_LI = ELEMENTS.index("Li")


def li_chemistry(rows: Rows, _log: Log) -> Block:
    """Compute 17 columns on anions, framework cations and how Li compares with them.

    Each element has one average oxidation state in a formula
    (`features.chemistry.oxidation_states.average_states`). Elements with a negative one
    are the anions, so sulfur is one in Li2S and none in Li2SO4; all others but Li are the framework
    cations. A ratio to none of them, or a mean over none of them, is 0: the numbers of anions and
    of framework cations tell. Means and fractions are over atoms.

    - `li_per_anion`, `li_per_framework_cation`: atoms of Li per atom of the others.
    - `anion_fraction_O` and on for S, Se, F, Cl, Br, I, N: the share of the anions that it is.
    - `electronegativity_contrast`: Pauling's, mean of the anions minus mean of the framework
      cations, from Magpie's table.
    - `framework_cation_radius`: mean of the ionic radii that pymatgen tabulates for an element,
      averaged over its cations, in angstrom; 0 for the bare proton.
    - `framework_cation_charge`: mean oxidation state, in e.
    - `n_anion_elements`, `n_framework_elements`: how many different ones there are.
    - `framework_entropy`, `anion_entropy`: -sum of x ln x over the framework cations and over
      the anions, x being the fraction of them, which is the ideal entropy of mixing per atom over
      the Boltzmann constant.

    A formula with an element beyond lawrencium is NaN.
    """
    unknown, remarks = unknown_elements(rows, ELEMENTS, "the elements H to Lr")
    values = np.empty((len(rows), N_COLUMNS))
    atoms = rows.amounts
    for picked, parts in atoms.by_count():
        elements = atoms.elements[parts].astype(np.int64)
        fractions = atoms.amounts[parts] / atoms.totals[picked][:, None]
        charges, _ = average_states(elements, fractions)
        values[picked] = _describe(elements, fractions, charges)
    values[unknown] = np.nan
    return Block(values, remarks)


def _describe(elements: NDArray[np.int64], fractions: Array, charges: Array) -> Array:
    """Return the columns; the arrays are of shape (n_rows, n_elements)."""
    is_anion, is_li = charges < -ZERO_CHARGE, elements == _LI
    anions = np.where(is_anion, fractions, 0.0)
    framework = np.where(is_anion | is_li, 0.0, fractions)
    n_anions, n_framework = anions.sum(axis=1), framework.sum(axis=1)
    li = np.where(is_li, fractions, 0.0).sum(axis=1)
    electronegativity = element_table(("Electronegativity",))[0][elements, 0]

    def share(symbol: str) -> Array:
        of_element = np.where(elements == ELEMENTS.index(symbol), anions, 0.0)
        return _ratio(of_element.sum(axis=1), n_anions)

    contrast = _mean(anions, electronegativity) - _mean(framework, electronegativity)
    return np.column_stack(
        [
            _ratio(li, n_anions),
            _ratio(li, n_framework),
            *(share(symbol) for symbol in ANION_COLUMNS),
            np.where((n_anions > 0.0) & (n_framework > 0.0), contrast, 0.0),
            _mean(framework, _radii()[elements]),
            _mean(framework, charges),
            np.count_nonzero(anions, axis=1),
            np.count_nonzero(framework, axis=1),
            _entropy(framework),
            _entropy(anions),
        ]
    )


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)


def _mean(weights: Array, values: Array) -> Array:
    return _ratio((weights * values).sum(axis=1), weights.sum(axis=1))


def _entropy(amounts: Array) -> Array:
    shares = amounts / np.maximum(amounts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0.0)
    entropy: Array = -(shares * logarithms).sum(axis=1)
    return entropy


@cache
def _radii() -> Array:
    """Return the mean cationic radius of each element in angstrom, 0 where there is none."""
    from pymatgen.core.periodic_table import Element

    return np.array([float(Element(symbol).average_cationic_radius) for symbol in SYMBOLS])
