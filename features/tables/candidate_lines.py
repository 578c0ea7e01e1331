"""The lines of a file of candidates, all of them or some of them at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every line of a file of unmeasured materials, and the features of those that have some.

    Attributes
    ----------
    columns, formula_column : tuple of str, str
        The header of the file, and the column that the formulas were read from; "" for none.
    lines, fields, formulas : tuples of length n_lines
        Where each record begins (the header is line 1), its fields (none for a line that is no
        record), and its formula as it is written.
    reasons : tuple of str, of length n_lines
        Why a line has no features; "" for one that has.
    usable : array of shape (n_usable,)
        Positions of the lines that have features.
    X : array of shape (n_usable, n_features)
        The columns of the table's families, in its order.
    fractions : array of shape (n_usable, 103)
        Atomic fractions of H to Lr; NaN for a formula with an element beyond.
    lacking : dict of family to array of shape (n_usable,)
        True where a family could not be computed in full, nor be borrowed from training rows.
    remarks : dict
        `(row of X, family)` to what the family says of that row.
    unknown : dict
        Row of X to the categories of its own columns that no training row has.
    neutral : array of shape (n_usable,)
        1 where charges can add up to zero by SMACT's oxidation states, 0 where they cannot, -1
        where that is not known: there is no formula, or an element without such states.
    """

    columns: tuple[str, ...]
    formula_column: str
    lines: tuple[int, ...]
    fields: tuple[tuple[str, ...], ...]
    formulas: tuple[str, ...]
    reasons: tuple[str, ...]
    usable: NDArray[np.int64]
    X: NDArray[np.float64]
    fractions: NDArray[np.float64]
    lacking: Mapping[str, NDArray[np.bool_]]
    remarks: Mapping[tuple[int, str], str]
    unknown: Mapping[int, str]
    neutral: NDArray[np.int8]
