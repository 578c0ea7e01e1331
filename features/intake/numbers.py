"""Numbers as they stand in tables of measurements."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_THRESHOLD = re.compile(r"(<=|>=|<|>|≤|≥)\s*(.+)")
MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "none", "null", "missing", "-", "--", "?"})
_INFINITE = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "∞"})

# Logarithms are kept to this many decimals: two machines' libraries may differ in the last bit,
# and a table's hash must not.
DECIMALS = 10


def parse_number(text: str, what: str) -> float:
    """Return the finite number that `text` writes.

    Raises
    ------
    ValueError
        With the reason why `text` is none, beginning with `what`.
    """
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    if plain.lower() in MISSING:
        raise ValueError(f"{what} {text!r}: it is missing")
    if plain.lower() in _INFINITE:
        raise ValueError(f"{what} {text!r}: it is infinite")
    if not _NUMBER.fullmatch(plain):
        hint = "; write a decimal point, not a comma" if "," in plain else ""
        raise ValueError(f"{what} {text!r}: it is not a number{hint}")
    value = float(plain)
    if math.isinf(value):
        raise ValueError(f"{what} {text!r}: it is infinite as a 64-bit number")
    return value


def parse_target(text: str, *, log10: bool) -> tuple[float, bool]:
    """Return the target's value, and whether it was given as a threshold such as `<1E-10`.

    A threshold counts as the value. With `log10` the value is the decimal logarithm.

    Raises
    ------
    ValueError
        With the reason why `text` gives no value.
    """
    threshold = _THRESHOLD.fullmatch(text.strip())
    value = parse_number(threshold.group(2) if threshold else text, "target")
    if not log10:
        return value, threshold is not None
    return log10_of(value, "target"), threshold is not None


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
