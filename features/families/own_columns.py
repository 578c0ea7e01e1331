"""Columns of the user's own file as features: numbers as they are, categories as 0 and 1.

Numbers are not rounded as computed features are: they are the file's own. A category becomes the
column `route=sol-gel`, which is 1 in its rows, for each one that the training rows have; what
others have is not looked at, so that held-out rows and candidates are treated alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from features.errors import DatasetError
from features.intake.numbers import POINT, NumberStyle, is_missing, parse_number
from features.records import CONTROL, Column, columns_of
from features.rows import OwnColumns, Remark

COLUMNS = "columns"  # the family of all of them
MAX_CATEGORIES = 100
N_SHOWN = 5

Floats = NDArray[np.float64]

# What programs write for a cell without a category; "none" and "-" may be one.
_NO_CATEGORY = frozenset({"", "NA", "N/A", "n/a", "#N/A", "nan", "NaN", "null", "NULL", "None"})
_UNIT = re.compile(r"[\s_]*(?:\(([^()]+)\)|\[([^\[\]]+)\])$")
_DIGITS = frozenset("0123456789+-eE")

# How near to a target a column may be before it is taken for made from it: as a linear function of
# it or of its logarithm, in a few rows; in its order, where rows are too many for that by chance.
LINEAR, MIN_LINEAR_ROWS = 1.0 - 1e-6, 5
ORDERED, MIN_ORDERED_ROWS = 0.999, 50
MIN_CLASS_ROWS = 20  # fewer may tell classes apart by chance


@dataclass(frozen=True, eq=False)
class Cells:
    """The values of one feature: an array of shape (n_rows,), and what is wrong with some rows.

    `missing` are the rows without a value, `unread` those whose value is none that the column has,
    with the reason.
    """

    values: Floats
    missing: NDArray[np.int64]
    unread: Mapping[int, str] = field(default_factory=dict)


def number_column(header: str) -> Column:
    """Return the column of a file's numbers, with the unit at the end of its header.

    `T_sinter (K)` and `T_sinter [K]` are in K.
    """
    found = _UNIT.search(header)
    unit = "" if found is None else (found.group(1) or found.group(2)).strip()
    return Column(header, COLUMNS, unit)


def category_column(header: str, category: str) -> Column:
    """Return the column that is 1 where `header` is `category`."""
    return Column(f"{header}={category}", COLUMNS)


def read_numbers(header: str, texts: Sequence[str], style: NumberStyle = POINT) -> Cells:
    """Read a column of numbers, written in that style; what is missing or is none is NaN."""
    values = None if style.is_mixed else _read_plain(texts, style.decimal)
    if values is not None:
        return Cells(values, np.flatnonzero(np.isnan(values)))
    values, missing, unread = np.full(len(texts), np.nan), [], {}
    for row, text in enumerate(texts):
        if is_missing(text):
            missing.append(row)
            continue
        try:
            values[row] = parse_number(text, header, style)
        except ValueError as exc:
            unread[row] = str(exc)
    return Cells(values, np.array(missing, dtype=np.int64), unread)


def _read_plain(texts: Sequence[str], decimal: str) -> Floats | None:
    """Read cells that are empty or plain numbers, a million in half a second; else None."""
    if not decimal or not {*_DIGITS, decimal}.issuperset("".join(texts)):
        return None
    try:
        plain = texts if decimal == "." else [text.replace(decimal, ".") for text in texts]
        values = np.array([text or "nan" for text in plain], dtype=np.float64)
    except ValueError:
        return None
    return None if np.isinf(values).any() else values


def read_categories(
    header: str, texts: Sequence[str], categories: Sequence[str]
) -> tuple[Floats, Cells]:
    """Return 0 and 1 of shape (n_rows, n_categories), and what is wrong with some rows.

    A row without a category is NaN throughout, one with a category that is not listed is 0.
    """
    position = {category: at for at, category in enumerate(categories)}
    codes = np.array([position.get(text, -1) for text in texts], dtype=np.int64)
    values = (codes[:, None] == np.arange(len(categories))).astype(np.float64)
    missing, unread = [], {}
    for row in np.flatnonzero(codes < 0).tolist():
        if texts[row] in _NO_CATEGORY:
            missing.append(row)
        else:
            unread[row] = f"{header} {texts[row]!r} is in no training row: its columns are 0"
    absent = np.array(missing, dtype=np.int64)
    values[absent] = np.nan
    return values, Cells(values.sum(axis=1), absent, unread)


def categories_of(columns: Sequence[Column], header: str) -> list[str]:
    """Return the categories that a table has columns for, in its order."""
    prefix = f"{header}="
    names = [column.name for column in columns if column.family == COLUMNS]
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def own_columns(
    source: str,
    cells: Mapping[str, Sequence[str]],
    numbers: Mapping[str, NumberStyle],
    categorical: Sequence[str],
    is_train: NDArray[np.bool_],
    y: Floats,
    *,
    classes: bool = False,
) -> OwnColumns | None:
    """Return the features that a file's own columns make; None if none is asked for.

    Parameters
    ----------
    source
        Name of the file, for messages.
    cells
        The texts of each column, of length n_rows.
    numbers, categorical
        Headers of columns of either kind, and how numbers are written in them.
    is_train, y
        Arrays of shape (n_rows,), `y` also of (n_rows, n_targets): what categories are taken from,
        and what no column may be.
    classes
        Whether `y` are codes of classes.

    Raises
    ------
    DatasetError
        A column has no value in the training rows, is mostly text, or has too many categories.
    """
    columns: list[Column] = []
    blocks: list[Floats] = []
    remarks: list[Remark] = []
    for header, style in numbers.items():
        read = read_numbers(header, cells[header], style)
        if style.remark:
            remarks.append(Remark(None, f"column {header!r}: {style.remark}", source))
        _check_numbers(source, header, cells[header], read, is_train)
        columns.append(number_column(header))
        blocks.append(read.values[:, None])
        remarks += _remarks(source, header, read)
    for header in categorical:
        found = _categories(source, header, cells[header], is_train)
        values, read = read_categories(header, cells[header], found)
        columns += [category_column(header, category) for category in found]
        blocks.append(values)
        remarks += _remarks(source, header, read)
    if not columns:
        return None
    X = np.hstack(blocks)
    is_made = names_class if classes else gives_away
    targets = columns_of(y[is_train])
    columns = [
        replace(column, derived_from_target=any(is_made(X[is_train, at], one) for one in targets))
        for at, column in enumerate(columns)
    ]
    return OwnColumns(tuple(columns), X, tuple(remarks))


def gives_away(values: Floats, y: Floats) -> bool:
    """Return whether a column, of shape (n_rows,), is the target in another form or nearly so.

    It is where one of them is a linear function of the other, or of its logarithm, or where they
    put the rows into the same order.
    """
    known = np.flatnonzero(np.isfinite(values))
    x, y = values[known], y[known]
    if len(x) < MIN_LINEAR_ROWS or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return False
    forms = [(x, y)]
    forms += [(np.log(x), y)] if (x > 0.0).all() else []
    forms += [(x, np.log(y))] if (y > 0.0).all() else []
    if any(_correlation(*form) >= LINEAR for form in forms):
        return True
    if len(x) < MIN_ORDERED_ROWS:
        return False
    return _correlation(_ranks(x), _ranks(y)) >= ORDERED


def names_class(values: Floats, y: Floats) -> bool:
    """Return whether a column, of shape (n_rows,), is the class in another form, or one of them.

    It is where each of its values stands for one class and each class for one value, or where it
    has two values and one of them is that of all rows of a class and of no other.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < MIN_CLASS_ROWS:
        return False
    pairs = np.unique(np.column_stack([values[known], y[known]]), axis=0)
    n_values, n_classes = (len(np.unique(side)) for side in pairs.T)
    if n_values < 2 or n_classes < 2:
        return False
    if n_values == n_classes == len(pairs):
        return True
    # Of two values, one has a single class, and the other all the others.
    _, n_of_value = np.unique(pairs[:, 0], return_counts=True)
    return n_values == 2 and len(pairs) == n_classes and 1 in n_of_value


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return abs(float(x @ y)) / norm if norm > 0.0 else 0.0


