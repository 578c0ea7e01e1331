"""Numbers as they stand in tables of measurements, read as their whole column writes them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from features.intake.text import quote

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_THRESHOLD = re.compile(r"(<=|>=|<|>|≤|≥)\s*(.+)")
# Between the ends of a range. A minus sign is none: 10-3 may be a power of ten, as copied.
_RANGE = re.compile(r"(?<!\.)\.\.(?!\.)|…|–")
_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "none", "null", "missing", "-", "--", "?"})
_INFINITE = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "∞"})

# Thousands apart from each other: one to three digits, the first no zero, and then three at a time.
_GROUPED = r"[1-9]\d{{0,2}}(?:{0}\d{{3}})+"
_EXPONENT = r"(?:[eEdD][+-]?\d+)"


def _reading(decimal: str, group: str) -> re.Pattern[str]:
    decimal, group = re.escape(decimal), re.escape(group)
    plain = rf"(?:\d+{decimal}?\d*|{decimal}\d+){_EXPONENT}?"
    return re.compile(rf"[+-]?(?:{plain}|{_GROUPED.format(group)}(?:{decimal}\d*)?)", re.ASCII)


_READINGS = {".": _reading(".", ","), ",": _reading(",", ".")}
_OTHER = {".": ",", ",": "."}
_SPACED = re.compile(r"(?<![\d.,])" + _GROUPED.format(r"[ '’]") + r"(?![ '’]?\d)")
_TIMES_TEN = re.compile(
    r"(?:(.*\d[.,]?)\s*[×xX*·⋅]\s*10(?:\^\s*\(?|(?=[+-]))|([+-]?)10\^\(?)\s*([+-]?\d+)\)?"
)
_RAISED = dict(zip(map(ord, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"), "0123456789+-", strict=True))
_POWER = re.compile(r"10([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)$")

# Logarithms are kept to this many decimals: two machines' libraries may differ in the last bit,
# and a table's hash must not.
DECIMALS = 10


class NumberStyle(NamedTuple):
    """How the numbers of a column are written.

    `decimal` is the decimal sign, "" where it cannot be told; `example` is a number that has two
    readings, "" if there is none.
    """

    decimal: str = "."
    is_known: bool = False  # some number of the column itself tells it
    is_mixed: bool = False  # and others have the other sign
    example: str = ""
    remark: str = ""

    @property
    def is_ambiguous(self) -> bool:
        """Whether all numbers that have a point or a comma have two readings."""
        return bool(self.example) and not self.is_known

    def told_by(self, others: Mapping[str, str], separator: str) -> NumberStyle:
        """Return the style of an ambiguous column, from decimal signs of others or the separator.

        Parameters
        ----------
        others
            The decimal signs that other columns of the file have, and a column with each.
        separator
            What separates the file's fields.
        """
        has_commas = "," in self.example
        if len(others) == 1:
            ((decimal, other),) = others.items()
            why = f"as column {other!r} has them"
        elif not others and has_commas and separator == ";":
            decimal, why = ",", "as the fields are separated by semicolons"
        elif not others and not has_commas and separator != ";":
            decimal, why = ".", "as usual"
        else:
            return self._replace(decimal="")
        name = "points" if decimal == "." else "commas"
        remark = f"{_both(self.example)}: read with decimal {name}, {why}"
        return self._replace(decimal=decimal, remark=remark)


POINT = NumberStyle()


class StyleFinder:
    """Tells how the numbers among a column's fields are written; texts count for nothing.

    Parameters
    ----------
    marks
        Which of the signs "." and "," any of its fields has.
    """

    def __init__(self, marks: Set[str]) -> None:
        self._has_commas = "," in marks
        self._counts = {".": 0, ",": 0}
        self._shown = {".": "", ",": ""}
        self._example = ""
        self.is_settled = not marks  # more fields would change nothing

    def add(self, values: Iterable[str]) -> None:
        """Look at some more fields."""
        for value in values:
            if "." not in value and "," not in value:
                continue
            plain = normalise(_without_threshold(value))
            point, comma = (bool(_READINGS[sign].fullmatch(plain)) for sign in (".", ","))
            if point and comma:
                self._example = self._example or value
            elif point or comma:
                sign = "." if point else ","
                self._counts[sign] += 1
                self._shown[sign] = self._shown[sign] or value
                if point and not self._has_commas:
                    self.is_settled = True
                    return

    @property
    def style(self) -> NumberStyle:
        """How the numbers among all fields are written."""
        counts, shown, example = self._counts, self._shown, self._example
        if self.is_settled and counts["."]:
            return NumberStyle(".", is_known=True)
        if counts["."] == counts[","]:
            mixed = counts["."] > 0
            return NumberStyle("" if mixed else ".", mixed, mixed, example, _mixed(counts, shown))
        decimal = max(counts, key=lambda sign: counts[sign])
        is_mixed = min(counts.values()) > 0
        remark = _mixed(counts, shown)
        if decimal == "," and not is_mixed:
            remark = f"its numbers have decimal commas, as {quote(shown[','])}"
        return NumberStyle(decimal, True, is_mixed, example, remark)


def _mixed(counts: Mapping[str, int], shown: Mapping[str, str]) -> str:
    if not all(counts.values()):
        return ""
    return (
        f"{counts['.']} of its numbers have decimal points, as {quote(shown['.'])}, and "
        f"{counts[',']} commas, as {quote(shown[','])}"
    )


def _without_threshold(text: str) -> str:
    threshold = _THRESHOLD.fullmatch(text.strip())
    return threshold.group(2) if threshold else text


def normalise(text: str) -> str:
    """Return a number's text in ASCII: minus signs, powers of ten, blanks between thousands."""
    plain = text.strip()
    if plain.isascii() and _NUMBER.fullmatch(plain):
        return plain
    power = _POWER.search(plain)
    if power:
        plain = f"{plain[: power.start()]}10^{power.group(1).translate(_RAISED)}"
    elif any(ord(sign) in _RAISED for sign in plain):
        return plain  # raised digits that are no power of ten make no number
    plain = unicodedata.normalize("NFKC", plain)
    plain = plain.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    ten = _TIMES_TEN.fullmatch(plain)
    if ten:
        mantissa = ten.group(1) or f"{ten.group(2)}1"
        plain = f"{mantissa.strip()}e{ten.group(3)}"
    spaced = _SPACED.search(plain)
    if spaced and len({*spaced.group()} & {*" '’"}) == 1:
        joined = "".join(sign for sign in spaced.group() if sign.isdigit())
        plain = f"{plain[: spaced.start()]}{joined}{plain[spaced.end() :]}"
    return plain


