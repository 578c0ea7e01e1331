"""What a formula may mean: adducts, mixtures, ions, slips of the shift key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from features.chemistry.charge_balance import can_have_charge
from features.chemistry.elements import ELEMENTS
from features.chemistry.formulas import parse_plain

Amounts = dict[str, float]

_PART = re.compile(r"(\d+\.?\d*|\.\d+)?\s*(.+)")
_SOLVENT = re.compile(r"\(?(H2O|D2O|OH2|NH3|CH3OH|C2H5OH|HCl)\)?\d*")
_HYDRATE = re.compile(
    r"(.+?)\.(\d+\.?\d*|\.\d+)?(H2O|D2O|NH3|CH3OH|C2H5OH|HCl|\((?:H2O|D2O|NH3|CH3OH|C2H5OH)\))"
)
_LOST_DOT = re.compile(r"(.*[A-Z)\]a-z]\d+?)(\d+)(H2O|D2O|NH3)")
_ADDUCT = re.compile(r"[^.]+(?:\.\d*[^.\d][^.]*)+")
_ION = re.compile(r"(.*[A-Za-z)\]])(\d*)([+-])")
_SIZE_BEHIND = re.compile(r"(.*[A-Za-z\d)\]])([+-])([1-9])")
_SIGNS_BEHIND = re.compile(r"(.*[A-Za-z\d)\]])(\+{2,3}|-{2,3})")
_ONE_OR_FIVE = re.compile(r"(?<=[a-zA-Z\d])\((?:I|V)\)|(?<=[a-zA-Z\d])IV(?![a-z])")
_FIRST_ZERO = re.compile(r"(?<=[A-Za-z)\]])0(?=\d)(?!\d*\.)")
_LETTER_L = re.compile(r"CI(?![a-z])|C1(?![a-z\d])")
_LARGE, _SMALL = 100, 25  # an amount like 204 behind small ones is rather 2O4
_LAST_ZERO = re.compile(r"(?<=[A-Za-z)\]])([1-9]\d*)0$")
_INNER_ZERO = re.compile(r"(?<=[A-Za-z)\]])([1-9]\d*?)0([1-9]\d*)$")
_ORGANIC = frozenset("HNO")
# Neighbours that are an element in the other case, as Co in LiCOO2; and those that are not as often
# meant as written where the case of other elements is right.
_SLIP = re.compile(r"(?:CO|NI|SN|PB|HF|IN|CS|BI|NB|SC|SI|CU|YB|OS|HO)(?![a-z])")
_COVALENT = re.compile(r"(?:SN|SI|CS|OS)(?![a-z])")
# Pairs that hardly stand side by side as two elements, where a whole formula is in capitals.
_HARDLY_TWO = frozenset("CU NI IN PB BI NB".split())  # noqa: SIM905
_MOST_MOLECULAR_CHARGE, _MOST_OF_AN_ION = 3, 3
_KNOWN = frozenset(ELEMENTS)


class Reading(NamedTuple):
    """The atoms that a formula may stand for, and how it was read so; "" for as it is written."""

    amounts: Amounts
    how: str = ""


class AmbiguousError(ValueError):
    """A formula has more than one reading, or none that is chemical."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        shown = " or ".join(dict.fromkeys(show(reading.amounts) for reading in readings))
        super().__init__(f"it may be {shown}; write the one that is meant")


def show(amounts: Mapping[str, float]) -> str:
    """Return amounts as a formula."""
    return "".join(f"{s}{'' if n == 1.0 else format(n, '.6g')}" for s, n in amounts.items())


def add(parts: Sequence[tuple[float, Amounts]]) -> Amounts:
    """Add up parts, each taken so many times."""
    total: Amounts = {}
    for factor, amounts in parts:
        for symbol, amount in amounts.items():
            total[symbol] = total.get(symbol, 0.0) + factor * amount
    return total


# Adducts ----------------------------------------------------------------------------------------


