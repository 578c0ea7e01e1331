"""CSV files as people have them, read without losing a line.

Separators `,`, `;`, tab and `|`, told by header and records together; comments and titles above
the header; encodings as `features.intake.text` has them; any line end; quoted fields with line
breaks. Whatever cannot be read is reported with its line, and whatever had to be guessed is a
remark.
"""

from __future__ import annotations

import csv
import difflib
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from features.errors import DatasetError
from features.intake.dialect import Dialect, Piece, find_dialect, fit, pieces
from features.intake.foreign_files import Content, InMemory
from features.intake.numbers import NumberStyle, StyleFinder, is_number, parse_number
from features.intake.text import MOST_QUOTED, Text, decode, normal_form, quote

MAX_FIELD = 100_000_000  # characters

_BLOCK_RECORDS = 1024  # that are looked at together
_MOST_COLUMNS_SHOWN = 30
# What spreadsheets write for an error begins as a comment does.
_COMMENTED = re.compile(r"#(?!(N/A|DIV/0!|REF!|VALUE!|NAME\?|NUM!|NULL!))")


class Record(NamedTuple):
    """One record of a CSV file; `line` is where it begins, the first of the file being line 1."""

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class CsvFile:
    """A parsed CSV file: its columns, its records, and the lines that are no records.

    `remarks` says what had to be guessed to read it.
    """

    name: str
    columns: tuple[str, ...]
    records: Sequence[Record] | Records
    malformed: tuple[tuple[int, str], ...]  # (line, reason)
    encoding: str
    separator: str = ","
    remarks: tuple[str, ...] = ()
    marks: tuple[frozenset[str], ...] = ()  # which of "." and "," each column has in its fields

    def position(self, column: str, purpose: str) -> int:
        """Return where `column` is; its absence is a DatasetError that names the nearest one."""
        return self.naming({column: purpose}).columns.index(column)

    def values(self, column: str) -> list[str]:
        """Return the fields of a column, of length n_records."""
        position = self.columns.index(column)
        return [record.fields[position] for record in self.records]

    def naming(self, purposes: Mapping[str, str]) -> CsvFile:
        """Return the file with its columns named as they are asked for, with their purposes.

        A column is asked for by its very name, or else by a name that differs in case, blanks or
        Unicode's forms alone, which is a remark.

        Raises
        ------
        DatasetError
            Naming all columns that are not there once, and the nearest to each.
        """
        columns, remarks = list(self.columns), list(self.remarks)
        problems: list[str] = []
        absent = False
        for column, purpose in purposes.items():
            alike = self._find(column)
            what = f"column {column!r}, the {purpose},"
            if len(alike) > 1:
                spelled = [self.columns[position] for position in alike]
                if len({*spelled}) == 1:
                    problems.append(f"{what} is there {len(alike)} times; rename all but one")
                else:
                    shown = " and ".join(map(repr, spelled))
                    problems.append(f"{what} may be {shown}; write it as one of them is")
            elif not alike:
                absent = True
                nearest = difflib.get_close_matches(column, self.columns, n=1, cutoff=0.0)
                problems.append(
                    f"there is no column {column!r} for the {purpose}; "
                    f"the nearest is {quote(nearest[0])}"
                )
            elif columns[alike[0]] != column:
                remarks.append(f"column {columns[alike[0]]!r} was taken for {column!r}")
                columns[alike[0]] = column
        if problems:
            there = f". Columns: {self.listed()}{self._hint()}" if absent else ""
            raise DatasetError(f"{self.name}: {'; '.join(problems)}{there}")
        return replace(self, columns=tuple(columns), remarks=tuple(remarks))

    def find(self, names: Sequence[str]) -> str | None:
        """Return the first column that is called one of `names`, or None."""
        for name in names:
            alike = self._find(name)
            if alike:
                return self.columns[alike[0]]
        return None

    def listed(self) -> str:
        """Return the names of the columns as a message lists them."""
        shown = ", ".join(
            column if len(column) <= MOST_QUOTED else quote(column)
            for column in self.columns[:_MOST_COLUMNS_SHOWN]
        )
        n_more = len(self.columns) - _MOST_COLUMNS_SHOWN
        return f"{shown}, and {n_more} more" if n_more > 0 else shown

    def number(self, column: str, text: str) -> float | None:
        """Return the number that a field of a column is; None for a text.

        Raises
        ------
        ValueError
            It has two readings, or is too large.
        """
        if not is_number(text):
            return None
        if column not in self._known_styles:
            self._known_styles[column] = self.style(column)
        return parse_number(text, column, self._known_styles[column])

    def style(self, column: str) -> NumberStyle:
        """Return how the numbers of a column are written; where it cannot tell, others do."""
        return self.styles([column])[column]

    def styles(self, columns: Sequence[str]) -> dict[str, NumberStyle]:
        """Return how the numbers of some columns are written, by column; see `style`."""
        own = self._find_styles(columns)
        if not any(style.is_ambiguous for style in own.values()):
            return own
        others = self._find_styles(self.columns)
        told = {}
        for column, style in own.items():
            signs: dict[str, str] = {}
            for other, known in others.items():
                if other != column and known.is_known and known.decimal:
                    signs.setdefault(known.decimal, other)
            told[column] = style.told_by(signs, self.separator) if style.is_ambiguous else style
        return told

    def _find_styles(self, columns: Sequence[str]) -> dict[str, NumberStyle]:
        """Return what columns tell by themselves, from one walk through the file at most."""
        position = {column: self.columns.index(column) for column in dict.fromkeys(columns)}
        finders = {column: StyleFinder(self.marks[at]) for column, at in position.items()}
        records = iter(self.records)
        while left := [column for column, finder in finders.items() if not finder.is_settled]:
            block = [record.fields for record in islice(records, _BLOCK_RECORDS)]
            if not block:
                break
            for column in left:
                at = position[column]
                finders[column].add([fields[at] for fields in block])
        return {column: finder.style for column, finder in finders.items()}

    def _find(self, column: str) -> list[int]:
        exact = [at for at, name in enumerate(self.columns) if name == column]
        return exact or self._by_normal_form.get(normal_form(column), [])

    @cached_property
    def _known_styles(self) -> dict[str, NumberStyle]:
        return {}

    @cached_property
    def _by_normal_form(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, name in enumerate(self.columns):
            found.setdefault(normal_form(name), []).append(position)
        return found

    def _hint(self) -> str:
        """Return what may be wrong with the header."""
        if any(map(is_number, self.columns)):
            return ". Its first line has numbers: is the header missing?"
        if len(self.columns) == 1 and len(self.columns[0].split()) > 1:
            return ". Are its columns separated by blanks? Separate them by commas"
        return ""


def parse_csv(name: str, data: bytes) -> CsvFile:
    """Parse the bytes of the file called `name`.

    Raises
    ------
    DatasetError
        It is empty, is no text, or has no row below its header; or needs more memory than there
        is.
    """
    try:
        csv = scan_csv(name, InMemory(data))
        return replace(csv, records=tuple(csv.records))
    except MemoryError as exc:
        raise DatasetError(
            f"{name}: reading its {len(data) / 1e6:g} MB takes more memory than there is; leave "
            "out columns or rows"
        ) from exc


def scan_csv(name: str, content: Content) -> CsvFile:
    """Look through the file called `name`; its records are read anew whenever they are asked for.

    Raises
    ------
    DatasetError
        As `parse_csv` does.
    """
    text = decode(name, content)
    with _long_fields():
        dialect = find_dialect(name, text.head)
    width = len(dialect.columns)
    while width > 1 and not dialect.columns[width - 1]:
        width -= 1
    malformed: list[tuple[int, str]] = []
    counts = {is_comment: _Counted(width) for is_comment in (False, True)}
    commented = array("q")
    found = _read(text, dialect, malformed)
    while block := list(islice(found, _BLOCK_RECORDS)):
        comments = [record for record in block if _COMMENTED.match(record.fields[0])]
        if comments:
            commented.extend(record.line for record in comments)
            counts[True].add(comments)
            block = [record for record in block if not _COMMENTED.match(record.fields[0])]
        counts[False].add(block)
    n_records = counts[False].n_records + len(commented)
    drops_comments = len(commented) < n_records / 2
    if drops_comments:
        malformed += [(line, "the line is a comment (#)") for line in commented]
        n_records -= len(commented)
    if not n_records and not malformed:
        raise DatasetError(f"{name}: there is no row below the header; add some")
    kept = [counts[False], *([] if drops_comments else [counts[True]])]
    # Last columns that have neither a name nor a value are left out.
    width = max(one.width for one in kept)
    return CsvFile(
        name,
        dialect.columns[:width],
        Records(text, dialect, width, drops_comments, n_records),
        tuple(sorted(malformed)),
        text.encoding,
        dialect.separator,
        (*text.remarks, *dialect.remarks),
        tuple(frozenset().union(*(one.marks[at] for one in kept)) for at in range(width)),
    )


class Records:
    """The records of a file, each of them in memory while it is looked at."""

    def __init__(
        self, text: Text, dialect: Dialect, width: int, drops_comments: bool, count: int
    ) -> None:
        self._text, self._dialect, self._width = text, dialect, width
        self._drops_comments, self._count = drops_comments, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        is_cut = self._width < len(self._dialect.columns)
        for record in _read(self._text, self._dialect, None):
            if self._drops_comments and _COMMENTED.match(record.fields[0]):
                continue
            yield Record(record.line, record.fields[: self._width]) if is_cut else record


class _Counted:
    """How many records there are, how many columns have a name or a value, and their marks."""

    def __init__(self, width: int) -> None:
        self.n_records, self.width = 0, width
        self.marks: dict[int, set[str]] = defaultdict(set)

    def add(self, records: Sequence[Record]) -> None:
        """Look at some more records."""
        self.n_records += len(records)
        for at, cells in enumerate(zip(*(record.fields for record in records), strict=True)):
            joined = "".join(cells)
            if joined and at >= self.width:
                self.width = at + 1
            self.marks[at].update(sign for sign in ".," if sign in joined)


def _read(
    text: Text, dialect: Dialect, malformed: list[tuple[int, str]] | None = None
) -> Iterator[Record]:
    """Yield the records of a text; lines that are none are put into `malformed`."""
    columns = dialect.columns
    read = pieces(text.lines, dialect.separator, dialect.line)
    problems = [] if malformed is None else malformed
    with _long_fields():
        titles = [*islice(read, dialect.titles), *islice(read, 0 if dialect.commented else 1)]
    problems += [
        (piece.first_line, "it stands above the header") for piece in titles[: dialect.titles]
    ]
    while True:
        with _long_fields():
            block = list(islice(read, _BLOCK_RECORDS))
        if not block:
            return
        for piece in block:
            fields = piece.fields
            if len(fields) != len(columns):
                fitted = None if piece.problem else fit(fields, columns)
                if fitted is None:
                    problems.append((piece.first_line, _problem(piece, len(columns))))
                    continue
                fields = fitted
            if text.has_nul and any("\0" in field for field in fields):
                problems.append((piece.first_line, "a field has a NUL character"))
                continue
            yield Record(piece.first_line, fields)
        if malformed is None:
            problems.clear()


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let fields be as long as `MAX_FIELD`."""
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _problem(piece: Piece, expected: int) -> str:
    if piece.problem:
        return piece.problem
    if piece.fields[0].startswith("#"):
        return "the line is a comment (#)"
    reason = f"{len(piece.fields)} fields where the header has {expected}"
    if piece.last_line > piece.first_line:
        reason += f", over lines {piece.first_line} to {piece.last_line}: a stray quotation mark?"
    return reason