def is_number(text: str) -> bool:
    """Whether a field is a number, with whichever decimal sign."""
    return _is_plain(_without_threshold(text))


def is_interval(text: str) -> bool:
    """Whether a field is a limit or a range of numbers, as `parse_interval` reads them."""
    return is_number(text) if _THRESHOLD.fullmatch(text.strip()) else _ends_of(text) is not None


def _is_plain(text: str) -> bool:
    plain = normalise(text)
    return any(pattern.fullmatch(plain) for pattern in _READINGS.values())


def _read(plain: str, decimal: str) -> float:
    digits = plain.replace(_OTHER[decimal], "").replace(decimal, ".")
    return float(re.sub("[dD]", "e", digits))


def _both(text: str) -> str:
    plain = normalise(_without_threshold(text))
    return f"{text!r} may be {_read(plain, '.'):.15g} or {_read(plain, ','):.15g}"


def is_missing(text: str) -> bool:
    """Return whether `text` is what programs write where there is no value."""
    return text.strip().lower() in _MISSING


def parse_number(text: str, what: str, style: NumberStyle = POINT) -> float:
    """Return the finite number that `text` writes, in the style of its column.

    Raises
    ------
    ValueError
        With the reason why `text` is none, beginning with `what`.
    """
    plain = normalise(text)
    if style.decimal == "." and _NUMBER.fullmatch(plain):
        readings = ["."] if not style.is_mixed else _readings(plain)
    else:
        _refuse_none(plain, text, what)
        readings = _readings(plain)
    if not readings:
        raise ValueError(f"{what} {quote(text)}: it is not a number")
    decimal = style.decimal if style.decimal in readings else ""
    is_told = style.is_known or bool(style.remark) or "," not in plain
    if len(readings) == 2 and not (decimal and is_told and not style.is_mixed) and _differ(plain):
        raise ValueError(
            f"{what}: {_both(text)}, and the column does not tell; write all of it with decimal "
            "points, and without separators of thousands"
        )
    if len(readings) == 2 and not decimal:
        decimal = "."  # both are the same number
    if not decimal:
        wanted = "comma" if style.decimal == "," else "point"
        raise ValueError(f"{what} {quote(text)}: {_unlike(style, wanted)}")
    value = _read(plain, decimal)
    if math.isinf(value):
        raise ValueError(f"{what} {quote(text)}: it is infinite as a 64-bit number")
    return value