def _split(text: str, separator: str) -> list[tuple[float, Amounts]] | None:
    """Return the parts of an adduct or a mixture with their numbers; None if one is no formula."""
    parts = []
    for piece in text.split(separator):
        found = _PART.fullmatch(piece.strip())
        amounts = parse_plain(found.group(2)) if found else None
        factor = float(found.group(1) or 1.0) if found else 0.0
        if amounts is None or factor <= 0.0:
            return None
        parts.append((factor, amounts))
    return parts


def _is_neutral(amounts: Amounts) -> bool:
    return can_have_charge(amounts)


def _are_compounds(parts: Sequence[tuple[float, Amounts]]) -> bool:
    """Whether each part is a neutral compound, and none of its atoms a fraction."""
    return all(
        len(amounts) > 1
        and all(amount.is_integer() for amount in amounts.values())
        and can_have_charge(amounts)
        for _, amounts in parts
    )


def _adduct(parts: Sequence[tuple[float, Amounts]], how: bool) -> Reading:
    named = "·".join(f"{'' if factor == 1 else f'{factor:g}'}{show(a)}" for factor, a in parts)
    return Reading(add(parts), f"it was read as the adduct {named}" if how else "")


def read_dots(text: str, literal: Amounts | None) -> Reading | None:
    """Read points that may separate the parts of an adduct, as in CuSO4.5H2O.

    None where `literal`, what the formula says with decimal points, is all that it can be.

    Raises
    ------
    AmbiguousError
        Both are chemical, or neither is.
    """
    hydrate = _HYDRATE.fullmatch(text)
    parts = None
    if _ADDUCT.fullmatch(text):
        parts = _split(re.sub(r"\.(?=\d*[^\d.])", "·", text), "·")
    if hydrate and not (parts and _are_compounds(parts)):
        parent, number, solvent = parse_plain(hydrate[1]), hydrate[2], parse_plain(hydrate[3])
        if parent and solvent:
            parts = [(1.0, parent), (float(number or 1.0), solvent)]
    if parts is None:
        return None
    adduct = _adduct(parts, how=True)
    if literal is None:
        return adduct
    if adduct.amounts == literal:
        return Reading(literal)
    is_chemical = _are_compounds(parts) or (bool(hydrate) and _is_neutral(parts[0][1]))
    if is_chemical and not _is_neutral(literal):
        return adduct
    if is_chemical or (hydrate and not _is_neutral(literal)):
        raise AmbiguousError([adduct, Reading(literal)])
    return Reading(literal, "its point was read as a decimal point") if hydrate else None


def read_raised_dots(text: str) -> Reading | None:
    """Read `·`, which joins the parts of an adduct, but may be a decimal point between digits."""
    parts = _split(text, "·")
    literal = None
    if all(text[at - 1 : at].isdigit() and text[at + 1 :][:1].isdigit() for at in _dots(text)):
        literal = parse_plain(text.replace("·", "."))
    if parts is None:
        return None if literal is None else Reading(literal, "· was read as a decimal point")
    adduct = _adduct(parts, how=False)
    if literal is None:
        return adduct
    has_solvent = bool(_SOLVENT.fullmatch(text.split("·")[-1].lstrip("0123456789.")))
    is_chemical = all(_is_neutral(amounts) for _, amounts in parts)
    if is_chemical != _is_neutral(literal):
        return adduct if is_chemical else Reading(literal, "· was read as a decimal point")
    if has_solvent and not is_chemical:
        return adduct
    raise AmbiguousError([adduct, Reading(literal)])


def _dots(text: str) -> list[int]:
    return [at for at, sign in enumerate(text) if sign == "·"]


def read_lost_dot(text: str, literal: Amounts) -> None:
    """Refuse a hydrate whose dot is lost, as in CuSO45H2O.

    Raises
    ------
    AmbiguousError
        The formula is chemical with a dot, and not without.
    """
    found = _LOST_DOT.fullmatch(text)
    parts = _split(f"{found[1]}·{found[2]}{found[3]}", "·") if found else None
    if parts and _are_compounds(parts) and not _is_neutral(literal):
        raise AmbiguousError([Reading(literal), _adduct(parts, how=False)])


