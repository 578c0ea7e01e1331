"""Elements and binary compounds of simple structure: lattice parameters and measured gaps.

`binary_crystals.csv` has them at room temperature, rounded from the usual compilations: Sze & Ng,
Physics of Semiconductor Devices, 3rd ed. (2007), app. F; Madelung, Semiconductors: Data Handbook,
3rd ed. (2004); Strehlow & Cook, J. Phys. Chem. Ref. Data 2, 163 (1973); Wyckoff, Crystal
Structures 1 (1963). They differ by about 0.1 eV for semiconductors and up to 0.5 eV for ionic
crystals. Take them for a demonstration: they were not compared with these books entry by entry. A
gap of 0 stands for a crystal without one (grey tin, HgSe, HgTe).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from features.chemistry.formulas import parse_formula
from features.datasets.cif_files import CifSet
from features.datasets.sources import SourceFile, read_source
from features.errors import DatasetError
from features.intake.csv_parsing import parse_csv
from features.intake.numbers import parse_number

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FILE_NAME = "binary_crystals.csv"

# Of the anion along c in wurtzite; 3/8 where the tetrahedra are regular.
WURTZITE_U = 0.375

_FCC = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))


def read_crystals() -> tuple[SourceFile, CifSet]:
    """Return the table of crystals as it is shipped, and each one's structure as a CIF."""
    table = read_source(Path(__file__).with_name(FILE_NAME), "band_gap")
    csv = parse_csv(table.name, table.data)
    cifs = {}
    for record in csv.records:
        fields = dict(zip(csv.columns, record.fields, strict=True))
        a = parse_number(fields["a_angstrom"], "a")
        c = parse_number(fields["c_angstrom"], "c") if fields["c_angstrom"] else a
        made = build_crystal(fields["formula"], fields["structure"], a, c)
        cifs[fields["formula"]] = made.to(fmt="cif").encode()
    return table, CifSet(FILE_NAME, cifs, ())


def build_crystal(formula: str, structure: str, a: float, c: float) -> Structure:
    """Return a primitive cell.

    Parameters
    ----------
    formula
        An element for diamond, else two; in fluorite the one with a single atom is on the fcc
        sites.
    structure
        A name in `STRUCTURES`.
    a, c
        Lattice parameters in angstrom; `c` counts for wurtzite alone.

    Raises
    ------
    DatasetError
        If the structure is unknown, or is none of this formula's.
    """
    if structure not in STRUCTURES:
        raise DatasetError(
            f"{formula}: unknown structure {structure!r}; there are: {', '.join(STRUCTURES)}"
        )
    amounts = parse_formula(formula)
    symbols = sorted(amounts, key=lambda symbol: amounts[symbol])
    n_elements, build = STRUCTURES[structure]
    if len(symbols) != n_elements:
        raise DatasetError(
            f"{formula}: {structure} has {n_elements} elements, the formula {len(symbols)}"
        )
    return build(symbols, a, c)


def _face_centred(*places: tuple[int, float]) -> Callable[[list[str], float, float], Structure]:
    """Return a builder of cells with atoms along the body diagonal, by element and place."""

    def build(symbols: list[str], a: float, _c: float) -> Structure:
        from pymatgen.core.structure import Structure

        matrix = [[a * part for part in vector] for vector in _FCC]
        return Structure(
            matrix, [symbols[element] for element, _ in places], [[at] * 3 for _, at in places]
        )

    return build


def _caesium_chloride(symbols: list[str], a: float, _c: float) -> Structure:
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    return Structure(Lattice.cubic(a), symbols, [[0.0] * 3, [0.5] * 3])


def _wurtzite(symbols: list[str], a: float, c: float) -> Structure:
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    first, second = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
    places = [(*first, 0.0), (*second, 0.5), (*first, WURTZITE_U), (*second, WURTZITE_U + 0.5)]
    species = [symbols[0]] * 2 + [symbols[1]] * 2
    return Structure(Lattice.hexagonal(a, c), species, places)


# By name: how many elements it has, and what builds it.
STRUCTURES: Mapping[str, tuple[int, Callable[[list[str], float, float], Structure]]] = (
    MappingProxyType(
        {
            "diamond": (1, _face_centred((0, 0.0), (0, 0.25))),
            "zincblende": (2, _face_centred((0, 0.0), (1, 0.25))),
            "rocksalt": (2, _face_centred((0, 0.0), (1, 0.5))),
            "fluorite": (2, _face_centred((0, 0.0), (1, 0.25), (1, 0.75))),
            "caesium chloride": (2, _caesium_chloride),
            "wurtzite": (2, _wurtzite),
        }
    )
)
