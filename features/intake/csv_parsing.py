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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from features.errors import DatasetError
from features.intake.dialect import Piece, find_dialect, fit, pieces
from features.intake.numbers import NumberStyle, find_style, is_number, parse_number
from features.intake.text import MOST_QUOTED, decode, normal_form, quote

MAX_FIELD = 100_000_000  # characters

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
    records: tuple[Record, ...]
    malformed: tuple[tuple[int, str], ...]  # (line, reason)
    encoding: str
    separator: str = ","
    remarks: tuple[str, ...] = ()

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
        own = find_style(self.values(column))
        if not own.is_ambiguous:
            return own
        others: dict[str, str] = {}
        for other in dict.fromkeys(self.columns):
            if other != column:
                style = find_style(self.values(other))
                if style.is_known and style.decimal:
                    others.setdefault(style.decimal, other)
        return own.told_by(others, self.separator)

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
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        return _parse(name, data)
    except MemoryError as exc:
        raise DatasetError(
            f"{name}: reading its {len(data) / 1e6:g} MB takes more memory than there is; leave "
            "out columns or rows"
        ) from exc
    finally:
        csv.field_size_limit(limit)


def _parse(name: str, data: bytes) -> CsvFile:
    text, encoding, remarks = decode(name, data)
    dialect = find_dialect(name, text)
    columns = dialect.columns
    read = pieces(text, dialect.separator, dialect.start, dialect.line)
    records: list[Record] = []
    malformed = [
        (piece.first_line, "it stands above the header") for piece in islice(read, dialect.titles)
    ]
    has_nul = "\0" in text
    for piece in islice(read, 0 if dialect.commented else 1, None):
        fields = piece.fields
        if len(fields) != len(columns):
            fitted = None if piece.problem else fit(fields, columns)
            if fitted is None:
                malformed.append((piece.first_line, _problem(piece, len(columns))))
                continue
            fields = fitted
        if has_nul and any("\0" in field for field in fields):
            malformed.append((piece.first_line, "a field has a NUL character"))
            continue
        records.append(Record(piece.first_line, fields))
    commented = [record for record in records if _COMMENTED.match(record.fields[0])]
    if commented and len(commented) < len(records) / 2:
        malformed += [(record.line, "the line is a comment (#)") for record in commented]
        records = [record for record in records if not _COMMENTED.match(record.fields[0])]
    if not records and not malformed:
        raise DatasetError(f"{name}: there is no row below the header; add some")
    columns, records = _without_empty_columns(columns, records)
    return CsvFile(
        name,
        columns,
        tuple(records),
        tuple(sorted(malformed)),
        encoding,
        dialect.separator,
        (*remarks, *dialect.remarks),
    )


def _without_empty_columns(
    columns: tuple[str, ...], records: list[Record]
) -> tuple[tuple[str, ...], list[Record]]:
    """Leave out last columns that have neither a name nor a value."""
    width = len(columns)
    while width > 1 and not columns[width - 1]:
        if any(record.fields[width - 1] for record in records):
            break
        width -= 1
    if width == len(columns):
        return columns, records
    return columns[:width], [Record(line, fields[:width]) for line, fields in records]


def _problem(piece: Piece, expected: int) -> str:
    if piece.problem:
        return piece.problem
    if piece.fields[0].startswith("#"):
        return "the line is a comment (#)"
    reason = f"{len(piece.fields)} fields where the header has {expected}"
    if piece.last_line > piece.first_line:
        reason += f", over lines {piece.first_line} to {piece.last_line}: a stray quotation mark?"
    return reason