def read_mixture(text: str) -> Reading | None:
    """Read parts with their numbers, joined by + or -, as in 75Li2S-25P2S5."""
    plain = re.sub(r"\s*mol\.?\s*%\s*(?:of\s+)?", "", text)
    for separator in ("+", "-"):
        parts = _split(plain, separator) if separator in plain else None
        if parts is None:
            continue
        numbered = re.search(r"(?:^|[+\-])\s*[\d.]|\)", plain) is not None
        if numbered and all(_is_mixable(amounts) for _, amounts in parts):
            named = " + ".join(f"{factor:g} {show(amounts)}" for factor, amounts in parts)
            return Reading(add(parts), f"it was read as a mixture by moles, {named}")
    return None


def _is_mixable(amounts: Amounts) -> bool:
    return len(amounts) > 1 and can_have_charge(amounts)


# Blanks -----------------------------------------------------------------------------------------


def without_blanks(text: str) -> list[str]:
    """Return what a formula may be without its blanks.

    A number behind one is of what stands before it or, joined by `·`, of what stands behind.
    """
    pieces = text.split(" ")
    of_before, of_behind, glued = pieces[0], pieces[0], False
    for piece in pieces[1:]:
        starts_with_number = piece[:1].isdigit() or (piece[:1] == "." and piece[1:2].isdigit())
        begins_part = starts_with_number and of_before[-1:].isdigit()
        glued |= starts_with_number and not begins_part and not piece.replace(".", "").isdigit()
        of_before += f"·{piece}" if begins_part else piece
        of_behind += f"·{piece}" if starts_with_number and of_behind[-1:] != "·" else piece
    # Numbers that stand alone are written so where subscripts were copied from a page.
    both = [of_before, of_behind] if of_before != of_behind else [of_before]
    return both if glued or "H2O" in of_behind else both[:1] if _parses(both[0]) else both


def _parses(text: str) -> bool:
    return bool(_split(text, "·"))


def choose(readings: Sequence[Reading]) -> Reading:
    """Return the only reading, or the only neutral one.

    Raises
    ------
    AmbiguousError
        If there is none such.
    """
    different: dict[str, Reading] = {}
    for reading in readings:
        different.setdefault(show(dict(sorted(reading.amounts.items()))), reading)
    if len(different) == 1:
        return readings[0]
    neutral = [reading for reading in different.values() if _is_neutral(reading.amounts)]
    if len(neutral) == 1:
        return neutral[0]
    raise AmbiguousError([*different.values()])


# Ions and oxidation numbers ---------------------------------------------------------------------


def read_ion(text: str) -> Reading | None:
    """Read a formula that ends with a charge, as in SO42- or Fe3+.

    Raises
    ------
    AmbiguousError
        The last digits may be of the charge or of the formula.
    """
    behind = _SIZE_BEHIND.fullmatch(text) or _SIGNS_BEHIND.fullmatch(text)
    if behind is not None:
        sign, size = behind[2][0], behind[3] if behind.lastindex == 3 else str(len(behind[2]))
        amounts = parse_plain(behind[1])
        is_ion = amounts is not None and len(amounts) <= _MOST_OF_AN_ION
        if amounts is None or not (is_ion and can_have_charge(amounts, float(f"{sign}{size}"))):
            return None
        return Reading(amounts, _without_charge(size, sign))
    found = _ION.fullmatch(text)
    if found is None:
        return None
    sign = 1.0 if found[3] == "+" else -1.0
    readings = []
    if found[1].endswith("]"):
        amounts = parse_plain(found[1])
        return Reading(amounts, _without_charge(found[2], found[3])) if amounts else None
    digits = found[2]
    for charge in dict.fromkeys(("", digits[-1:])):
        amounts = parse_plain(found[1] + digits.removesuffix(charge))
        size = float(charge or 1.0)
        if amounts and size > 0.0 and (size <= _MOST_MOLECULAR_CHARGE or len(amounts) == 1):
            readings.append((amounts, size * sign, _without_charge(charge, found[3])))
    balanced = [
        Reading(amounts, how)
        for amounts, charge, how in readings
        if can_have_charge(amounts, charge)
    ]
    if len(balanced) == 1:
        return balanced[0]
    if readings:
        raise AmbiguousError([Reading(amounts) for amounts, _, _ in readings])
    return None


