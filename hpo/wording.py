"""Counts, numbers and foreign texts as a reader expects them in a sentence or a table."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# A reason, or another text of somebody else's, is cut to this many characters.
MAX_LINE = 1000
# Beyond this a float does not hold every whole number.
_EXACT = 2**53

# What a terminal obeys rather than shows, or shows in another order: control characters but for tab
# and line feed, and the marks of writing direction.
_CONTROLS = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F]
_CONTROLS += [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# A spreadsheet takes a cell that begins so for a formula, or drops the first sign and then does.
_FORMULA = re.compile(r"'*[=+\-@\t\r]", re.ASCII)


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
    line = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in _spaced(ends))
    if len(line) <= limit:
        return line
    head = 2 * limit // 3
    return f"{line[:head]} … {line[head + 3 - limit :]}"


def _spaced(text: str) -> str:
    """Return a text with one space where it has line ends, tabs or several spaces."""
    return " ".join(text.split())


# What most cells of a million are, and several of them in lines.
_PLAIN = re.compile(r"(?:[0-9A-Za-z][ -~]*|-[0-9]+\.?[0-9]*)?")
_PLAIN_LINES = re.compile(rf"{_PLAIN.pattern}(?:\n{_PLAIN.pattern})*")


def abridge(text: str, most: int = 200) -> str:
    """Return a text that a message quotes, cut if it is long."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def printable(text: str) -> str:
    """Return a text with control characters as escapes, which are those of JSON."""
    return text.translate(_ESCAPES)


def plain_cell(value: Any) -> Any:
    """Return a cell of a CSV file so that no spreadsheet takes it for a formula.

    A text that would be one gets an apostrophe before it; numbers, also in a text, stay as they
    are. `original_cell` undoes it.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _is_harmless(value):
        return f"'{value}"
    return value


def shown_cell(value: Any) -> Any:
    """Return a cell of a CSV file for people: no formula, and control characters as escapes."""
    if not isinstance(value, str) or _PLAIN.fullmatch(value):
        return value
    return plain_cell(printable(value))


def shown_cells(texts: list[str]) -> list[str]:
    """Return cells of a CSV file for people, as `shown_cell` returns each."""
    if _PLAIN_LINES.fullmatch("\n".join(texts)):
        return texts
    return [shown_cell(text) for text in texts]


def original_cell(text: str) -> str:
    """Return the text that `plain_cell` was given."""
    rest = text.removeprefix("'")
    return rest if rest != text and plain_cell(rest) == text else text


def _is_harmless(text: str) -> bool:
    # A dash alone often stands for what is missing.
    return len(text) == 1 or _NUMBER.fullmatch(text) is not None
