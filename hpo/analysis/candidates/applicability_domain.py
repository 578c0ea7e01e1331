"""The applicability domain of a model: how far a candidate is from the training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from features.table import ELEMENTS, atomic_fractions

FOREIGN_LEVEL = 0.95  # quantile of the training compositions' own distances

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Domain:
    """The compositions that a model was trained on, each once.

    Attributes
    ----------
    fractions : array of shape (n_compositions, n_elements)
    formulas : tuple of str
        One for each composition.
    limit : float
        The 95 % quantile of each composition's distance to the nearest other one; 0 for a single
        composition.
    """

    fractions: Floats
    formulas: tuple[str, ...]
    limit: float

    def nearest(self, fractions: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Return the distance to the nearest composition, 0 to 1, and which it is."""
        # Elements that neither has add 0 to every distance, and would take most of the time.
        there = self.fractions.any(axis=0) | fractions.any(axis=0)
        tree = KDTree(self.fractions[:, there])
        distances, found = tree.query(fractions[:, there], p=1)
        return np.minimum(distances / 2.0, 1.0), found


def domain_of(formulas: Sequence[str]) -> Domain:
    """Return the domain of training formulas; repeated measurements of a material count once.

    Rows without a formula are left out: where no row has one, the domain is empty.
    """
    formulas = [formula for formula in formulas if formula]
    fractions = atomic_fractions(formulas)
    known = np.flatnonzero(~np.isnan(fractions).any(axis=1))
    # To four decimals, as the groups of a table tell materials apart.
    _, first = np.unique(fractions[known].round(4), axis=0, return_index=True)
    distinct = fractions[known[first]]
    limit = 0.0
    if len(distinct) > 1:
        distances, _ = KDTree(distinct).query(distinct, k=2, p=1)
        limit = float(np.quantile(distances[:, 1] / 2.0, FOREIGN_LEVEL))
    return Domain(distinct, tuple(formulas[row] for row in known[first]), limit)


def look_around(fractions: Floats, domain: Domain) -> list[tuple[float, str, str]]:
    """Return distance and formula of the nearest composition, and what makes a row foreign.

    Nothing is said where there is no formula, or none was trained on.
    """
    if not len(domain.fractions):
        return [(math.nan, "", "")] * len(fractions)
    beyond = "an element beyond lawrencium, never seen in training"
    looks = [(math.nan, "", beyond)] * len(fractions)
    known = np.flatnonzero(~np.isnan(fractions).any(axis=1))
    if not len(known):
        return looks
    distances, found = domain.nearest(fractions[known])
    unseen = (fractions[known] > 0.0) & ~domain.fractions.any(axis=0)
    has_unseen: NDArray[np.bool_] = np.any(unseen, axis=1)
    for position, row in enumerate(known):
        distance, why = float(distances[position]), []
        if has_unseen[position]:
            names = ", ".join(ELEMENTS[index] for index in np.flatnonzero(unseen[position]))
            why.append(f"{names} never seen in training")
        if distance > domain.limit:
            why.append(
                f"{distance:.2f} of the atoms differ from the nearest training composition "
                f"(limit {domain.limit:.2f})"
            )
        looks[row] = distance, domain.formulas[found[position]], "; ".join(why)
    return looks
