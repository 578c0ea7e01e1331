"""CIF as a syntax: blocks, items, loops and numbers; nothing here knows a crystal.

Hall, Allen and Brown, Acta Cryst. A 47, 655 (1991); the names of data items are read without
regard to case, and a dot in one (of mmCIF, and of the newer dictionaries) as an underscore.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Lists of reflections make a file of some MB; what is longer would take minutes to read.
MAX_TEXT_BYTES = 50_000_000

_TOKEN = re.compile(r"""\s*(?:(?P<comment>\#.*)|'(.*?)'(?!\S)|"(.*?)"(?!\S)|(?P<bare>\S+))""")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)(?:\((\d+)\)?)?")
_FRACTION = re.compile(r"([+-]?\d{1,3})/(\d{1,3})")

UNKNOWN, INAPPLICABLE = "?", "."
NULLS = frozenset({UNKNOWN, INAPPLICABLE, ""})


class Number(NamedTuple):
    """A number with what its text says of how well it is known."""

    value: float
    unit: float  # one in its last place; 0 for a whole number or a fraction, which are exact
    esd: float  # its standard uncertainty, 0 where none is given


@dataclass
class Block:
    """One data block: its values by lower-case name, a list for each, and what is wrong of which.

    `broken` names the items whose values cannot be trusted, with the reason.
    """

    name: str
    values: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def column(self, *names: str) -> list[str] | None:
        """Return the values of the first of these names that has any.

        Raises
        ------
        ValueError
            They cannot be trusted: the loop is cut off, or the item is there twice.
        """
        for name in names:
            if name in self.broken:
                raise ValueError(self.broken[name])
            if self.values.get(name):
                return self.values[name]
        return None

    def one(self, *names: str) -> str | None:
        """Return the value of the first of these names that has one which is not null."""
        for name in names:
            values = self.column(name)
            if values and values[0] not in NULLS:
                return values[0]
        return None


class _Token(NamedTuple):
    text: str
    line: int
    bare: bool  # neither in quotation marks nor a text field


def decode_cif(cif: bytes) -> str:
    """Return the text of a CIF, whatever wrote it."""
    if cif.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return cif.decode("utf-16", errors="replace")
    try:
        return cif.decode("utf-8-sig")
    except UnicodeDecodeError:
        return cif.decode("latin-1")


def read_blocks(cif: bytes) -> list[Block]:
    """Return the data blocks of a CIF.

    Raises
    ------
    ValueError
        The text is no CIF, with the line from which on it is none.
    """
    if len(cif) > MAX_TEXT_BYTES:
        raise ValueError(
            f"its {len(cif) / 1e6:.0f} MB are more than the {MAX_TEXT_BYTES / 1e6:g} MB of a CIF "
            "that is read"
        )
    blocks: list[Block] = []
    tokens = _Stream(_tokens(decode_cif(cif)))
    while (token := tokens.next()) is not None:
        word = token.text.lower() if token.bare else ""
        if word.startswith("data_"):
            blocks.append(Block(token.text[len("data_") :]))
        elif not blocks:
            raise ValueError(f"line {token.line}: {_shown(token)} before the first data_")
        elif word == "loop_":
            _read_loop(blocks[-1], token.line, tokens)
        elif word.startswith("_"):
            _read_item(blocks[-1], token, tokens)
        elif not word.startswith(("save_", "global_", "stop_")):
            raise ValueError(f"line {token.line}: {_shown(token)} belongs to no item")
    if not blocks:
        raise ValueError("it has no data_ block")
    return blocks


def number(text: str, what: str) -> Number:
    """Return a number of a CIF, such as `5.43`, `1.2(3)` or `1/3`.

    Raises
    ------
    ValueError
        It is none, or is not known.
    """
    if text in NULLS:
        raise ValueError(f"{what} is not given ({text!r})")
    if match := _FRACTION.fullmatch(text):
        if int(match[2]) == 0:
            raise ValueError(f"{what}: {text!r} is no number")
        return Number(int(match[1]) / int(match[2]), 0.0, 0.0)
    match = _NUMBER.fullmatch(text)
    if match is None or math.isinf(float(match[1])):
        advice = "; a decimal point is needed" if "," in text else ""
        raise ValueError(f"{what}: {text[:30]!r} is no number{advice}")
    mantissa, _, exponent = match[1].lower().partition("e")
    places = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - places)
    esd = float(match[2]) * unit if match[2] else 0.0
    return Number(float(match[1]), unit if places or exponent else 0.0, esd)


class _Stream:
    """Tokens that can be looked at before they are taken."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self._tokens = tokens
        self._ahead: _Token | None = next(tokens, None)

    def peek(self) -> _Token | None:
        return self._ahead

    def next(self) -> _Token | None:
        token, self._ahead = self._ahead, next(self._tokens, None)
        return token

    def at_value(self) -> bool:
        """Return whether the next token is a value, neither a name nor a reserved word."""
        token = self._ahead
        if token is None or not token.bare:
            return token is not None
        word = token.text.lower()
        return not (word == "loop_" or word.startswith(("_", "data_", "save_", "global_", "stop_")))


def _tokens(text: str) -> Iterator[_Token]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    field_lines: list[str] = []
    opened = 0  # the line on which a text field began, or 0
    for position, full in enumerate(lines, start=1):
        line = full
        if line.startswith(";"):
            if not opened:
                opened, field_lines = position, [line[1:]]
                continue
            yield _Token("\n".join(field_lines).strip(), opened, bare=False)
            opened, line = 0, line[1:]
        elif opened:
            field_lines.append(line)
            continue
        for match in _TOKEN.finditer(line):
            bare = match["bare"]
            if bare is not None:
                yield _Token(bare, position, bare=True)
            elif match["comment"] is None:
                yield _Token(match[2] if match[2] is not None else match[3], position, bare=False)
    if opened:
        raise ValueError(f"line {opened}: the text field that begins there is never closed")


def _read_item(block: Block, name: _Token, tokens: _Stream) -> None:
    values: list[_Token] = []
    while tokens.at_value():
        token = tokens.next()
        assert token is not None
        # What follows on another line belongs to nothing.
        if values and token.line != values[-1].line:
            raise ValueError(f"line {token.line}: {_shown(token)} belongs to no item")
        values.append(token)
    text = " ".join(token.text for token in values)
    if len(values) > 1:
        block.remarks.append(f"line {name.line}: {name.text} is taken for {text[:40]!r}")
    _put(block, _key(name.text), [text], name.line)


def _read_loop(block: Block, line: int, tokens: _Stream) -> None:
    heads: list[_Token] = []
    while (token := tokens.peek()) is not None and token.bare and token.text.startswith("_"):
        heads.append(token)
        tokens.next()
    first = tokens.peek() if tokens.at_value() else None
    if first is not None and len(heads) > 1 and heads[-2].line < heads[-1].line == first.line:
        # A name with its value on a line of its own is no column: the loop before it is empty.
        block.remarks.append(f"line {line}: a loop_ without values")
        _read_item(block, heads[-1], tokens)
        return
    names = [_key(head.text) for head in heads]
    values = []
    while tokens.at_value():
        token = tokens.next()
        assert token is not None
        values.append(token.text)
    if not names:
        if values:
            raise ValueError(f"line {line}: a loop_ without names")
        return
    for position, name in enumerate(names):
        _put(block, name, values[position :: len(names)], line)
    if len(values) % len(names):
        reason = f"line {line}: a loop of {len(names)} columns has {len(values)} values"
        block.broken.update(dict.fromkeys(names, reason))


def _put(block: Block, name: str, values: Sequence[str], line: int) -> None:
    if block.values.get(name, values) != values:
        block.broken[name] = f"line {line}: {name} is there twice, with different values"
    block.values[name] = list(values)


def _key(name: str) -> str:
    return name.lower().replace(".", "_").rstrip("_")


def _shown(token: _Token) -> str:
    return repr(token.text[:30])
