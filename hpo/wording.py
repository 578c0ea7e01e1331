"""Counts and numbers as a reader expects them in a sentence or a table."""

from __future__ import annotations

import math

# Beyond this a float does not hold every whole number.
_EXACT = 2**53


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 trial", "2 trials"; `plural` where it is no added s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def plain_number(value: float, spec: str) -> str:
    """Return a number by a format such as ".3f", but a whole one without decimals or exponent."""
    if math.isfinite(value) and float(value).is_integer() and abs(value) <= _EXACT:
        sign = "+" if spec.startswith("+") and value >= 0 else ""
        return f"{sign}{int(value)}"
    return f"{value:{spec}}"
