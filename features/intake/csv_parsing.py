"""CSV files as people have them, read without losing a line.

Separators `,`, `;` and tab; UTF-8 with or without a byte-order mark, UTF-16 with one, else
Windows-1252; any line end; quoted fields with line breaks. Whatever cannot be read is reported
with its line.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from features.errors import DatasetError

_SEPARATORS = (",", ";", "\t")


class Record(NamedTuple):
    """One record of a CSV file; `line` is where it begins, the header being line 1."""

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class CsvFile:
    """A parsed CSV file: its columns, its records, and the lines that are no records."""

    name: str
    columns: tuple[str, ...]
    records: tuple[Record, ...]
    malformed: tuple[tuple[int, str], ...]  # (line, reason)
    encoding: str

    def position(self, column: str, purpose: str) -> int:
        """Return where `column` is; its absence is a DatasetError that names the nearest one."""
        self.require({column: purpose})
        return self.columns.index(column)

    def require(self, purposes: Mapping[str, str]) -> None:
        """Refuse the file unless each column, given with its purpose, is there once.

        Raises
        ------
        DatasetError
            Naming all columns that are not, and the nearest to each.
        """
        problems, absent = [], False
        for column, purpose in purposes.items():
            count = self.columns.count(column)
            if count > 1:
                problems.append(
                    f"column {column!r}, the {purpose}, is there {count} times; rename all but one"
                )
            elif count == 0:
                absent = True
                nearest = difflib.get_close_matches(column, self.columns, n=1, cutoff=0.0)
                problems.append(
                    f"there is no column {column!r} for the {purpose}; "
                    f"the nearest is {nearest[0]!r}"
                )
        if problems:
            there = f". Columns: {', '.join(self.columns)}" if absent else ""
            raise DatasetError(f"{self.name}: {'; '.join(problems)}{there}")

    def find(self, names: tuple[str, ...]) -> str | None:
        """Return the first of `names` that is a column, or None."""
        return next((name for name in names if name in self.columns), None)


def parse_csv(name: str, data: bytes) -> CsvFile:
    """Parse the bytes of the file called `name`.

    Raises
    ------
    DatasetError
        It is empty, is no text, has no row below its header, or a quotation never ends.
    """
    text, encoding = _decode(name, data)
    separator = max(_SEPARATORS, key=lambda candidate: len(_header(name, text, candidate).fields))
    columns = tuple(_header(name, text, separator).fields)
    records: list[Record] = []
    malformed: list[tuple[int, str]] = []
    for piece in islice(_pieces(name, text, separator), 1, None):
        if piece.problem:
            malformed.append((piece.first_line, f"the line is no CSV ({piece.problem})"))
        elif len(piece.fields) != len(columns):
            malformed.append((piece.first_line, _miscount(piece, len(columns))))
        else:
            records.append(Record(piece.first_line, piece.fields))
    if not records and not malformed:
        raise DatasetError(f"{name}: there is no row below the header; add some")
    return CsvFile(name, columns, tuple(records), tuple(malformed), encoding)


class _Piece(NamedTuple):
    first_line: int
    last_line: int
    fields: tuple[str, ...]
    problem: str = ""


def _pieces(name: str, text: str, separator: str) -> Iterator[_Piece]:
    """Yield the records of `text`, blank lines left out, and the lines that are none."""
    # newline="": a line break inside quotes stays as it is, and `line_num` counts every line.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            if "unexpected end of data" in str(exc):
                raise DatasetError(
                    f"{name}, line {first_line}: a quotation mark opens a field here that no other "
                    "closes, so the rows after it cannot be told apart; close it"
                ) from exc
            yield _Piece(first_line, reader.line_num, (), str(exc))
            continue
        if fields:
            yield _Piece(first_line, reader.line_num, tuple(map(str.strip, fields)))


def _header(name: str, text: str, separator: str) -> _Piece:
    header = next(_pieces(name, text, separator), None)
    if header is None or not (header.problem or any(header.fields)):
        raise DatasetError(f"{name}: the file is empty; it needs a header line and rows")
    if header.problem:
        raise DatasetError(f"{name}, line {header.first_line}: no header ({header.problem})")
    return header


def _miscount(piece: _Piece, expected: int) -> str:
    reason = f"{len(piece.fields)} fields where the header has {expected}"
    if piece.last_line > piece.first_line:
        reason += f", over lines {piece.first_line} to {piece.last_line}: a stray quotation mark?"
    return reason


def _decode(name: str, data: bytes) -> tuple[str, str]:
    """Return the text and the name of its encoding."""
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DatasetError(f"{name}: this is a spreadsheet or an archive; save it as CSV")
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ["utf-16"] if is_utf16 else ["utf-8-sig", "cp1252", "latin-1"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text, encoding
    raise DatasetError(f"{name}: this is no text file; save it as CSV in UTF-8")
