"""Formulas as people write them: made plain before they are parsed, refused, or remarked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from features.chemistry.charge_balance import can_have_charge
from features.chemistry.elements import ELEMENTS, HEAVIER
from features.chemistry.formulas import parse_plain
from features.intake.formula_readings import (
    AmbiguousError,
    Reading,
    choose,
    other_cases,
    read_dots,
    read_ion,
    read_lost_dot,
    read_mixture,
    read_one_or_five,
    read_raised_dots,
    refuse_look_alikes,
    refuse_slips,
    show,
    without_blanks,
)
from features.intake.formula_text import plain_numbers, plain_typography, take_off
from features.intake.formula_variables import put_in_values
from features.intake.text import quote

# What programs write for "nothing". Case counts: Na is sodium. NaN could be a nitride, but is not.
_BLANK = frozenset({"", "nan", "NaN", "None", "none", "null", "NULL", "N/A", "n/a", "NA", "-", "?"})
MOST_CHARACTERS = 1000

# What a plain formula has to be looked at again for: brackets that may be oxidation numbers,
# neighbours that may be one element, carbonates; further `_is_suspect`.
_SUSPECT = re.compile(
    r"\(I|\(V|II|IV|[A-Za-z)\]]0\d|C[I1](?![a-z\d])|CI\d|CO(?![a-z])|NI(?![a-z])|SN(?![a-z])|PB(?![a-z])|HF(?![a-z])|IN(?![a-z])|"
    r"CS(?![a-z])|BI(?![a-z])|NB(?![a-z])|SC(?![a-z])|SI(?![a-z])|CU(?![a-z])|YB(?![a-z])|"
    r"OS(?![a-z])|HO(?![a-z])|Co3$"
)
_SOLVENTS = ("H2O", "D2O", "NH3")
# Whole amounts of two elements or more on both sides of every point, or a solvent at the end.
_PIECE = r"(?:[A-Z][a-z]?(?:[1-9]\d*)?|[(\[{]|[)\]}](?:[1-9]\d*)?){2,}"
_DOTTED = re.compile(
    rf"{_PIECE}(?:\.\d*{_PIECE})+|.+\.\d*(?:\.\d+)?(?:H2O|D2O|NH3|CH3OH|C2H5OH|HCl|\((?:H2O|D2O|NH3|CH3OH|C2H5OH)\))"
)
# Noble gases and what decays within hours to some thousand years.
_RARE = frozenset(
    "He Ne Ar Kr Xe Rn Tc Pm Po At Fr Ra Ac Pa Np Am Cm Bk Cf".split()  # noqa: SIM905
)
_NO_COMPOUNDS = frozenset(HEAVIER) | frozenset("Es Fm Md No Lr".split())  # noqa: SIM905
_DOUBTFUL = _RARE | _NO_COMPOUNDS
_ABBREVIATIONS: Mapping[str, str] = {
    "BSCCO": "Bi-Sr-Ca-Cu-O",
    "YBCO": "Y-Ba-Cu-O",
    "PBCO": "Pr-Ba-Cu-O",
    "NBCO": "Nd-Ba-Cu-O",
    "BFO": "BiFeO3",
    "CIS": "CuInS2 or CuInSe2",
    "KNN": "(K,Na)NbO3",
    "BSCF": "Ba-Sr-Co-Fe-O",
    "PBSCF": "Pr-Ba-Sr-Co-Fe-O",
    "PSCF": "Pr-Sr-Co-Fe-O",
    "BKBO": "Ba-K-Bi-O",
    "BCO": "BaCoO3 or BiCoO3",
    "SCO": "SrCoO3",
    "SFO": "SrFeO3",
    "YSO": "Y2SiO5",
}
_ALL_CAPITALS = re.compile(r"([A-Z]{3,})(?:\d{3,})?")
_LONE_NUMBER = re.compile(r"[A-Z][a-z]?\d{3,}")
_LAST_BRACKET = re.compile(r".*\s[(\[]([^()\[\]]+)[)\]]")
_GROUPS_OF_ATOMS = frozenset(
    "OH H2O D2O NH3 NH4 CN CO3 NO3 PO4 SO4 BH4 BO3 SiO4 ClO4".split()  # noqa: SIM905
)
_A_NUMBER = 100  # atoms of one element: rather the number of a phase or a steel
_TOKENS = re.compile(r"[A-Z][a-z]*|[a-zα-ω]+")
_VARIABLES = frozenset("xyzwnmkuvδε")
_SYMBOLS = frozenset((*ELEMENTS, *HEAVIER))
_TRITIUM = re.compile(r"T(?![a-z])")
_PERCENT = re.compile(r"%|wt\b|vol\b|at\.|ppm", re.IGNORECASE)


class Formula(NamedTuple):
    """A formula that was read: its text, its atoms, and what had to be done to read it."""

    text: str
    amounts: Mapping[str, float]
    remark: str = ""


def read_formula(text: str) -> Formula:
    """Read a formula; D counts as H.

    Raises
    ------
    ValueError
        With the reason why `text` is not a formula, or with all that it may be.
    """
    amounts = parse_plain(text)
    if (
        amounts is not None
        and not _is_suspect(text, amounts)
        and _DOUBTFUL.isdisjoint(amounts)
        and text not in _BLANK
        and len(text) <= MOST_CHARACTERS
    ):
        return Formula(text, amounts)
    try:
        if text.strip() in _BLANK:
            raise ValueError("it is empty; give the row a formula")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"it has more than {MOST_CHARACTERS} characters")
        reading = _read_suspect(text, amounts) if amounts is not None else _read_unusual(text)
        notes = [reading.how] if reading.how else []
        notes += _hardly_held(text, reading.amounts)
    except ValueError as exc:
        raise ValueError(f"formula {quote(text)}: {exc}") from None
    said = "; ".join(notes)
    remark = f"{quote(text)} was read as {show(reading.amounts)}: {said}" if said else ""
    return Formula(text, reading.amounts, remark)


def _is_suspect(text: str, amounts: Mapping[str, float]) -> bool:
    """Whether a plain formula may mean something else; quick, as a million are asked."""
    return bool(
        len(amounts) == 1
        or _SUSPECT.search(text)
        or text.endswith(_SOLVENTS)
        or text.isupper()
        or ("0" in text and "O" not in amounts)
        or ("." in text and _DOTTED.fullmatch(text))
    )


def _read_suspect(text: str, literal: dict[str, float]) -> Reading:
    """Read a formula that is plain as it is written, but may mean something else."""
    _refuse_abbreviations(text, literal)
    notes: list[str] = []
    plain = take_off(text, notes)
    if notes:
        return _with(_read_plain(plain), notes)
    found = read_one_or_five(text, literal) or (read_dots(text, literal) if "." in text else None)
    if found is not None:
        return found
    read_lost_dot(text, literal)
    refuse_look_alikes(text, literal)
    refuse_slips(text, literal)
    carbonate = parse_plain(f"{text[:-3]}CO3") if text.endswith("Co3") else None
    if carbonate and can_have_charge(carbonate):
        return Reading(literal, f"it holds cobalt; the carbonate is {show(carbonate)}")
    return Reading(literal)


def _read_unusual(text: str) -> Reading:
    """Read a formula that is not plain."""
    notes: list[str] = []
    plain = plain_typography(text)
    if plain in _BLANK:
        raise ValueError("it is empty; give the row a formula")
    plain = put_in_values(plain, notes)
    _refuse_last_bracket(plain)
    plain = take_off(plain, notes)
    plain = plain_numbers(plain, notes)
    if "^" in plain:
        raise ValueError("it has raised signs that are no charge; leave them out")
    if _TRITIUM.search(plain) and parse_plain(_TRITIUM.sub("H", plain)):
        raise ValueError(
            "T would be tritium, which hardly any formula holds; write H for that"
            f"{_suggestion(plain)}"
        )
    if re.search(r"D(?![a-z])", plain):
        notes.append("D counts as H")
        plain = re.sub(r"D(?![a-z])", "H", plain)
    if re.search(r"[A-Za-z\d)\]]@[A-Z]", plain):
        notes.append("@ is left out, both sides of it are counted")
        plain = plain.replace("@", "")
    readings, problem = [], None
    for candidate in without_blanks(plain):
        try:
            readings.append(_read_joined(candidate))
        except AmbiguousError:
            raise
        except ValueError as exc:
            problem = problem or exc
    if not readings:
        assert problem is not None
        raise problem
    return _with(choose(readings), notes)


def _refuse_last_bracket(text: str) -> None:
    last = _LAST_BRACKET.fullmatch(text)
    if last and last[1].strip() not in _GROUPS_OF_ATOMS and parse_plain(last[1].replace("/", "")):
        raise ValueError(
            "its last bracket may be a name, a space group or atoms; leave it out, or join it"
        )


def _with(reading: Reading, notes: list[str]) -> Reading:
    return Reading(reading.amounts, "; ".join([*notes, *([reading.how] if reading.how else [])]))


def _read_joined(text: str) -> Reading:
    """Read a formula without blanks, in plain signs."""
    amounts = parse_plain(text)
    if amounts is not None:
        _refuse_abbreviations(text, amounts)
        return _read_suspect(text, amounts) if _is_suspect(text, amounts) else Reading(amounts)
    found = None
    if "·" in text:
        found = read_raised_dots(text)
    elif "." in text:
        found = read_dots(text, None)
    found = found or read_mixture(text) or read_ion(text) or _read_multiple(text)
    if found is None:
        raise ValueError(_why_not(text))
    return found


def _read_plain(text: str) -> Reading:
    amounts = parse_plain(text)
    if amounts is None:
        raise ValueError(_why_not(text))
    return Reading(amounts)


def _read_multiple(text: str) -> Reading | None:
    """Read a formula with a number before it, which changes no fraction."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([A-Z(\[].*)", text)
    amounts = parse_plain(found[2]) if found else None
    if found is None or amounts is None or float(found[1]) <= 0.0:
        return None
    return Reading(amounts, f"the number {found[1]} before it is left out")