def _unlike(style: NumberStyle, wanted: str) -> str:
    if not style.decimal:
        return f"{style.remark}; write all of it with decimal points"
    other = "point" if wanted == "comma" else "comma"
    return f"it is not a number; write a decimal {wanted}, not a {other}"


def _readings(plain: str) -> list[str]:
    return [sign for sign, pattern in _READINGS.items() if pattern.fullmatch(plain)]


def _differ(plain: str) -> bool:
    return _read(plain, ".") != _read(plain, ",")


def _refuse_none(plain: str, text: str, what: str) -> None:
    if is_missing(plain):
        raise ValueError(f"{what} {text!r}: it is missing")
    if plain.lower() in _INFINITE:
        raise ValueError(f"{what} {text!r}: it is infinite")


def parse_target(
    text: str, *, log10: bool, style: NumberStyle = POINT, what: str = "target"
) -> tuple[float, bool]:
    """Return the target's value, and whether it was given as a threshold such as `<1E-10`.

    A threshold counts as the value. With `log10` the value is the decimal logarithm. Reasons call
    it `what`.

    Raises
    ------
    ValueError
        With the reason why `text` gives no value.
    """
    threshold = _THRESHOLD.fullmatch(text.strip())
    if threshold is None and _ends_of(text):
        raise ValueError(
            f'{what} {quote(text)}: it is a range, no value; censored = "interval" in [table] '
            "takes it as one, of a single target"
        )
    value = parse_number(threshold.group(2) if threshold else text, what, style)
    if not log10:
        return value, threshold is not None
    return log10_of(value, what), threshold is not None


def parse_interval(
    text: str, *, log10: bool, style: NumberStyle = POINT
) -> tuple[float, float, float]:
    """Return the target's value, and the lower and the upper bound of what is known of it.

    All three are one number where it is measured. Of a limit such as `<1E-10` the value is that
    limit, and the other bound is infinite; of a range such as `1e-10..1e-9` or `1–2` it
    is the middle. Ends belong to intervals. With `log10` all are decimal logarithms.

    Raises
    ------
    ValueError
        With the reason why `text` gives no interval.
    """
    threshold = _THRESHOLD.fullmatch(text.strip())
    ends = None if threshold else _ends_of(text)
    if ends is None:
        value, is_limit = parse_target(text, log10=log10, style=style)
        if threshold is None or not is_limit:
            return value, value, value
        below = threshold.group(1) in ("<", "<=", "≤")
        return (value, -math.inf, value) if below else (value, value, math.inf)
    lower, upper = (parse_target(end, log10=log10, style=style)[0] for end in ends)
    if lower > upper:
        raise ValueError(f"target {quote(text)}: a range must begin with its lower end")
    middle = lower / 2.0 + upper / 2.0
    value = round(middle, DECIMALS) if log10 else middle
    # Halves of the smallest numbers are rounded, too.
    return min(max(value, lower), upper), lower, upper


def _ends_of(text: str) -> tuple[str, str] | None:
    """Return the ends of a range; None for a number, and for what has not just two ends."""
    if not _RANGE.search(text) or is_number(text):
        return None
    found = [
        (text[: sign.start()], text[sign.end() :])
        for sign in _RANGE.finditer(text)
        if _is_plain(text[: sign.start()]) and _is_plain(text[sign.end() :])
    ]
    return found[0] if len(found) == 1 else None


def log10_of(value: float, what: str) -> float:
    """Return the decimal logarithm of `value`, to `DECIMALS` decimals.

    Raises
    ------
    ValueError
        `value` is not above 0.
    """
    if value <= 0.0:
        raise ValueError(f"{what} {value:g}: it must be above 0 for a logarithm")
    return round(math.log10(value), DECIMALS)
