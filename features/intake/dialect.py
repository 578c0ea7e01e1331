"""How a CSV file is written: what separates its fields, and which line is its header."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import NamedTuple

from features.errors import DatasetError
from features.intake.numbers import is_number

SEPARATORS = (",", ";", "\t", "|")

# What a file's dialect is seen from: its first records, in its first characters.
_SAMPLED_RECORDS, _SAMPLED_CHARACTERS = 200, 1_000_000
_MOST_TITLES = 20
_NAMED = re.compile(r'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n)')
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
UNCLOSED = "a quotation mark opens a field here that no other closes; close it"


class Piece(NamedTuple):
    """Some lines of a file: a record's fields, or why they are none."""

    first_line: int
    last_line: int
    fields: tuple[str, ...]
    problem: str = ""


class Dialect(NamedTuple):
    """Where a file's header is and how its fields are separated.

    `line` is the number of the line that the records begin at, the header among them unless it
    stands in the comment before them (`commented`).
    """

    separator: str
    line: int
    titles: int
    columns: tuple[str, ...]
    has_row_names: bool
    remarks: tuple[str, ...]
    commented: bool


def pieces(lines: Callable[[], Iterable[str]], separator: str, line: int = 1) -> Iterator[Piece]:
    """Yield the records of a file from a line on, and the lines that are none.

    Blank lines are left out. A quotation mark that nothing closes costs its own line alone.
    `lines` gives all lines of the file, with their ends as they are, whenever it is called.
    """
    first = line
    while True:
        base = first - 1
        reader = csv.reader(
            islice(lines(), base, None), delimiter=separator, strict=True, skipinitialspace=True
        )
        while True:
            first = base + reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                last = base + reader.line_num
                if "unexpected end of data" in str(exc):
                    yield Piece(first, first, (), UNCLOSED)
                    break
                yield Piece(first, last, (), _told(exc))
                continue
            if fields:
                yield Piece(first, base + reader.line_num, tuple(map(str.strip, fields)))
        # Behind the line with the lone quotation mark there is no other that is not doubled.
        first += 1


def lines_of(text: str) -> Callable[[], Iterable[str]]:
    """Return what gives the lines of a text."""
    # newline="": a line break inside quotes stays as it is, and every line counts.
    return partial(io.StringIO, text, newline="")


def _told(exc: csv.Error) -> str:
    if "field larger" in str(exc):
        limit = csv.field_size_limit()
        return f"a field has more than {limit / 1e6:g} million characters"
    return f"the line is no CSV ({exc})"


def find_dialect(name: str, head: Callable[[int], str]) -> Dialect:
    """Find the dialect of the file called `name`, by its header and its records.

    Parameters
    ----------
    name
        For errors.
    head
        Returns so many of the first characters, or all that there are.

    Raises
    ------
    DatasetError
        It is empty, has no header, or two separators make equally good tables of it.
    """
    size = 2 * _SAMPLED_CHARACTERS
    while True:
        text = head(size)
        start, line, separators, comments = _skip_comments(text)
        whole = len(text) < size
        if whole or start + _SAMPLED_CHARACTERS < size:
            break
        size *= 2  # the comment is long
    if start >= len(text) and not comments:
        raise DatasetError(f"{name}: the file is empty; it needs a header line and rows")
    stop = start + _SAMPLED_CHARACTERS
    cut = text.rfind("\n", start, stop) + 1 or stop
    whole = len(text) <= stop
    sample = lines_of(text if whole else text[:cut])

    def view(separator: str) -> _View:
        read = list(islice(pieces(sample, separator, line), _SAMPLED_RECORDS))
        if not whole:
            # Where the sample ends within a field, that is no record to judge by.
            read = list(takewhile(lambda piece: piece.problem != UNCLOSED, read))
        return _view(separator, read, comments)

    views = [view(separator) for separator in separators]
    if separators == SEPARATORS and not any(map(_is_table, views)):
        # Blanks, as R's write.table writes, are many things else, too.
        views = [one for one in (view(" "),) if _is_of_blanks(one)] or views
    best = _best(name, views)
    if best.read and not best.commented and best.read[best.titles].problem:
        header = best.read[best.titles]
        raise DatasetError(f"{name}, line {header.first_line}: no header ({header.problem})")
    if not any(best.columns):
        raise DatasetError(f"{name}: the file is empty; it needs a header line and rows")
    return Dialect(
        best.separator,
        line,
        best.titles,
        best.columns,
        best.has_row_names,
        best.remarks,
        best.commented,
    )


def _skip_comments(text: str) -> tuple[int, int, Sequence[str], list[str]]:
    """Return the character and the line that records begin at, separators, and the comment."""
    named = _NAMED.match(text)
    start, line = (named.end(), 2) if named else (0, 1)
    comments: list[str] = []
    while start < len(text):
        found = _LINE.match(text, start)
        assert found is not None
        raw = found.group().strip()
        if raw and not raw.startswith("#"):
            break
        if raw:
            comments.append(raw)
        start, line = found.end(), line + 1
    return start, line, (named.group(1),) if named else SEPARATORS, comments


class _View(NamedTuple):
    """What a file is with one separator."""

    separator: str
    read: list[Piece]
    titles: int
    commented: bool
    columns: tuple[str, ...]
    has_row_names: bool
    matching: float  # share of the records that have as many fields as the header
    unclean: float  # share of their cells with another separator in them
    remarks: tuple[str, ...]


