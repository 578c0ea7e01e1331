"""Crystal structures read from CIF texts, and their symmetry orbits."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


def decode_cif(cif: bytes) -> str:
    """Return the text of a CIF, whatever wrote it."""
    try:
        return cif.decode("utf-8-sig")
    except UnicodeDecodeError:
        return cif.decode("latin-1")


SYMMETRY_TOLERANCE_ANGSTROM = 0.01  # spglib's `symprec`

# What the parser says of a good file: 0.3333 is taken for 1/3, and no formula is there to compare.
_HARMLESS = ("rounded to ideal values", "Skipping relative stoichiometry check")

MIN_VOLUME_ANGSTROM3 = 1.0  # no atom has room in less


def parse_cif(cif: bytes) -> tuple[Structure, list[str]]:
    """Return the first structure of a CIF and what the parser had to mend on the way."""
    from pymatgen.core.periodic_table import DummySpecies
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parser: Any = CifParser.from_str(decode_cif(cif))
        try:
            structures = parser.parse_structures(primitive=False, on_error="ignore")
        except ValueError as exc:
            raise ValueError("; ".join([*parser.warnings, str(exc)])) from exc
    said = [str(item.message) for item in caught if item.category is UserWarning]
    matrix = structures[0].lattice.matrix
    # spglib crashes the process on a cell that is not one. NaN fails the comparison, too.
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) >= MIN_VOLUME_ANGSTROM3):
        raise ValueError("lengths and angles of its cell enclose no volume")
    unknown = [str(e) for e in structures[0].elements if isinstance(e, DummySpecies)]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no element")
    mended = [
        _one_line(line)
        for line in dict.fromkeys([*parser.warnings, *said])
        if not any(harmless in line for harmless in _HARMLESS)
    ]
    if len(structures) > 1:
        mended.append(f"{len(structures)} structures in one CIF: the first is taken")
    return structures[0], mended


def orbits_of(structure: Structure, tolerance_angstrom: float) -> NDArray[np.int64]:
    """Return for each site the first one that symmetry makes equivalent to it."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with warnings.catch_warnings():
        # spglib announces how it will report errors one day; there is nothing to do about it here.
        warnings.simplefilter("ignore", DeprecationWarning)
        analyzer = SpacegroupAnalyzer(structure, symprec=tolerance_angstrom)
        return np.asarray(analyzer.get_symmetry_dataset().equivalent_atoms, dtype=np.int64)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:200]
