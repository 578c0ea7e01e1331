"""Formulas read as pymatgen reads them, and many of them held in three arrays."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ELEMENTS, HEAVIER

SYMBOLS = (*ELEMENTS, *HEAVIER)
_POSITION = {symbol: position for position, symbol in enumerate(SYMBOLS)}

_TOKEN = re.compile(r"[A-Z][a-z]?[0-9.]*|\(|\)[0-9.]*")
_ROUND = str.maketrans("[]{}", "()()")
# pymatgen drops what is less, and writes what is more in a way that it cannot read again.
_LEAST, _MOST = 1e-8, 1e15

_PAIRWISE = 8  # numpy adds up fewer numbers than these one after the other


def parse_plain(text: str) -> dict[str, float] | None:
    """Return the atoms of each element in a formula of symbols, plain numbers and brackets.

    None for any other text. The sums are pymatgen's, in its order: a bracket is multiplied out
    before what is around it.
    """
    tokens = _TOKEN.findall(text)
    if sum(map(len, tokens)) != len(text):
        if "[" not in text and "{" not in text:
            return None
        text = text.translate(_ROUND)
        tokens = _TOKEN.findall(text)
        if sum(map(len, tokens)) != len(text):
            return None
    try:
        amounts = _add_up(tokens) if "(" in text else _add(map(_read_token, tokens), 1.0)
    except (ValueError, IndexError):
        return None
    if not amounts or min(amounts.values()) < _LEAST:
        amounts = {symbol: amount for symbol, amount in amounts.items() if amount >= _LEAST}
    return amounts if amounts and sum(amounts.values()) < _MOST else None


def parse_formula(text: str) -> dict[str, float]:
    """Return the atoms of each element in a formula that a program wrote: a plain one.

    Raises
    ------
    ValueError
        If it is none.
    """
    amounts = parse_plain(text)
    if amounts is None:
        raise ValueError(f"formula {text!r}: cannot be read; write it like Li7La3Zr2O12")
    return amounts


def _add_up(tokens: Iterable[str]) -> dict[str, float]:
    """Multiply brackets out, the innermost first; IndexError or ValueError if they do not match."""
    levels: list[list[tuple[str, float]]] = [[]]
    for token in tokens:
        if token == "(":
            levels.append([])
        elif token[0] == ")":
            inner = levels.pop()
            factor = float(token[1:] or 1.0)
            found = _add(inner, factor)
            # pymatgen writes these numbers into the formula, and knows no empty bracket.
            if not inner or max(found.values()) >= _MOST:
                raise ValueError
            levels[-1] += found.items()
        else:
            levels[-1].append(_read_token(token))
    (outermost,) = levels
    return _add(outermost, 1.0)


def _add(parts: Iterable[tuple[str, float]], factor: float) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for symbol, amount in parts:
        amounts[symbol] = amounts.get(symbol, 0.0) + amount * factor
    return amounts


@lru_cache(maxsize=65536)
def _read_token(token: str) -> tuple[str, float]:
    """Split a token such as "Li0.5"; ValueError if it is none. Isotopes are none."""
    symbol = token[:2] if token[1:2].islower() else token[:1]
    if symbol not in _POSITION:
        raise ValueError
    amount = token[len(symbol) :]
    return symbol, float(amount) if amount else 1.0


class Compositions(Sequence[Mapping[str, float]]):
    """The atoms of each element in many formulas, each in the order in which it names them.

    A sequence of mappings from symbol to amount, kept as three arrays.

    Attributes
    ----------
    starts : integer array of shape (n_formulas + 1,)
        Where each formula begins in the other two, and where the last one ends.
    elements : integer array of shape (n_parts,)
        Positions in `SYMBOLS`.
    amounts : array of shape (n_parts,)
    """

    def __init__(
        self,
        starts: NDArray[np.int64],
        elements: NDArray[np.uint8],
        amounts: NDArray[np.float64],
    ) -> None:
        self.starts, self.elements, self.amounts = starts, elements, amounts

    @classmethod
    def of(cls, mappings: Iterable[Mapping[str, float]]) -> Compositions:
        """Put mappings, of symbols in `SYMBOLS`, one after the other."""
        growing = GrowingCompositions()
        for mapping in mappings:
            growing.append(mapping)
        return growing.finish()

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, row: int) -> Mapping[str, float]: ...
    @overload
    def __getitem__(self, row: slice) -> Compositions: ...
    def __getitem__(self, row: int | slice) -> Mapping[str, float] | Compositions:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        part = slice(self.starts[row], self.starts[row + 1])
        symbols = [SYMBOLS[position] for position in self.elements[part]]
        return dict(zip(symbols, self.amounts[part].tolist(), strict=True))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of elements in each formula."""
        return np.diff(self.starts)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which formula each part belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def totals(self) -> NDArray[np.float64]:
        """Number of atoms in each formula, added up in its order."""
        totals: Any = np.bincount(self.rows, weights=self.amounts, minlength=len(self))
        return np.asarray(totals, dtype=np.float64)

    def take(self, rows: NDArray[np.int64]) -> Compositions:
        """Return the formulas at these positions, in this order."""
        counts = self.counts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        parts = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return Compositions(starts, self.elements[parts], self.amounts[parts])

    def by_count(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the formulas with each number of elements, and their parts.

        Of shapes (n,) and (n, n_elements).
        """
        counts = self.counts
        for count in np.unique(counts):
            rows = np.flatnonzero(counts == count)
            yield rows, self.starts[rows][:, None] + np.arange(count)

    @property
    def hash(self) -> str:
        """SHA-256 of the formulas, in hex."""
        pieces = (self.starts.astype("<i8"), self.elements, self.amounts.astype("<f8"))
        return hashlib.sha256(b"".join(piece.tobytes() for piece in pieces)).hexdigest()


class GrowingCompositions:
    """Compositions that come one by one."""

    def __init__(self) -> None:
        self._starts, self._elements, self._amounts = array("q", [0]), array("B"), array("d")

    def append(self, amounts: Mapping[str, float]) -> None:
        """Put the amounts of symbols in `SYMBOLS` at the end."""
        self._elements.extend([_POSITION[symbol] for symbol in amounts])
        self._amounts.extend(amounts.values())
        self._starts.append(len(self._elements))

    def finish(self) -> Compositions:
        """Return all that were appended."""
        return Compositions(
            np.array(self._starts, dtype=np.int64),
            np.array(self._elements, dtype=np.uint8),
            np.array(self._amounts, dtype=np.float64),
        )


def add_up(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the first axis, to the bit what numpy's sum of each vector along it is.

    A sum over many rows at once would add in an order of its own; a matrix product in one that
    depends on the machine and on the number of rows.
    """
    if len(terms) < _PAIRWISE:
        total: NDArray[np.float64] = terms[0].copy()
        for term in terms[1:]:
            total += term
        return total
    vectors = np.ascontiguousarray(np.moveaxis(terms, 0, -1))
    return np.asarray(vectors.sum(axis=-1))