def _view(separator: str, read: list[Piece], comments: Sequence[str]) -> _View:
    columns = _commented_header(separator, read, comments)
    commented = columns is not None
    titles = 0 if commented else _count_titles(read)
    remarks: tuple[str, ...] = ()
    if columns is None:
        columns = read[titles].fields if read else ()
        body = read[titles + 1 :]
    else:
        remarks = ("its header is the last line of the comment above its rows",)
        body = read
    # A lone quotation mark tells nothing of separators, other faults do.
    body = [piece for piece in body if piece.problem != UNCLOSED]
    records = [piece.fields for piece in body if not piece.problem]
    has_row_names = _have_row_names(columns, records)
    if has_row_names:
        columns = ("", *columns)
        remarks += ("its first column has no name: it was read as names of the rows",)
    fitting = [fields for fields in records if fit(fields, columns) is not None]
    matching = len(fitting) / len(body) if body else float(len(columns) > 1)
    others = "".join(other for other in SEPARATORS if other != separator)
    unclean = sum(
        any(other in cell for other in others) and not is_number(cell)
        for fields in fitting
        for cell in fields
    )
    n_cells = sum(map(len, fitting)) or 1
    return _View(
        separator,
        read,
        titles,
        commented,
        columns,
        has_row_names,
        matching,
        unclean / n_cells,
        remarks,
    )


def _is_table(view: _View) -> bool:
    return not _header_problem(view) and len(view.columns) > 1 and view.matching > 0.0


def _is_of_blanks(view: _View) -> bool:
    """Whether all records are separated by blanks, and there are numbers in a column of theirs."""
    if not _is_table(view) or view.matching < 1.0:
        return False
    body = view.read if view.commented else view.read[view.titles + 1 :]
    columns = zip(*(piece.fields for piece in body), strict=False)
    values = [*columns][1 if view.has_row_names else 0 :]
    return any(all(map(is_number, column)) for column in values)


def _best(name: str, views: Sequence[_View]) -> _View:
    """Return the view in which the file is most like a table."""
    sound = [view for view in views if not _header_problem(view)]
    tables = [view for view in sound if _is_table(view)]
    if not tables:
        # One column; or a header that no record fits, which is told of each record.
        single = [view for view in sound if len(view.columns) == 1 and view.matching == 1.0]
        return (single or sorted(sound, key=lambda view: -len(view.columns)) or list(views))[0]

    def quality(view: _View) -> tuple[float, float, int]:
        return round(view.matching, 1), -round(view.unclean, 2), len(view.columns)

    tables.sort(key=quality, reverse=True)
    best, *others = tables
    if others and quality(others[0]) == quality(best):
        shown = " or ".join(
            f"{view.separator!r} ({', '.join(map(repr, view.columns[:4]))})"
            for view in (best, others[0])
        )
        raise DatasetError(
            f"{name}: fields may be separated by {shown}; put quotation marks around fields that "
            "have the other sign in them"
        )
    return best


def _header_problem(view: _View) -> str:
    if view.commented:
        return ""
    return view.read[view.titles].problem if view.read else "it has no line"


def fit(fields: tuple[str, ...], columns: Sequence[str]) -> tuple[str, ...] | None:
    """Return a record's fields, one for each column, or None; only empty ones come and go."""
    n_columns = len(columns)
    if len(fields) == n_columns:
        return fields
    if len(fields) > n_columns:
        return None if any(fields[n_columns:]) else fields[:n_columns]
    if any(columns[len(fields) :]):
        return None
    return fields + ("",) * (n_columns - len(fields))


def _commented_header(
    separator: str, read: Sequence[Piece], comments: Sequence[str]
) -> tuple[str, ...] | None:
    """Return the header that the last line of a comment is, as NumPy writes it, or None."""
    if not comments:
        return None
    comment = comments[-1].lstrip("#") if separator == " " else comments[-1]
    first = next(pieces(lines_of(comment), separator), None)
    if first is None or first.problem:
        return None
    head, *others = first.fields
    columns = (head if head == "#" else head.lstrip("#").strip(), *others)
    if not read:
        return columns if len(columns) > 1 else None
    alike = len(columns) == len(read[0].fields) > 1
    if alike and any(map(is_number, read[0].fields)) and not any(map(is_number, columns)):
        return columns
    return None


def _count_titles(read: Sequence[Piece]) -> int:
    """Return how many lines stand above the header: a title has one field, the table has more."""
    widths = Counter(len(piece.fields) for piece in read[1:] if not piece.problem)
    if not widths or _n_filled(read[0]) != 1:
        return 0
    width = widths.most_common(1)[0][0]
    for position, piece in enumerate(read[:_MOST_TITLES]):
        if _n_filled(piece) > 1 or piece.problem:
            is_header = not piece.problem and not any(map(is_number, piece.fields))
            return position if len(piece.fields) == width and is_header else 0
    return 0


def _n_filled(piece: Piece) -> int:
    return sum(map(bool, piece.fields))


def _have_row_names(columns: Sequence[str], records: Sequence[tuple[str, ...]]) -> bool:
    """Whether every record has one field more than the header, and these number the rows.

    So writes R's write.table.
    """
    if not columns or not records or any(len(fields) != len(columns) + 1 for fields in records):
        return False
    names = [fields[0] for fields in records]
    numbers = [str(number) for number in range(len(names) + 1)]
    return any(fields[-1] for fields in records) and names in (numbers[:-1], numbers[1:])
