"""Symmetry as a CIF states it: operations, a name, a number; and what they say of each other.

The 530 settings of the space groups are spglib's: Togo, Shinohara and Tanaka, Sci. Technol. Adv.
Mater. Methods 4, 2384822 (2024).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.intake.cif_syntax import NULLS, Block, number

Array = NDArray[np.float64]

OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
HALL_NAMES = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m",
    "_space_group_name_h-m_ref",
)
NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")

MAX_OPERATIONS = 8 * 192  # of Fm-3m and its like, in a cell of twice their edges
N_SETTINGS = 530

# How far a cell may be from what an operation leaves as it is: half a percent of a length, half a
# degree of an angle.
METRIC_TOLERANCE = 0.01
TRANSLATION_STEPS = 240  # translations that differ by less than one of so many parts are the same

_TERM = re.compile(r"([+-]?)(?:(\d+)/(\d+)|(\d*\.\d+|\d+\.?))?\*?([xyz]?)")
# m3m is how m-3m was written before 1983.
_OLD_CUBIC = re.compile(r"([mnda])3")
_SETTING_SUFFIX = re.compile(r"(?i)(?<=[\w/]) *[: ] *([12RHSZ])$")
_SETTINGS = {"s": "1", "z": "2", "h": "H", "r": "R", "1": "1", "2": "2"}
_MONOCLINIC = range(3, 16)
# What the glide planes that are called e since 1992 were called before, by the axis that they are
# perpendicular to; for these two groups the two letters tell two settings apart.
_GLIDES = ("bc", "ca", "ab")
_TWO_GLIDES, _FIRST_GLIDE = (67, 68), ("", "cab", "bca")


class Setting(NamedTuple):
    """One way to choose axes and origin of a space group."""

    hall_number: int
    number: int
    name: str
    choice: str


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The symmetry operations of a crystal, and what its CIF calls them.

    Attributes
    ----------
    rotations : array of shape (n_operations, 3, 3)
    translations : array of shape (n_operations, 3)
        Both for columns of fractional coordinates.
    listed : bool
        False where the operations were not in the file, but those of a space group.
    names : tuple of (str, int)
        What the file says of the group, and which group that is; 0 where it is not known.
    remarks : list of str
        What had to be assumed.
    given : bool
        False where the file says nothing of symmetry.
    """

    rotations: Array
    translations: Array
    listed: bool
    names: tuple[tuple[str, int], ...] = ()
    remarks: list[str] = field(default_factory=list)
    given: bool = True


def read_symmetry(block: Block, matrix: Array) -> Symmetry:
    """Return the operations of a CIF: those that it lists, else those of its space group.

    Of the settings that a name or a number leaves open, the one that the cell admits is taken.

    Raises
    ------
    ValueError
        An operation cannot be read, or the group is not known.
    """
    names, settings = _declared(block)
    operations = _listed(block)
    if operations is not None:
        rotations, translations = operations
        return Symmetry(rotations, translations, True, names)
    if settings is not None:
        return _of_setting(settings, names, matrix)
    if names:
        said = " and ".join(text for text, _ in names)
        raise ValueError(f"{said}: no such space group, and no operations are listed")
    return Symmetry(np.eye(3)[None], np.zeros((1, 3)), False, given=False)


def parse_operation(text: str) -> tuple[Array, Array]:
    """Return rotation and translation of an operation such as `-x+1/2, y, z`.

    Raises
    ------
    ValueError
        It is none.
    """
    parts = re.sub(r"\s", "", text).lower().split(",")
    rotation, translation = np.zeros((3, 3)), np.zeros(3)
    if len(parts) != 3:
        raise ValueError(f"{text[:40]!r} is no symmetry operation: three parts are needed")
    for row, part in enumerate(parts):
        position = 0
        while position < len(part):
            match = _TERM.match(part, position)
            if match is None or not match[0] or not any(match.groups()[1:]):
                raise ValueError(f"{text[:40]!r} is no symmetry operation")
            sign = -1.0 if match[1] == "-" else 1.0
            if position and not match[1]:
                raise ValueError(f"{text[:40]!r} is no symmetry operation")
            if match[3] is not None and int(match[3]) == 0:
                raise ValueError(f"{text[:40]!r} is no symmetry operation")
            size = float(match[4] or 1.0) if match[2] is None else int(match[2]) / int(match[3])
            if match[5]:
                rotation[row, "xyz".index(match[5])] += sign * size
            else:
                translation[row] += sign * size
            position = match.end()
    whole = np.isin(rotation, (-1.0, 0.0, 1.0)).all()
    if not whole or abs(abs(np.linalg.det(rotation)) - 1.0) > 1e-6:
        raise ValueError(f"{text[:40]!r} is no symmetry operation: it does not keep the lattice")
    return rotation, np.mod(_exact(translation), 1.0)


