"""Variables of a formula whose values stand beside it, as in La1-xSrxMnO3 (x = 0.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from features.chemistry.formulas import SYMBOLS

_NAME = r"[a-zα-ω]"
_VALUE = r"(?:\d+/\d+|\d*[.,]?\d+)"
_SAID = rf"{_NAME}\s*=\s*{_VALUE}"
_BESIDE = re.compile(
    rf"(.*?[^\s,;:])[\s,;:]*[(\[]?\s*(?:(?:with|for|where|at)\s+)?"
    rf"({_SAID}(?:(?:\s*[,;]\s*|\s+and\s+|\s+){_SAID})*)\s*[)\]]?$"
)
_ONE = re.compile(rf"({_NAME})\s*=\s*({_VALUE})")


def put_in_values(text: str, notes: list[str]) -> str:
    """Return a formula with the values that stand behind it; `notes` says which these were.

    The text as it is where no value stands behind it. What remains is a formula whose amounts are
    decimals; numbers before its parts, as in (1-x)BiFeO3-xBaTiO3, are numbers of these.

    Raises
    ------
    ValueError
        If a variable with a value is not in the formula, or an amount would be negative.
    """
    found = _BESIDE.fullmatch(text)
    if found is None:
        return text
    values = {name: _number(value) for name, value in _ONE.findall(found[2])}
    formula, used = _replace(found[1], values)
    unused = sorted(values.keys() - used)
    if unused:
        raise ValueError(f"its variable {unused[0]!r} has a value, but is no amount in it")
    said = ", ".join(f"{name} = {value:g}" for name, value in values.items())
    notes.append(f"with {said}")
    return formula


def _number(text: str) -> float:
    whole, _, divisor = text.replace(",", ".").partition("/")
    if divisor and not int(divisor):
        raise ValueError(f"{text} is no number")
    return float(whole) / float(divisor or 1.0)


def _replace(formula: str, values: Mapping[str, float]) -> tuple[str, set[str]]:
    """Return a formula with the values of its variables, and the names of those that it has."""
    formula = re.sub(r"\((\d+/\d+)\)(?=[+-])", r"\1", formula)
    names = "".join(values)
    term = rf"(?:(?:\d*\.?\d+)?[{names}]|\d*\.?\d+)(?:/\d+)?"
    expression = rf"[+-]?{term}(?:[+-]{term})*"
    # In a mixture, the number behind a dash is of what follows: O3-xBaTiO3 is not O(3-x).
    is_mixture = re.match(rf"\(?(?:{expression})\)?(?=[A-Z(])", formula) and re.search(
        rf"[-+·]\s*\(?(?:{expression})\)?[A-Z(]", formula
    )
    symbols = "|".join(sorted(SYMBOLS, key=len, reverse=True))
    numbers = (
        rf"\(({expression})\)|({term})" if is_mixture else rf"\(({expression})\)|({expression})"
    )
    used: set[str] = set()

    def one(found: re.Match[str]) -> str:
        written = found[1] or found[2]
        here = {name for name in values if written and name in written}
        if not here:
            return found[0]
        used.update(here)
        amount = _amount(written, values)
        if amount < 0.0:
            raise ValueError(f"its amount {written} is {amount:g} with these values")
        return f"{amount:.12f}".rstrip("0").rstrip(".")

    return re.sub(rf"(?:{symbols})|{numbers}", one, formula), used


def _amount(written: str, values: Mapping[str, float]) -> float:
    total = 0.0
    for sign, number, name, divisor in re.findall(
        r"([+-]?)(\d*\.?\d*)([^\W\d]?)(?:/(\d+))?", written
    ):
        if not number and not name:
            continue
        size = float(number or 1.0) * (values[name] if name else 1.0) / float(divisor or 1.0)
        total += -size if sign == "-" else size
    return round(total, 12)