def _ranks(values: Floats) -> Floats:
    """Return ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2.0
    return means[inverse]


def _remarks(source: str, header: str, read: Cells) -> list[Remark]:
    remarks = []
    if len(read.missing):
        reason = f"column {header!r}: {len(read.missing)} of {len(read.values)} rows have no value"
        remarks.append(Remark(None, reason, source))
    return remarks + [Remark(row, reason) for row, reason in read.unread.items()]


def _check_numbers(
    source: str, header: str, texts: Sequence[str], read: Cells, is_train: NDArray[np.bool_]
) -> None:
    if len(read.unread) > (len(texts) - len(read.missing)) / 2:
        shown = ", ".join(repr(texts[row]) for row in list(read.unread)[:N_SHOWN])
        raise DatasetError(
            f"{source}: column {header!r} is text, such as {shown}, and [table] columns are "
            f"numbers; list it as categorical = [{header!r}], or leave it out"
        )
    if np.isnan(read.values[is_train]).all():
        raise DatasetError(
            f"{source}: column {header!r} has no value in any training row; leave it out of "
            "[table] columns"
        )


def _categories(
    source: str, header: str, texts: Sequence[str], is_train: NDArray[np.bool_]
) -> list[str]:
    """Return the categories that training rows have, in alphabetical order."""
    counts = Counter(texts[row] for row in np.flatnonzero(is_train).tolist())
    found = sorted(counts.keys() - _NO_CATEGORY)
    if not found:
        raise DatasetError(
            f"{source}: column {header!r} has no value in any training row; leave it out of "
            "[table] categorical"
        )
    if len(found) > MAX_CATEGORIES:
        raise DatasetError(
            f"{source}: column {header!r} has {len(found)} categories in the training rows, such "
            f"as {', '.join(map(repr, found[:N_SHOWN]))}; a categorical column may have "
            f"{MAX_CATEGORIES}. List numbers under [table] columns, leave names of rows out"
        )
    if (bad := next(filter(CONTROL.search, found), None)) is not None:
        raise DatasetError(f"{source}: column {header!r}: {bad!r} has control characters")
    return found