def _without_charge(size: str, sign: str) -> str:
    return f"the charge '{size}{sign}' is left out"


def read_one_or_five(text: str, literal: Amounts) -> Reading | None:
    """Read (I) and (V), which are oxidation numbers or iodine and vanadium.

    Raises
    ------
    AmbiguousError
        Both or none of these are chemical.
    """
    without = _ONE_OR_FIVE.sub("", text)
    numbered = parse_plain(without) if without != text else None
    if numbered is None:
        return None
    how = "its oxidation number is left out"
    return choose([Reading(numbered, how), Reading(literal, "its brackets are no number")])


# Slips of the shift key -------------------------------------------------------------------------


def refuse_slips(text: str, literal: Amounts) -> None:
    """Refuse a formula that is chemical only if neighbouring capitals are one element.

    Raises
    ------
    AmbiguousError
        As in LiCOO2, which is LiCO3 as it is written and LiCoO2 in the other case.
    """
    has_cases = re.search("[a-z]", text) is not None
    pairs = [m.group() for m in _SLIP.finditer(text) if not (has_cases and _COVALENT.match(m[0]))]
    if len(literal) > 1 and _is_neutral(literal):
        pairs = [] if has_cases else [pair for pair in pairs if pair in _HARDLY_TWO]
    for pair in dict.fromkeys(pairs):
        other = parse_plain(re.sub(f"{pair}(?![a-z])", pair.capitalize(), text))
        if other and _is_meant(other) and other.keys() != literal.keys():
            raise AmbiguousError([Reading(literal), Reading(other)])


def refuse_look_alikes(text: str, literal: Amounts) -> None:
    """Refuse a formula with 0 that is likely to be O, or I or 1 that is likely to be l.

    Raises
    ------
    AmbiguousError
        An amount begins with 0, as in Li2C03; or it is chemical with the letter alone, as NaCI.
    """
    other = parse_plain(_FIRST_ZERO.sub("O", text))
    if other and other.keys() != literal.keys():
        raise AmbiguousError([Reading(literal), Reading(other)])
    is_odd = not _is_neutral(literal)
    changed = []
    if is_odd or ("CI" in text and len(literal) > 2 and _ORGANIC.isdisjoint(literal)):
        changed.append(_LETTER_L.sub("Cl", text))
    if "O" not in literal and (len(literal) == 1 and "C" not in literal):
        changed.append(_LAST_ZERO.sub(r"\1O", text))
    elif "O" not in literal and is_odd:
        changed.append(_INNER_ZERO.sub(r"\1O\2", text))
    for other in map(parse_plain, changed):
        if other and other.keys() != literal.keys():
            *first, last = literal.values()
            is_a_number = bool(first) and last >= _LARGE and max(first) < _SMALL
            if _is_neutral(other) or is_a_number:
                raise AmbiguousError([Reading(literal), Reading(other)])


def _is_meant(amounts: Amounts) -> bool:
    return _is_neutral(amounts) and (len(amounts) > 1 or 1.0 in amounts.values())


def other_cases(text: str) -> list[str]:
    """Return up to two neutral formulas that `text` is in another case."""
    if not text.isascii() or not text.isalnum() or len(text) > 24:
        return []
    written = []
    for formula in islice(_spellings(text), 2000):
        amounts = parse_plain(formula)
        if formula != text and amounts and len(amounts) > 1 and _is_neutral(amounts):
            written.append(formula)
    return written[:2]


def _spellings(text: str) -> Iterator[str]:
    if not text:
        yield ""
        return
    for length in (2, 1):
        symbol = text[:length].capitalize()
        if len(symbol) == length and symbol in _KNOWN:
            rest = text[length:]
            digits = len(rest) - len(rest.lstrip("0123456789"))
            for tail in _spellings(rest[digits:]):
                yield symbol + rest[:digits] + tail
