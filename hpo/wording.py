"""Counts and numbers as a reader expects them in a sentence or a table."""

from __future__ import annotations

import math

# A reason, or another text of somebody else's, is cut to this many characters.
MAX_LINE = 1000
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


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """Return a text as one printable line: escapes for control characters, its middle left out."""
    # A text of megabytes is not walked through for a line of it.
    ends = text if len(text) <= 4 * limit else f"{text[: 2 * limit]} … {text[-2 * limit :]}"
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in _spaced(ends)
    )
    if len(line) <= limit:
        return line
    head = 2 * limit // 3
    return f"{line[:head]} … {line[head + 3 - limit :]}"


def _spaced(text: str) -> str:
    """Return a text with one space where it has line ends, tabs or several spaces."""
    return " ".join(text.split())