def group_number(symmetry: Symmetry, matrix: Array) -> int:
    """Return the number of the space group that the operations of a group make; 0 for none."""
    rotations = symmetry.rotations.astype(np.intc)
    found = _ask_spglib(
        "get_spacegroup_type_from_symmetry",
        rotations,
        symmetry.translations,
        lattice=_ideal_metric(matrix, rotations),
        symprec=1e-3,
    )
    return 0 if found is None else int(found.number)


def is_group(symmetry: Symmetry) -> bool:
    """Return whether any two operations, one after the other, are one of them."""
    rotations, translations = symmetry.rotations, symmetry.translations
    products = (rotations[:, None] @ rotations[None]).reshape(-1, 3, 3)
    moved = translations @ rotations.transpose(0, 2, 1) + translations[:, None]
    keys = _keys(rotations, translations)
    return bool(np.isin(_keys(products, moved.reshape(-1, 3)), keys).all())


def metric_deviation(rotations: Array, matrix: Array) -> tuple[float, int]:
    """Return by how much the operations change the cell at most, and which one that is.

    The largest change of a product of two axes, relative to their lengths.
    """
    metric = matrix @ matrix.T
    lengths = np.sqrt(np.diag(metric))
    turned = np.swapaxes(rotations, 1, 2) @ metric @ rotations
    changes = (np.abs(turned - metric) / np.outer(lengths, lengths)).max(axis=(1, 2))
    worst = int(np.argmax(changes))
    return float(changes[worst]), worst


def _declared(block: Block) -> tuple[tuple[tuple[str, int], ...], list[Setting] | None]:
    """Return all that a CIF calls its group, and the settings that the most exact name leaves."""
    names: list[tuple[str, int]] = []
    found: list[Setting] | None = None
    for items, look_up in ((HALL_NAMES, _by_hall), (NAMES, _by_name), (NUMBERS, _by_number)):
        for item in items:
            text = block.one(item)
            if text is None:
                continue
            settings = look_up(text)
            names.append((text, settings[0].number if settings else 0))
            found = found or settings or None
    return tuple(dict.fromkeys(names)), found


def _listed(block: Block) -> tuple[Array, Array] | None:
    """Return the operations in a CIF, once each; None if it lists none."""
    read = []
    for item in OPERATIONS:
        texts = [text for text in block.column(item) or () if text not in NULLS]
        if texts:
            rotations, translations = zip(*map(parse_operation, texts), strict=True)
            read.append((item, (np.array(rotations), np.array(translations))))
    if not read:
        return None
    keys = [dict(zip(_keys(*ops), zip(*ops, strict=True), strict=True)) for _, ops in read]
    if keys[0].keys() != keys[-1].keys():
        raise ValueError(f"{read[0][0]} and {read[1][0]} list different operations")
    if len(keys[0]) > MAX_OPERATIONS:
        raise ValueError(
            f"{len(keys[0])} symmetry operations are listed, and at most {MAX_OPERATIONS} are "
            "looked at"
        )
    rotations, translations = zip(*keys[0].values(), strict=True)
    return np.array(rotations), np.array(translations)


def _keys(rotations: Array, translations: Array) -> NDArray[np.int64]:
    """Return one number for each operation, the same where lattice translations alone differ."""
    digits = (rotations.reshape(-1, 9) + 1.0) @ 3.0 ** np.arange(9)
    steps = np.mod(np.rint(translations * TRANSLATION_STEPS), TRANSLATION_STEPS)
    places = steps @ (float(TRANSLATION_STEPS) ** np.arange(3))
    return np.asarray(digits * TRANSLATION_STEPS**3 + places, dtype=np.int64)


def _exact(translation: Array) -> Array:
    """Return translations written as 0.333 or 0.6667 as the fractions that they stand for."""
    nearest = np.rint(translation * 24.0) / 24.0
    return np.where(np.abs(translation - nearest) <= 1e-3, nearest, translation)


