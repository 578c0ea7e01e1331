"""The records that a feature table is made of."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE_ROWS = 10_000  # of which so many are hashed at once, to save memory

# Such characters in a name would break lines of CSV files, or steer a terminal.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

WHOLE_FILE = "*"  # the `id` of a remark that is about a file, not about one of its rows


@dataclass(frozen=True)
class Column:
    """One feature column."""

    name: str
    family: str
    unit: str = ""  # "" means dimensionless
    derived_from_target: bool = False  # True: made from the measured value, so a leak in a model


@dataclass(frozen=True)
class Target:
    """What `y` holds: `value / unit`, or its decimal logarithm where `log10` is set.

    Of a target with `classes`, which are labels, `y` holds each row's position among them.
    """

    name: str
    unit: str = ""
    log10: bool = False
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))

    def as_dict(self) -> dict[str, Any]:
        """Return it as manifests and hashes have it, which name no classes where there are none."""
        found = asdict(self)
        return found if self.classes else {k: v for k, v in found.items() if k != "classes"}

    def fault(self, y: NDArray[np.float64]) -> str:
        """Return why it is not what `y`, of shape (n_rows,), holds; "" if it may be."""
        names, positions = self.classes, np.arange(len(self.classes))
        if not np.isfinite(y).all():
            return "y must be finite; skip the other rows"
        if names and (len({*names}) < max(2, len(names)) or any(map(CONTROL.search, names))):
            return f"classes must be two labels or more, each once, got {names}"
        if names and not np.isin(y, positions).all():
            wrong = y[~np.isin(y, positions)][0]
            return f"y must be positions among the {len(names)} classes, from 0 on, got {wrong:g}"
        return ""


@dataclass(frozen=True)
class SkippedRow:
    """A row of a source file that is not in the table, and why."""

    line: int  # line in the source file, its header being line 1; where the record begins
    id: str
    source: str  # name of the file, without its folder
    reason: str


@dataclass(frozen=True)
class PartialRow:
    """A row of the table with a family that could not be computed in full, and why.

    `id` is `"*"` where the remark holds for a whole file, such as a column that it lacks.
    """

    line: int
    id: str
    source: str
    family: str
    reason: str


@dataclass(frozen=True, eq=False)
class TableView:
    """Some rows of a table, in table order; its attributes are those of `FeatureTable`."""

    ids: NDArray[np.str_]
    X: NDArray[np.float64]
    X_new: NDArray[np.float64]
    y: NDArray[np.float64]
    groups: NDArray[np.str_]
    weights: NDArray[np.float64] | None = None
    test_fold: NDArray[np.int64] | None = None
    bounds: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """An immutable feature table: what a study optimises over.

    Attributes
    ----------
    path : Path
        The folder that the table was read from.
    name, hash : str
        `<dataset>-<n_features>-<first 12 of hash>`, and the SHA-256 of the content in hex.
    ids, groups, formulas : array of shape (n_rows,)
        Row identifiers (unique), groups for group-wise validation, chemical formulas.
    X : array of shape (n_rows, n_features)
        C-contiguous; NaN where a value is not known. Units are in `columns`.
    X_new : array of shape (n_rows, n_features)
        The features that each row would have, were nothing else of its group known: what folds of
        whole groups validate on. It is `X` itself where rows borrow nothing from one another.
    y : array of shape (n_rows,), or (n_rows, n_targets) of several targets
        The target, in the unit and scale that `target` names; positions among its classes.
    is_train : array of shape (n_rows,)
        False for the held-out rows.
    target, more_targets
        The first target, and those beside it, which are none but numbers.
    weights : array of shape (n_rows,) or None
        What each row counts in a fit, above 0; None if the dataset says nothing of it.
    test_fold : array of shape (n_rows,) or None
        The fold that validates each row, from 0; -1 for one that none validates. None if the
        dataset says nothing of it.
    bounds : array of shape (n_rows, 2) or None
        What is known of the target, in its unit and scale: both are `y` where it was measured, one
        is infinite where a limit alone is known. `y` lies between them: it is the limit, or the
        middle of an interval. None if all rows were measured.

    All arrays are read-only.
    """

    path: Path
    name: str
    hash: str
    dataset: str
    ids: NDArray[np.str_]
    X: NDArray[np.float64]
    X_new: NDArray[np.float64]
    y: NDArray[np.float64]
    groups: NDArray[np.str_]
    is_train: NDArray[np.bool_]
    formulas: NDArray[np.str_]
    columns: tuple[Column, ...]
    target: Target
    skipped: tuple[SkippedRow, ...]
    partial: tuple[PartialRow, ...]
    manifest: Mapping[str, Any]
    weights: NDArray[np.float64] | None = None
    test_fold: NDArray[np.int64] | None = None
    bounds: NDArray[np.float64] | None = None
    more_targets: tuple[Target, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target, in the order of the columns of `y`."""
        return (self.target, *self.more_targets)

    @property
    def n_rows(self) -> int:
        """Number of rows, held-out rows included."""
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        """Number of feature columns."""
        return int(self.X.shape[1])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Column names in the order of `X`."""
        return tuple(column.name for column in self.columns)

    @property
    def row_settings(self) -> dict[str, NDArray[Any]]:
        """What the dataset says of rows beside their values, by name, if it does."""
        return row_settings(self.weights, self.test_fold, self.bounds)

    @functools.cached_property
    def train(self) -> TableView:
        """The rows to fit and validate on."""
        return self.rows(self.is_train)

    @property
    def test(self) -> TableView:
        """The held-out rows."""
        return self.rows(~self.is_train)

    def holding_out(self, rows: NDArray[np.int64]) -> FeatureTable:
        """Return the table of the training rows alone, with some of them held out as new ones.

        Parameters
        ----------
        rows : array of shape (n_held_out,)
            Positions among the training rows.
        """
        kept = np.flatnonzero(self.is_train)
        is_train = np.ones(len(kept), dtype=bool)
        is_train[rows] = False
        names = ("ids", "X", "y", "groups", "formulas")
        arrays = {name: getattr(self, name)[kept] for name in names}
        arrays |= {name: values[kept] for name, values in self.row_settings.items()}
        arrays["X_new"] = arrays["X"]
        if self.X_new is not self.X:
            arrays["X_new"] = self.X_new[kept]
            arrays["X"][~is_train] = arrays["X_new"][~is_train]
        for array in (*arrays.values(), is_train):
            array.setflags(write=False)
        pieces = {**arrays, "columns": self.columns, "target": self.target, "is_train": is_train}
        pieces["more_targets"] = self.more_targets
        return replace(self, **pieces, hash=content_hash(**pieces))

    def rows(self, mask: NDArray[np.bool_]) -> TableView:
        """Return the rows that `mask`, of shape (n_rows,), selects; views if they are adjacent."""
        of = _without_gaps(mask)
        X = self.X[of]
        X_new = X if self.X_new is self.X else self.X_new[of]
        picked = (self.ids[of], X, X_new, self.y[of], self.groups[of])
        settings = {name: values[of] for name, values in self.row_settings.items()}
        for array in (*picked, *settings.values()):
            array.setflags(write=False)
        return TableView(*picked, **settings)


@dataclass(frozen=True, eq=False)
class TableRows:
    """What a table will hold, as far as that is known before any feature is computed.

    Attributes
    ----------
    dataset : str
        Name of the dataset.
    ids, formulas, groups : tuples of length n_rows
        As in `FeatureTable`.
    y : array of shape (n_rows,), or (n_rows, n_targets) of several targets
        The target.
    is_train : array of shape (n_rows,)
        False for the held-out rows.
    columns, target, more_targets, skipped, weights, test_fold, bounds
        As in `FeatureTable`.
    X : array of shape (n_rows, n_features) or None
        The features of a table of a study's own, which come with its rows; None for others.
    """

    dataset: str
    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    groups: tuple[str, ...]
    y: NDArray[np.float64]
    is_train: NDArray[np.bool_]
    columns: tuple[Column, ...]
    target: Target
    skipped: tuple[SkippedRow, ...] = ()
    X: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    test_fold: NDArray[np.int64] | None = None
    bounds: NDArray[np.float64] | None = None
    more_targets: tuple[Target, ...] = ()

    def with_features(self, X: NDArray[np.float64]) -> FeatureTable:
        """Return a table of these rows in memory alone, with features of shape (n_rows, n)."""
        ids, groups, formulas = (
            np.array(texts, dtype=np.str_) for texts in (self.ids, self.groups, self.formulas)
        )
        X, y, is_train = X.copy(), self.y.copy(), self.is_train.copy()
        settings = row_settings(self.weights, self.test_fold, self.bounds)
        for array in (ids, groups, formulas, X, y, is_train, *settings.values()):
            array.setflags(write=False)
        content = content_hash(
            ids=ids,
            formulas=formulas,
            groups=groups,
            is_train=is_train,
            X=X,
            y=y,
            columns=self.columns,
            target=self.target,
            more_targets=self.more_targets,
            **settings,
        )
        return FeatureTable(
            path=Path(),
            name=f"{self.dataset}-{len(self.columns)}-{content[:12]}",
            hash=content,
            dataset=self.dataset,
            ids=ids,
            X=X,
            X_new=X,
            y=y,
            groups=groups,
            is_train=is_train,
            formulas=formulas,
            columns=self.columns,
            target=self.target,
            skipped=self.skipped,
            partial=(),
            manifest={},
            more_targets=self.more_targets,
            **settings,
        )


@dataclass(frozen=True)
class BuildResult:
    """What a build did: which table, whether it was there already, and what is missing."""

    path: Path
    name: str
    hash: str
    reused: bool
    wall_s: float
    n_rows: int
    n_features: int
    skipped: tuple[SkippedRow, ...]
    partial: tuple[PartialRow, ...]


@dataclass(frozen=True, eq=False)
class OwnRows:
    """What a function of a study's own returns: the rows of a table, described.

    Attributes
    ----------
    ids, groups, labels : sequences of length n_rows
        Row identifiers (unique), groups for group-wise validation, and what each row is of, as a
        reader would say it: what other tables have a formula for.
    X : array of shape (n_rows, n_features)
        Finite, or NaN where a value is not known.
    y : array of shape (n_rows,), or (n_rows, n_targets)
        The target, or several, which are all numbers.
    columns, target
        What `X` and `y` hold: a target for each column of `y`. A column that was measured with the
        target, such as a second target, is `derived_from_target`.
    is_train : array of shape (n_rows,)
        False for rows to hold out; None if there are none.
    skipped
        Rows of the sources that are not used.
    sources
        The files that were read, for their names and hashes.
    citation : str
        Where the data are from.
    weights, test_fold, bounds
        As in `FeatureTable`.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    labels: Sequence[str]
    X: NDArray[np.float64]
    y: NDArray[np.float64]
    columns: Sequence[Column]
    target: Target | Sequence[Target]
    is_train: NDArray[np.bool_] | None = None
    skipped: Sequence[SkippedRow] = ()
    sources: Sequence[Path] = ()
    citation: str = ""
    weights: NDArray[np.float64] | None = None
    test_fold: NDArray[np.int64] | None = None
    bounds: NDArray[np.float64] | None = None