def _refuse_abbreviations(text: str, amounts: Mapping[str, float]) -> None:
    capitals = _ALL_CAPITALS.fullmatch(text)
    if capitals:
        letters = capitals[1]
        if letters in _ABBREVIATIONS or len({*letters}) < len(letters):
            stands = _ABBREVIATIONS.get(letters)
            meant = f" for {stands}" if stands else ""
            raise ValueError(
                f"it may be an abbreviation{meant}, or {show(amounts)}; write the formula with its "
                "amounts"
            )
    if _LONE_NUMBER.fullmatch(text) or (len(amounts) == 1 and sum(amounts.values()) >= _A_NUMBER):
        raise ValueError(
            f"it may be the short name of a phase, or {show(amounts)}; write the whole formula"
        )


def _hardly_held(text: str, amounts: Mapping[str, float]) -> list[str]:
    """Return a note of elements that hardly any formula holds; refuse those of no compounds."""
    none = [symbol for symbol in amounts if symbol in _NO_COMPOUNDS]
    if none:
        raise ValueError(
            f"{none[0]} has no known compounds in bulk; correct the formula{_suggestion(text)}"
        )
    rare = [symbol for symbol in amounts if symbol in _RARE]
    notes = [f"it holds {', '.join(rare)}, which few compounds do"] if rare else []
    capitals = _ALL_CAPITALS.fullmatch(text)
    if capitals and not notes and not can_have_charge(amounts):
        notes.append("each capital is an element")
    return notes