def _of_setting(
    settings: list[Setting], names: tuple[tuple[str, int], ...], matrix: Array
) -> Symmetry:
    remarks = []
    fitting = [
        setting
        for setting in settings
        if metric_deviation(_operations(setting.hall_number)[0], matrix)[0] <= METRIC_TOLERANCE
    ]
    left = fitting or settings
    # Where there are two origins, the second, on an inversion centre, is the usual one.
    origins = {setting.choice[:1]: setting for setting in reversed(left)}
    taken = origins.get("2", left[0])
    if "1" in origins and "2" in origins:
        remarks.append(f"origin choice 2 of {taken.name} is assumed: the CIF does not say which")
    if taken.choice == "R" and len(settings) > 1:
        remarks.append(f"{taken.name} is read on rhombohedral axes, as the cell has them")
    rotations, translations = _operations(taken.hall_number)
    return Symmetry(rotations, translations, False, names, remarks)


def _by_hall(text: str) -> list[Setting]:
    wanted = " ".join(text.replace("_", " ").split()).lower()
    return [s for key, s in _hall_symbols().items() if key == wanted]


def _by_number(text: str) -> list[Setting]:
    try:
        wanted = number(text, "space group").value
    except ValueError:
        return []
    settings = [setting for _, setting in _all_settings() if setting.number == wanted]
    # The first setting of each group is the standard one, but for axes and origin.
    return [s for s in settings if s.choice in ("1", "2", "H", "R")] or settings[:1]


def _by_name(text: str) -> list[Setting]:
    """Return the settings that a Hermann-Mauguin symbol may mean, with or without blanks."""
    choice = ""
    bare = text
    if suffix := _SETTING_SUFFIX.search(text):
        choice, bare = _SETTINGS[suffix[1].lower()], text[: suffix.start()]
    for name, wanted in ((text, ""), (bare, choice)):
        key = _plain(name)
        for spelling in (key, _OLD_CUBIC.sub(r"\1-3", key)):
            found = [
                s for s in _by_symbol().get(spelling, ()) if not s.choice or wanted in s.choice
            ]
            if found:
                return found
    return []


def _plain(name: str) -> str:
    return re.sub(r"[\s_]", "", name).lower()


@cache
def _all_settings() -> tuple[tuple[tuple[str, ...], Setting], ...]:
    """Return each setting of each group with its symbols."""
    found = []
    for hall_number in range(1, N_SETTINGS + 1):
        kind = _kind(hall_number)
        symbols = kind.international.split(" = ")
        if kind.number in _MONOCLINIC:
            # Without the ones of the other two axes; the symbol of the group names no axis.
            own = symbols[1:] or symbols
            symbols = [*own, *(re.sub(r" 1(?= |$)", "", symbol) for symbol in own)]
        setting = Setting(hall_number, kind.number, symbols[0], kind.choice)
        symbols += _older_symbols(setting)
        found.append(((*symbols, kind.international_full), setting))
    return tuple(found)


def _older_symbols(setting: Setting) -> list[str]:
    lattice, *planes = setting.name.split()
    if "e" not in planes:
        return []
    axis = planes.index("e")
    letters = _GLIDES[axis]
    if setting.number in _TWO_GLIDES:
        letters = letters[0 if setting.choice.lstrip("12") in _FIRST_GLIDE else 1]
    return [" ".join((lattice, *planes[:axis], one, *planes[axis + 1 :])) for one in letters]


@cache
def _by_symbol() -> dict[str, list[Setting]]:
    known: dict[str, list[Setting]] = {}
    for symbols, setting in _all_settings():
        for symbol in dict.fromkeys(map(_plain, symbols)):
            known.setdefault(symbol, []).append(setting)
    return known


@cache
def _hall_symbols() -> dict[str, Setting]:
    return {
        " ".join(_kind(s.hall_number).hall_symbol.lower().split()): s for _, s in _all_settings()
    }


def _kind(hall_number: int) -> Any:
    return _ask_spglib("get_spacegroup_type", hall_number)


def _ask_spglib(function: str, *arguments: Any, **options: Any) -> Any:
    import spglib

    with warnings.catch_warnings():
        # spglib announces how it will report errors one day; there is nothing to do about it here.
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(spglib, function)(*arguments, **options)


@cache
def _operations(hall_number: int) -> tuple[Array, Array]:
    found = _ask_spglib("get_symmetry_from_database", hall_number)
    rotations = found["rotations"].astype(np.float64)
    translations = np.mod(_exact(found["translations"].astype(np.float64)), 1.0)
    for array in (rotations, translations):
        array.setflags(write=False)
    return rotations, translations


def _ideal_metric(matrix: Array, rotations: NDArray[np.intc]) -> Array:
    """Return a cell that the operations leave as it is, near the one given."""
    metric = matrix @ matrix.T
    turned = np.swapaxes(rotations, 1, 2) @ metric @ rotations
    return np.asarray(np.linalg.cholesky(turned.mean(axis=0)))