def _without_gaps(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | slice:
    """Return the slice that selects what a mask does; the mask, if no slice does."""
    rows = np.flatnonzero(mask)
    if len(rows) == 0 or rows[-1] - rows[0] + 1 != len(rows):
        return mask
    return slice(int(rows[0]), int(rows[-1]) + 1)


def columns_of(y: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the values of each target, of shape (n_rows,)."""
    return [*np.ascontiguousarray(y.reshape(len(y), -1).T)]


def row_settings(
    weights: NDArray[np.float64] | None,
    test_fold: NDArray[np.int64] | None,
    bounds: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return those of the three that there are, by name."""
    named = {"weights": weights, "test_fold": test_fold, "bounds": bounds}
    return {name: values for name, values in named.items() if values is not None}


class ContentHash:
    """SHA-256 of all that a score on a table can depend on, fed with pieces of `X` in turn.

    Neither time, nor path, nor byte order of the machine enters; every NaN counts as the same
    NaN, and minus zero as zero.
    """

    def __init__(
        self,
        *,
        ids: Sequence[str] | NDArray[np.str_],
        formulas: Sequence[str] | NDArray[np.str_],
        groups: Sequence[str] | NDArray[np.str_],
        is_train: NDArray[np.bool_],
        y: NDArray[np.float64],
        columns: Sequence[Column],
        target: Target,
        more_targets: Sequence[Target] = (),
        weights: NDArray[np.float64] | None = None,
        test_fold: NDArray[np.int64] | None = None,
        bounds: NDArray[np.float64] | None = None,
    ) -> None:
        head: dict[str, Any] = {
            "columns": [asdict(column) for column in columns],
            "target": target.as_dict(),
            "ids": ids,
            "formulas": formulas,
            "groups": groups,
            "is_train": is_train,
            "shape": [len(ids), len(columns)],
            **row_settings(weights, test_fold, bounds),
        }
        if more_targets:
            head["more_targets"] = {"of": [target.as_dict() for target in more_targets]}
        self._digest = hashlib.sha256()
        for separator, name in zip(["{"] + [", "] * len(head), sorted(head), strict=False):
            self._digest.update(f'{separator}"{name}": '.encode())
            for piece in _json_pieces(head[name]):
                self._digest.update(piece.encode())
        self._digest.update(b"}")
        self.add(y)

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Feed the next rows, of shape (n, n_features)."""
        for start in range(0, len(numbers), _PIECE_ROWS):
            piece = numbers[start : start + _PIECE_ROWS]
            plain = np.where(np.isnan(piece), np.nan, piece + 0.0)
            self._digest.update(np.ascontiguousarray(plain, dtype="<f8").data)

    def hexdigest(self) -> str:
        """Return the hash of what was fed, in hex."""
        return self._digest.hexdigest()


def _json_pieces(value: Any) -> Iterator[str]:
    """Yield JSON piece by piece where it is of a million rows."""
    if isinstance(value, dict):
        yield json.dumps(value, sort_keys=True)
        return
    yield "["
    for start in range(0, len(value), _PIECE_ROWS):
        piece = value[start : start + _PIECE_ROWS]
        plain = piece.tolist() if isinstance(piece, np.ndarray) else list(piece)
        yield (", " if start else "") + json.dumps(plain, sort_keys=True)[1:-1]
    yield "]"


def content_hash(
    *,
    ids: Sequence[str] | NDArray[np.str_],
    formulas: Sequence[str] | NDArray[np.str_],
    groups: Sequence[str] | NDArray[np.str_],
    is_train: NDArray[np.bool_],
    X: NDArray[np.float64],
    y: NDArray[np.float64],
    columns: Sequence[Column],
    target: Target,
    more_targets: Sequence[Target] = (),
    X_new: NDArray[np.float64] | None = None,
    weights: NDArray[np.float64] | None = None,
    test_fold: NDArray[np.int64] | None = None,
    bounds: NDArray[np.float64] | None = None,
) -> str:
    """Return the hash of a whole table; see `ContentHash`."""
    digest = ContentHash(
        ids=ids,
        formulas=formulas,
        groups=groups,
        is_train=is_train,
        y=y,
        columns=columns,
        target=target,
        more_targets=more_targets,
        weights=weights,
        test_fold=test_fold,
        bounds=bounds,
    )
    digest.add(X)
    if X_new is not None and not np.array_equal(X, X_new, equal_nan=True):
        digest.add(X_new)
    return digest.hexdigest()
