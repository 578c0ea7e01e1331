"""The symmetry orbits of a crystal structure."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

SYMMETRY_TOLERANCE_ANGSTROM = 0.01  # spglib's `symprec`


def orbits_of(structure: Structure, tolerance_angstrom: float) -> NDArray[np.int64]:
    """Return for each site the first one that symmetry makes equivalent to it."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with warnings.catch_warnings():
        # spglib announces how it will report errors one day; there is nothing to do about it here.
        warnings.simplefilter("ignore", DeprecationWarning)
        analyzer = SpacegroupAnalyzer(structure, symprec=tolerance_angstrom)
        return np.asarray(analyzer.get_symmetry_dataset().equivalent_atoms, dtype=np.int64)
