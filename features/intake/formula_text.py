"""Formulas as text: typography made plain, and what is no part of the composition taken off."""

from __future__ import annotations

import html
import re
import unicodedata

from features.chemistry.formulas import parse_plain

_RAISED = dict(zip(map(ord, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"), "0123456789+-", strict=True))
_RAISED_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_DOTS = re.compile(r"\s*[·⋅•∙‧・･●᛫*×]\s*")
_DASHES = re.compile(r"[‐‑‒–—―−﹣－]")
_VULGAR = re.compile(r"([\d₀-₉]*)([¼-¾⅐-⅞])")
_QUOTES = "\"'`´“”„‘’‚«»‹›＂＇"
_TAGS = (
    (re.compile(r"<sub>\s*(.*?)\s*</sub>", re.IGNORECASE), r"\1"),
    (re.compile(r"<sup>\s*(.*?)\s*</sup>", re.IGNORECASE), r"^{\1}"),
    (re.compile(r"</?[a-z][^<>]{0,40}>", re.IGNORECASE), ""),
    (re.compile(r"(?<=[A-Za-z)\]])~([^~\s]{1,12})~"), r"\1"),  # as Markdown has subscripts
)
_LATEX = (
    (re.compile(r"\\(?:ce|mathrm|text|rm|mathsf)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"), r"\1"),
    (re.compile(r"\\(?:cdot|bullet|times)\s*"), "·"),
    (re.compile(r"\\(?:mathrm|rm|,|;|!| )"), ""),
    (re.compile(r"\$"), ""),
    (re.compile(r"_\{\s*([^{}]*?)\s*\}"), r"\1"),
    (re.compile(r"_(?=[\d.xyzδ])"), ""),
)
_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "kappa": "κ", "lambda": "λ", "tau": "τ", "omega": "ω",
}  # fmt: skip
_LATEX_GREEK = re.compile(rf"\\({'|'.join(_GREEK)})(?![a-z])")

_NAMED_PHASES = (
    "glass|glassy|amorphous|crystal|crystalline|single crystal|polycrystal|polycrystalline|powder|"
    "film|thin film|bulk|ceramic|glass-ceramic|pellet|solid|liquid|gas|cubic|tetragonal|hexagonal|"
    "orthorhombic|monoclinic|triclinic|rhombohedral|trigonal|rutile|anatase|brookite|wurtzite|"
    "zincblende|zinc blende|zinc-blende|sphalerite|rocksalt|rock salt|rock-salt|perovskite|spinel|"
    "garnet|fluorite|pyrochlore|graphite|diamond|quartz|cristobalite|tridymite|calcite|aragonite|"
    "corundum|olivine|layered|ordered|disordered|nano|fcc|bcc|hcp"
)
_SHORT_PHASES = "s|l|g|aq|cr|am|gl|LT|HT|RT|LP|HP"
_SPACE_GROUP = r"[PABCFIR][ \-]?[1-6mnabcde](?:[\-/1-6mnabcde_ ]*)"
# Layered oxides by their stacking, as P2-Na2/3MnO2.
_STACKING = r"[OPT][1-3]['′]*(?:-type)?\s*[- ]\s*(?=(?:Li|Na|K)[^-]*O)"
_LETTERS = rf"[α-ω]|{'|'.join(_GREEK)}|[abcghlmnoprstw]|zb|wz|rs|fcc|bcc|hcp|{_NAMED_PHASES}"
_PREFIX = re.compile(
    rf"(?:{_STACKING}|(?:{_LETTERS})['′\"]*\s*-\s*|(?:[α-ω]|{'|'.join(_GREEK)})['′]*\s*|"
    rf"\d{{1,2}}[HRCT]['′]*(?:\s*-\s*|\s+)|(?:{_NAMED_PHASES})\s+)(?=[A-Z(\[])"
)
_SUFFIX = re.compile(
    rf"\s*[(\[]\s*(?:(?:{_NAMED_PHASES})|{_SHORT_PHASES}|{_SPACE_GROUP}|[α-ωchmort]"
    rf"|{'|'.join(_GREEK)})\s*[)\]]$"
    rf"|(?:\s*[,_]\s*|\s+|-)(?:{_NAMED_PHASES})$|(?:\s*[,_]\s*|\s+)[α-γε-ω]$"
    rf"|(?:\s*[,_]\s*|\s+)(?:{_SPACE_GROUP})$|-\d{{1,2}}[HRT]$",
)
# What a material is called, in brackets behind a blank: letters that are no formula, or words.
_NAME = re.compile(
    r"\s+[(\[]\s*(?!.*(?:dop|mix|excess|with))"
    r"(?:[A-Z][A-Z0-9-]+|[a-zé]{3,}(?:[ -][a-zé]+)*|No\. ?\d+|# ?\d+)\s*[)\]]$"
)
_IDENTIFIER = re.compile(r"[\s_,(\[]+(?:mp|mvc|icsd|cod|oqmd)[-_ #]*\d+\s*[)\]]?$", re.IGNORECASE)
_FOOTNOTES = re.compile(r"[*†‡§¶#]+$")
_ISOTOPE = re.compile(r"(?<![A-Za-z0-9)\]])\^\{?(\d{1,3})\}?(?=[A-Z])")
_CHARGES = re.compile(
    r"\^\{?\s*(?:[+-]\d+|\d*[+-])\s*\}?|\((?:\d[+-]|[+-]\d?)\)(?=$|[\d.)\]])|\s\d?[+-]$"
)
_ROMAN = re.compile(
    r"(?<=[A-Za-z\d)])\((?:II|III|IV|VI|VII|VIII|ii|iii|iv|vi|vii|viii)\)|\^\{?[IV]+\}?"
    r"|(?<=[A-Za-z\d])I{2,3}(?![a-z])"
)
_UNCERTAIN = re.compile(r"(\d\.\d+)\(\d{1,3}\)")
_FRACTION = re.compile(r"(?<=[A-Za-z)\]·])(\d{1,2})/(\d{1,2})(?=[A-Z()\[\]·]|$)")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_EXPONENT = re.compile(r"(?<=[A-Za-z)\]])(\d+\.?\d*)[eE](-?\d{1,2})(?![\d.])")
_PART_OF_WATER = re.compile(r"\.(?=\d{1,2}/\d{1,2}\s*\(?H2O)")
_BLANK_DOT = re.compile(r"\s+\.\s+|\.\s+(?=[A-Z\d(\[])")
_TIMES = re.compile(r"\s+x\s*(?=\d*\.?\d*\s*H\s*2\s*O)|(?<=\d)x(?=\d+\.?\d*\s*H2O)")


def plain_typography(text: str) -> str:
    """Return a formula without subscripts, wide letters, tags, LaTeX, quotes and odd dots.

    Raised characters become `^{...}`, whatever joins adducts `·`, and dashes `-`.
    """
    plain = _RAISED_RUN.sub(lambda run: f"^{{{run.group().translate(_RAISED)}}}", text)
    plain = _VULGAR.sub(_vulgar, html.unescape(plain) if "&" in plain else plain)
    plain = unicodedata.normalize("NFKC", plain)
    plain = "".join(sign for sign in plain if unicodedata.category(sign) != "Cf")
    for pattern, new in _TAGS:
        plain = pattern.sub(new, plain)
    if any(sign in plain for sign in "\\$_"):
        plain = _LATEX_GREEK.sub(lambda name: _GREEK[name.group(1)], plain)
        for pattern, new in _LATEX:
            plain = pattern.sub(new, plain)
    plain = _DASHES.sub("-", " ".join(plain.split()))
    while len(plain) > 1 and (plain[0] in _QUOTES and plain[-1] in _QUOTES):
        plain = plain[1:-1].strip()
    return plain


def take_off(text: str, notes: list[str]) -> str:
    """Return a formula without what is no part of its composition; `notes` says what that was."""
    plain = _note(_FOOTNOTES, text, notes, "the mark")
    plain = plain.rstrip(" ;,.:")
    if _PREFIX.match(plain):
        plain = _note(_PREFIX, plain, notes, "the name of a phase")
    plain = _note(_IDENTIFIER, plain, notes, "the identifier")
    for pattern in (_SUFFIX, _SUFFIX, _NAME):
        plain = _note(pattern, plain, notes, "the name of a phase")
    plain = _DOTS.sub("·", plain)
    plain = _note(_ISOTOPE, plain, notes, "the mass number")
    plain = _note(_CHARGES, plain, notes, "the charge")
    plain = _note(_ROMAN, plain, notes, "the oxidation number")
    return plain.strip()


def plain_numbers(text: str, notes: list[str]) -> str:
    """Return a formula whose amounts are plain decimals; `notes` says what they were."""
    text = _PART_OF_WATER.sub("·", text)
    plain = _EXPONENT.sub(lambda m: _decimal(float(f"{m[1]}e{m[2]}")), text)
    if _UNCERTAIN.search(plain):
        shown = _UNCERTAIN.search(plain)
        assert shown is not None
        notes.append(f"uncertainties are left out, as that of {shown.group()}")
        plain = _UNCERTAIN.sub(r"\1", plain)
    if _DECIMAL_COMMA.search(plain) and "." not in plain:
        notes.append("commas between digits were read as decimal points")
        plain = _DECIMAL_COMMA.sub(".", plain)
    found = _FRACTION.search(plain)
    if found and all(int(part[2]) for part in _FRACTION.finditer(plain)):
        notes.append(f"fractions were read as amounts, {found.group()} as one")
        plain = _FRACTION.sub(lambda m: _decimal(int(m[1]) / int(m[2])), plain)
    plain = _BLANK_DOT.sub("·", plain)
    return _TIMES.sub("·", plain)


def _vulgar(found: re.Match[str]) -> str:
    whole = unicodedata.normalize("NFKC", found[1])
    return _decimal(int(whole or 0) + unicodedata.numeric(found[2]))


def _decimal(value: float) -> str:
    return f"{value:.15f}".rstrip("0").rstrip(".")


def _note(pattern: re.Pattern[str], text: str, notes: list[str], what: str) -> str:
    found = pattern.match(text) if pattern is _PREFIX else pattern.search(text)
    if found is None or found.group() == text:
        return text
    if pattern in (_SUFFIX, _NAME) and parse_plain(re.sub(r"[^A-Za-z0-9]", "", found.group())):
        return text  # atoms, as (Fe), and not the name of a phase
    around = " ,_^{}()[]" + ("" if pattern is _CHARGES else "-")
    notes.append(f"{what} {found.group().strip(around)!r} is left out")
    return pattern.sub("", text, count=1 if pattern in (_PREFIX, _SUFFIX) else 0)