def _suggestion(text: str) -> str:
    found = other_cases(text)
    return f" (was {' or '.join(found)} meant?)" if found else ""


def _why_not(text: str) -> str:
    """Return why a text is no formula, and what to do."""
    foreign = next((sign for sign in text if not sign.isascii() and sign not in "·□"), None)
    if foreign is not None and not "α" <= foreign <= "ω":
        return f"it has {foreign!r} ({unicodedata.name(foreign, 'no character')}); correct it"
    if _PERCENT.search(text):
        return "amounts by weight or in percent are no formula; write the amounts of atoms"
    tokens = _TOKENS.findall(text)
    variable = next((name for name in map(_variable_of, tokens) if name), None)
    if variable is not None:
        return f"it has a variable ({variable}); write its value, as in La1-xSrxMnO3 (x = 0.3)"
    unknown = next((token for token in tokens if token not in _SYMBOLS), None)
    if unknown is not None and unknown[0].isupper():
        return f"{unknown!r} is no element; correct the formula{_suggestion(text)}"
    for sign, what in _SIGNS.items():
        if sign in text:
            return what
    return f"cannot be read; write it like Li7La3Zr2O12{_suggestion(text)}"


_SIGNS = {
    ",": "amounts of what stands between commas are not given; write them out",
    ":": "what a colon parts may be added or replace atoms; write out all amounts without it",
    "/": "it has a stroke; write amounts as decimals, and one material a row",
    "+": "it is a mixture without amounts, or a charge within; write one formula with amounts",
    "-": "it is a mixture without amounts, or a difference; write one formula with amounts",
    "□": "vacancies are not written; leave them out",
}


def _variable_of(token: str) -> str | None:
    """Return the variable that a token is, or ends with; None for a symbol."""
    if token in _SYMBOLS:
        return None
    if token[0].islower() or not token.isascii():
        return token if len(token) == 1 and token in _VARIABLES else None
    return token[-1] if len(token) > 1 and token[:-1] in _SYMBOLS and token[-1] in "xyzn" else None
