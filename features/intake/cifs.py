"""Crystal structures of foreign CIFs: read as the CIF dictionary has it, or refused with a reason.

Core dictionary: Hall and McMahon (eds.), International Tables for Crystallography, vol. G. What
had to be mended or assumed on the way is told; where a value has no reading, or two, there is no
structure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import SLACK_TOLERANCE, Crystal, crystal_of
from features.chemistry.elements import ELEMENTS, ISOTOPES
from features.intake.cif_syntax import INAPPLICABLE, NULLS, UNKNOWN, Block, number, read_blocks
from features.intake.symmetry import Symmetry, read_symmetry

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

Array = NDArray[np.float64]

# What a description of a structure may take memory and time for, a few seconds and 1 GB at most.
MAX_SITES = 2_000
MAX_VOLUME_ANGSTROM3 = 100_000.0
MIN_VOLUME_ANGSTROM3 = 1.0  # no atom has room in less
MAX_SITES_PER_ANGSTROM3 = 1.0  # ten times what crystals have; more are too many neighbours
MIN_THICKNESS_ANGSTROM = 0.3  # of a cell, in each direction: else it has too many neighbours

LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
COORDINATES = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
CARTESIAN = "_atom_site_cartn_x"
RIGHT_ANGLE_DEG = 90.0  # what the dictionary says of an angle that does not apply

SAME_PLACE = 1e-4  # of fractional coordinates; sites that are no farther apart share one place
# A coordinate stands for the special position that is this many of its last digits away: a half
# and a little; a whole one where 2/3 was cut off to 0.666.
ROUNDED, CUT_OFF = 0.55, 1.05
SIXTHS = 6
TOLD = 1e-6  # a site that is moved by less is not worth a remark
# Occupancies are known to the percent at best: a place that is filled by more than one atom by no
# more than this is full.
OVERFULL = 0.011
# pymatgen takes what is less for nothing.
SMALLEST_OCCUPANCY = 1e-8

N_SHOWN = 3

_ELEMENTS = frozenset((*ELEMENTS, *ISOTOPES))
_TYPE = re.compile(r"([A-Z][a-z]?)(?![a-z])(\d*[+-]?|[+-]\d+)(?:\(?[IV]+\)?)?")
_VACANCY = re.compile(r"(?i)(va|vac|vacancy|vc|□)\d*")
_WATER = {"Ow": "O", "Hw": "H"}
# Two capitals that are a group as well as an element written in capitals.
_GROUPS = frozenset({"CO", "NO", "HO", "NH", "CN", "CF", "PO", "ND", "OH", "OD"})


@dataclass(frozen=True, eq=False)
class ReadCif:
    """What a CIF says.

    Attributes
    ----------
    structure : Structure
        The cell with all its atoms; elements alone, without charges.
    block : Block
        What it was read from.
    symmetry : Symmetry
    multiplicities : tuple of (int, str, int)
        Of each site its row in the list of atoms, its label, and the number of places in the cell
        that symmetry makes of it.
    remarks : list of str
        What had to be mended or assumed.
    """

    structure: Structure
    block: Block
    symmetry: Symmetry
    multiplicities: tuple[tuple[int, str, int], ...]
    remarks: list[str]


@dataclass
class _Site:
    """One row of the list of atoms."""

    row: int
    label: str
    symbol: str
    occupancy: float
    place: Array
    slack: Array  # how far each coordinate may be from what it stands for
    orbit: Array = field(default_factory=lambda: np.zeros((0, 3)))


def read_cif(cif: bytes) -> ReadCif:
    """Return the first structure of a CIF.

    Raises
    ------
    ValueError
        There is none that can be read; the message is the reason.
    """
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    block, remarks = _structure_block(read_blocks(cif))
    remarks += block.remarks
    lattice = Lattice.from_parameters(*read_cell(block))
    matrix = np.array(lattice.matrix)
    symmetry = read_symmetry(block, matrix)
    remarks += symmetry.remarks
    sites = _read_sites(block, remarks)
    if len(sites) * len(symmetry.rotations) > 100 * MAX_SITES:
        raise ValueError(_too_many(len(sites)))
    for site in sites:
        site.orbit = _orbit(site, symmetry)
    n_moved = sum(
        not np.allclose(site.orbit[0], site.place % 1.0, rtol=0.0, atol=TOLD) for site in sites
    )
    if n_moved:
        remarks.append(
            f"{n_moved} of {len(sites)} sites are put on the special positions that their "
            "coordinates are rounded from"
        )
    n_places = sum(len(site.orbit) for site in sites)
    if n_places > MAX_SITES:
        raise ValueError(_too_many(n_places))
    if n_places > 1 and n_places > MAX_SITES_PER_ANGSTROM3 * lattice.volume:
        raise ValueError(f"{n_places} places are in a cell of {lattice.volume:.3g} A^3")
    species, places = _occupied(sites, remarks)
    structure = Structure(lattice, species, places).get_sorted_structure()
    remarks += _compare_with_formula(block, structure)
    multiplicities = tuple((site.row, site.label, len(site.orbit)) for site in sites)
    return ReadCif(structure, block, symmetry, multiplicities, list(dict.fromkeys(remarks)))


def read_structure(cif: bytes) -> tuple[Structure, list[str]]:
    """Return the first structure of a CIF and what had to be mended or assumed on the way.

    Raises
    ------
    ValueError
        There is none that can be read; the message is the reason.
    """
    try:
        read = read_cif(cif)
    except Exception as exc:  # chemistry's libraries raise just about anything
        raise ValueError(unreadable(exc)) from exc
    return read.structure, read.remarks


def unreadable(exc: Exception) -> str:
    """Return the reason for a CIF that cannot be read."""
    if isinstance(exc, MemoryError):
        return "CIF cannot be parsed (it takes more memory than there is)"
    said = " ".join(str(exc).split())[:200]
    kind = "" if isinstance(exc, ValueError) else f"{type(exc).__name__}: "
    return f"CIF cannot be parsed ({kind}{said})"


def read_crystal(cif: bytes) -> tuple[Crystal, list[str]]:
    """Return the crystal in a CIF, and what was mended or does not add up.

    Raises
    ------
    ValueError
        The CIF cannot be parsed, or holds no Li; the message is the reason for the table.
    """
    structure, reasons = read_structure(cif)
    crystal = crystal_of(structure)
    if not crystal.li_occupancy.any():
        raise ValueError("; ".join([*reasons, "no Li in the CIF"]))
    if abs(crystal.states.slack) > SLACK_TOLERANCE:
        reasons.append(
            f"no oxidation states make it neutral: {crystal.states.slack:+.3f} e per atom remain"
        )
    return crystal, reasons


def read_first_cell(cif: bytes) -> tuple[float, float, float, float, float, float]:
    """Return lengths in angstrom and angles in degrees of the first cell in a CIF.

    Raises
    ------
    ValueError
        As `read_cell`, or the text is no CIF.
    """
    blocks = read_blocks(cif)
    block = next((block for block in blocks if _has(block, LENGTHS[0])), blocks[0])
    return read_cell(block)


def read_cell(block: Block) -> tuple[float, float, float, float, float, float]:
    """Return lengths in angstrom and angles in degrees of a block's cell.

    Raises
    ------
    ValueError
        One is not given, or they enclose no volume, or more than is looked at.
    """
    from features.chemistry.cell_geometry import cell_volume

    values = []
    for name in (*LENGTHS, *ANGLES):
        column = block.column(name)
        if column is None:
            raise ValueError(f"it has no {name}")
        if column[0] == INAPPLICABLE and name in ANGLES:
            values.append(RIGHT_ANGLE_DEG)
            continue
        value = number(column[0], name).value
        if not (0.0 < value < 180.0 if name in ANGLES else value > 0.0):
            raise ValueError(f"{name} is {value:g}")
        values.append(value)
    a, b, c, alpha, beta, gamma = values
    volume = cell_volume(a, b, c, alpha, beta, gamma)
    if not volume >= MIN_VOLUME_ANGSTROM3:  # NaN is refused, too
        raise ValueError("lengths and angles of its cell enclose no volume")
    if volume > MAX_VOLUME_ANGSTROM3:
        raise ValueError(
            f"its cell of {a:g} x {b:g} x {c:g} A has {volume:.3g} A^3, more than the "
            f"{MAX_VOLUME_ANGSTROM3:g} that are looked at; are its lengths in angstrom?"
        )
    sines = (math.sin(math.radians(angle)) for angle in (alpha, beta, gamma))
    areas = (face * sine for face, sine in zip((b * c, a * c, a * b), sines, strict=True))
    thickness = volume / max(areas)
    if thickness < MIN_THICKNESS_ANGSTROM:
        raise ValueError(f"its cell is {thickness:.2g} A thin, and no atom has room in that")
    return a, b, c, alpha, beta, gamma


def _structure_block(blocks: Sequence[Block]) -> tuple[Block, list[str]]:
    """Return the first block with a structure, and what there is to say of the others."""
    holding = [block for block in blocks if _has(block, COORDINATES[0])]
    if not holding:
        if any(_has(block, CARTESIAN) for block in blocks):
            raise ValueError("its atoms have Cartesian coordinates alone, as in mmCIF")
        raise ValueError(f"it has no {COORDINATES[0]}")
    if len(holding) > 1:
        return holding[0], [f"{len(holding)} structures in one CIF: the first is taken"]
    return holding[0], []


def _has(block: Block, name: str) -> bool:
    return name in block.broken or bool(block.values.get(name))


def _read_sites(block: Block, remarks: list[str]) -> list[_Site]:
    columns = [block.column(name) for name in COORDINATES]
    n_rows = len(columns[0] or ())

    def column(name: str) -> list[str]:
        values = block.column(f"_atom_site_{name}") or [""] * n_rows
        if len(values) != n_rows:
            raise ValueError(f"_atom_site_{name} has {len(values)} values for {n_rows} sites")
        return values

    labels, types = column("label"), column("type_symbol")
    occupancies, flags = column("occupancy"), column("calc_flag")
    coordinates = [column(name.removeprefix("_atom_site_")) for name in COORDINATES]
    if n_rows > MAX_SITES:
        raise ValueError(_too_many(n_rows))
    if any(text not in (*NULLS, "0") for text in column("attached_hydrogens")):
        remarks.append("hydrogen is attached to sites without places of its own")
    known = _formula_elements(block)
    sites, left_out = [], []
    for row, (label, kind) in enumerate(zip(labels, types, strict=True)):
        name = label if label not in NULLS else f"site {row + 1}"
        symbol = "" if flags[row].lower() == "dum" else _element(kind, label, known, remarks)
        occupancy = _occupancy(occupancies[row], name, remarks)
        if not symbol or occupancy < SMALLEST_OCCUPANCY:
            left_out.append(name)
            continue
        read = [
            number(values[row], f"{'xyz'[axis]} of {name}")
            for axis, values in enumerate(coordinates)
        ]
        place = np.array([found.value for found in read])
        slack = np.array([found.unit for found in read])
        if np.abs(place).max() > 1e6:
            raise ValueError(f"{name} is at {place.max():g} cells from the origin")
        sites.append(_Site(row, name, symbol, occupancy, place, slack))
    if left_out:
        shown = ", ".join(left_out[:N_SHOWN]) + (", ..." if len(left_out) > N_SHOWN else "")
        remarks.append(f"{len(left_out)} sites hold no atom and are left out ({shown})")
    if not sites:
        raise ValueError("it has no site with an atom")
    _set_slack(sites)
    return sites


def _set_slack(sites: Sequence[_Site]) -> None:
    """Turn the unit of each coordinate's last digit into how far it may be from its place.

    Programs leave zeros at the end out: the most digits in an axis count for all of it.
    """
    units = np.array([site.slack for site in sites])
    finest = np.where(units > 0.0, units, np.inf).min(axis=0)
    finest = np.where(np.isfinite(finest), finest, 0.0)
    for site in sites:
        sixth = np.abs(site.place - np.rint(site.place * SIXTHS) / SIXTHS)
        cut_off = (sixth > ROUNDED * finest) & (sixth <= CUT_OFF * finest)
        site.slack = np.where(cut_off, CUT_OFF, ROUNDED) * np.minimum(finest, 0.01)


def _orbit(site: _Site, symmetry: Symmetry) -> Array:
    """Return the places that symmetry makes of a site, the site itself first.

    Operations that move it by no more than the rounding of its coordinates leave it where it is:
    it is put onto the mean of what they make of it, their common special position.
    """
    rotations, translations = symmetry.rotations, symmetry.translations
    place = site.place
    for _ in range(2):
        images = rotations @ place + translations
        apart = images - place
        shift = np.rint(apart)
        reach = np.abs(rotations - np.eye(3)) @ site.slack + 1e-9
        stays = (np.abs(apart - shift) <= reach).all(axis=1)
        if stays.any():
            place = (images[stays] - shift[stays]).mean(axis=0)
    images = np.mod(np.vstack([place, rotations @ place + translations]), 1.0)
    kept = _distinct(images)
    return images[kept]


def _distinct(places: Array) -> list[int]:
    """Return the first of each of the places that are the same."""
    from scipy.spatial import cKDTree

    places = np.where(places >= 1.0, 0.0, places)
    tree = cKDTree(places, boxsize=1.0)
    repeated = {int(pair[1]) for pair in tree.query_pairs(SAME_PLACE, p=np.inf)}
    return [position for position in range(len(places)) if position not in repeated]


def _occupied(sites: Sequence[_Site], remarks: list[str]) -> tuple[list[dict[str, float]], Array]:
    """Return all places of the cell and what fills each: sites on one place share it."""
    from scipy.spatial import cKDTree

    places = np.vstack([site.orbit for site in sites])
    owner = np.repeat(np.arange(len(sites)), [len(site.orbit) for site in sites])
    tree = cKDTree(np.where(places >= 1.0, 0.0, places), boxsize=1.0)
    first = np.arange(len(places))
    for one, other in sorted(tree.query_pairs(SAME_PLACE, p=np.inf)):
        first[other] = min(first[other], first[one])
    filled: dict[int, dict[str, float]] = {}
    members: dict[int, list[str]] = {}
    for position, place in enumerate(first.tolist()):
        site = sites[owner[position]]
        amounts = filled.setdefault(place, {})
        amounts[site.symbol] = amounts.get(site.symbol, 0.0) + site.occupancy
        members.setdefault(place, []).append(site.label)
    for place, amounts in filled.items():
        total = sum(amounts.values())
        if total > 1.0 + OVERFULL:
            shown = ", ".join(dict.fromkeys(members[place][: N_SHOWN + 1]))
            raise ValueError(f"{total:.3f} atoms are on the place of {shown}")
        if total > 1.0:
            if total > 1.0 + 1e-9:
                remarks.append(f"{total:.3f} atoms on the place of {members[place][0]} count as 1")
            filled[place] = {symbol: amount / total for symbol, amount in amounts.items()}
    kept = sorted(filled)
    return [filled[place] for place in kept], places[kept]


def _occupancy(text: str, name: str, remarks: list[str]) -> float:
    """Return an occupancy; where it does not apply, or is not there, it is 1."""
    if text == UNKNOWN:
        remarks.append("occupancies that are not known ('?') count as 1")
    if text in NULLS:
        return 1.0
    found = number(text, f"occupancy of {name}")
    if found.value < 0.0:
        raise ValueError(f"the occupancy of {name} is {found.value:g}, below 0")
    if found.value > 1.0 + max(OVERFULL, found.esd):
        raise ValueError(f"the occupancy of {name} is {found.value:g}, above 1")
    if found.value > 1.0:
        remarks.append(f"the occupancy {text} of {name} counts as 1")
    return min(found.value, 1.0)


def _element(kind: str, label: str, known: frozenset[str], remarks: list[str]) -> str:
    """Return the element of a site, "" for a vacancy.

    Raises
    ------
    ValueError
        It is none, or may be two.
    """
    if kind in NULLS:
        if kind == UNKNOWN:
            remarks.append("site types that are not known ('?') are read from the labels")
        return _by_label(label, known, remarks)
    if _VACANCY.fullmatch(kind):
        return ""
    match = _TYPE.fullmatch(kind)
    if match and match[1] in _ELEMENTS:
        if match[1] == "T":
            remarks.append("site type 'T' is taken for tritium")
        return match[1]
    letters = re.fullmatch(r"([A-Za-z]{1,2})[\d+-]*", kind)
    read = letters[1].title() if letters else ""
    if read in _ELEMENTS and kind[:2].upper() not in _GROUPS:
        remarks.append(f"site type {kind!r} is taken for {read}")
        return read
    if kind in _WATER:
        remarks.append(f"site type {kind!r} is taken for {_WATER[kind]}")
        return _WATER[kind]
    raise ValueError(f"site type {kind[:20]!r} is no element")


def _by_label(label: str, known: frozenset[str], remarks: list[str]) -> str:
    """Return the element that a label such as `Li1A` begins with."""
    if label in NULLS:
        raise ValueError("a site has neither a type nor a label")
    if _VACANCY.fullmatch(label):
        return ""
    letters = re.match(r"[A-Za-z]*", label)
    word = letters[0] if letters else ""
    if word in _WATER:
        remarks.append(f"label {label!r} is taken for {_WATER[word]}")
        return _WATER[word]
    if word in _ELEMENTS and word != "T":
        return word
    # One letter or two, whatever their case, where what follows is no lower-case letter.
    readings = [
        word[:n].title()
        for n in (2, 1)
        if len(word) >= n and word[:n].title() in _ELEMENTS and not word[n : n + 1].islower()
    ]
    if word[1:2].islower():  # the label's case says that both letters are the symbol
        readings = [read for read in readings if len(read) == 2]
    likely = [read for read in readings if read in known] or readings
    if len(likely) != 1 or word.upper() in _GROUPS:
        what = f"may be {' or '.join(likely)}" if len(likely) > 1 else "begins with no element"
        raise ValueError(f"label {label[:20]!r} {what}, and its site has no type")
    if len(word) > 1 or word != likely[0]:
        remarks.append(f"label {label!r} is taken for {likely[0]}")
    return likely[0]


def _formula_elements(block: Block) -> frozenset[str]:
    formula = block.one("_chemical_formula_sum", "_chemical_formula_structural") or ""
    return frozenset(re.findall(r"[A-Z][a-z]?", formula)) & _ELEMENTS


def _compare_with_formula(block: Block, structure: Structure) -> list[str]:
    """Say which elements a CIF's own formula has and its atoms have not, or the other way round."""
    known = {ISOTOPES.get(symbol, symbol) for symbol in _formula_elements(block)}
    found = {ISOTOPES.get(element.symbol, element.symbol) for element in structure.elements}
    remarks = []
    if known and known != found:
        for symbols, what in ((known - found, "formula alone"), (found - known, "atoms alone")):
            if symbols:
                remarks.append(f"{', '.join(sorted(symbols))}: in the CIF's {what}")
    return remarks


def _too_many(n_sites: int) -> str:
    return f"its cell has {n_sites} places or more, and at most {MAX_SITES} are looked at"
