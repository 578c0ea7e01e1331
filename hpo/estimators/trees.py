"""The trees of `trees.c`, which is compiled when this package is installed.

What it does there, and why the trees are those of scikit-learn bit for bit, is told at its head.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.machinery
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpo.estimators.suitability import SUITABLE, Verdict, declined

Floats = NDArray[np.float64]
Targets = tuple[NDArray[np.float32], NDArray[np.float32]]
SOURCE = Path(__file__).with_name("trees.c")
LIBRARY = Path(__file__).with_name("_trees" + importlib.machinery.EXTENSION_SUFFIXES[0])
NO_LIMIT = np.iinfo(np.int32).max
# Rows that a column lists on average: above this, sums over bins are cheaper than lists.
MAX_LISTED = 5_000
# Both are counted by 16 bits.
MAX_ROWS, MAX_COLUMNS = 65_535, 65_535
SLOWER = "without them trials give the same scores, but take 4 to 5 times as long"


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Task(ctypes.Structure):
    """The structure of this name in `trees.c`."""

    _fields_ = (
        *_fields(ctypes.c_int32, "n_rows n_features n_others missing_bin"),
        *_fields(ctypes.c_void_p, "bins others listed n_listed has_missing"),
        *_fields(ctypes.c_int32, "max_leaves max_depth min_samples_leaf is_weighted"),
        *_fields(ctypes.c_double, "l2 shrinkage"),
        *_fields(ctypes.c_void_p, "gradients hessians draws workspace"),
        *_fields(ctypes.c_int32, "n_leaves n_draws"),
        *_fields(ctypes.c_void_p, "order leaf_start leaf_stop leaf_value"),
    )


def source() -> str:
    """Return the text that is compiled."""
    return SOURCE.read_text(encoding="utf-8")


class TreeSettings(Protocol):
    """What a regressor says of its trees: attributes of `HistGradientBoostingRegressor`."""

    max_bins: int
    max_leaf_nodes: int | None
    max_depth: int | None
    min_samples_leaf: int
    l2_regularization: float
    learning_rate: float


def installed() -> Verdict:
    """Return whether there are compiled trees here that are those of their source."""
    found = _load()
    return found if isinstance(found, Verdict) else SUITABLE


@functools.cache
def _load() -> ctypes.CDLL | Verdict:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        # Elsewhere scikit-learn may have been compiled with other roundings.
        return declined(
            f"compiled trees are known to be right on x86-64, not on {platform.machine()}"
        )
    again = "run `make demo` or `pip install --editable .` again"
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as exc:
        return declined(f"compiled trees: {LIBRARY.name} cannot be loaded ({exc}); {again}")
    library.source_hash.restype = ctypes.c_char_p
    if library.source_hash().decode() != hashlib.sha256(SOURCE.read_bytes()).hexdigest():
        return declined(
            f"compiled trees: {SOURCE.name} was changed after {LIBRARY.name} was made; {again}"
        )
    task = ctypes.POINTER(_Task)
    library.workspace_size.restype = ctypes.c_int64
    library.workspace_size.argtypes = [task]
    library.grow.restype = ctypes.c_int32
    library.grow.argtypes = [task]
    library.add_tree.restype = None
    library.add_tree.argtypes = [task, ctypes.c_void_p, ctypes.c_void_p]
    return library


@dataclass(frozen=True)
class Listed:
    """The rows of each column outside of its lowest bin, those of the highest bin first.

    Attributes
    ----------
    rows
        Array of shape (total,): one column after the other.
    numbers
        Array of shape (n_features,): how many there are of each.
    """

    rows: NDArray[np.uint16]
    numbers: NDArray[np.int32]

    @classmethod
    def of(cls, bins: NDArray[np.uint8]) -> Listed:
        """List the rows of an array of bins of shape (n_rows, n_features)."""
        columns = bins.T
        order = np.argsort(columns, axis=1, kind="stable")[:, ::-1]
        is_listed = np.take_along_axis(columns, order, axis=1) > 0
        return cls(order[is_listed].astype(np.uint16), is_listed.sum(axis=1, dtype=np.int32))


def judge_size(n_rows: int, n_columns: int, n_listed: int) -> Verdict:
    """Return whether trees of so many rows and columns are grown sooner here, if they can be.

    `n_listed` is how many entries are outside of the lowest bins of their columns. What is done
    here grows with it, and what scikit-learn does with all entries, and with the number of bins.
    """
    if n_rows > MAX_ROWS or n_columns > MAX_COLUMNS:
        return declined(
            f"more than {MAX_ROWS} rows or {MAX_COLUMNS} columns go to scikit-learn's own trees"
        )
    if n_listed > MAX_LISTED * n_columns:
        return declined(
            f"columns with more than {MAX_LISTED} rows outside of their lowest bins, on average, "
            "go to scikit-learn's own trees"
        )
    return SUITABLE


def judge(n_rows: int, n_columns: int, n_listed: int) -> Verdict:
    """Return whether trees are grown here, as `judge_size` has it, and if they can be."""
    size = judge_size(n_rows, n_columns, n_listed)
    return installed() if size.suits else size


class Draws:
    """Which columns each split may look at, as scikit-learn draws them, one split after the other.

    Parameters
    ----------
    source
        The stream of random numbers; nothing else may draw from it.
    n_columns, fraction
        Of how many columns which fraction is drawn.
    """

    def __init__(self, source: np.random.Generator, n_columns: int, fraction: float) -> None:
        self._source = source
        self._one = np.zeros(n_columns, dtype=bool)
        self._one[: max(1, math.ceil(fraction * n_columns))] = True
        self._waiting = np.empty((0, n_columns), dtype=bool)

    def have(self, number: int) -> NDArray[np.bool_]:
        """Return the next draws, at least so many, of shape (n_draws, n_columns)."""
        lacking = max(0, number - len(self._waiting))
        if lacking:
            more = np.tile(self._one, (lacking, 1))
            for draw in more:
                self._source.shuffle(draw)
            self._waiting = np.concatenate([self._waiting, more])
        return self._waiting

    def used(self, number: int) -> None:
        """Go on after so many draws."""
        self._waiting = self._waiting[number:]

    def shuffle(self, columns: NDArray[np.bool_]) -> None:
        """Overwrite an array of shape (n_columns,) with the next draw, in place of a generator."""
        columns[:] = self.have(1)[0]
        self.used(1)


class Grower:
    """Grows one tree after the other on the same rows.

    Parameters
    ----------
    bins
        Array of shape (n_rows, n_features), columns together in memory.
    listed
        What is listed of it.
    others
        Array of shape (n_others, n_features): bins of the rows that are predicted only.
    has_missing
        Array of shape (n_features,): whether some of the rows have no value.
    targets
        Gradients and hessians: arrays of shape (n_rows,), the second one of shape (1,) if all are
        alike; read anew by every `grow`.
    model
        The regressor with the settings of the trees.
    draws
        Which columns splits may look at; None for all.
    """

    def __init__(
        self,
        bins: NDArray[np.uint8],
        listed: Listed,
        others: NDArray[np.uint8],
        has_missing: NDArray[np.uint8],
        targets: Targets,
        model: TreeSettings,
        draws: Draws | None,
    ) -> None:
        n_rows, n_features = bins.shape
        self._draws = draws
        self._order = np.empty(n_rows, dtype=np.uint16)
        self._start, self._stop = (np.empty(n_rows, dtype=np.int32) for _ in range(2))
        self._values = np.empty(n_rows)
        gradients, hessians = targets
        # Kept as long as the task is, which knows their addresses only.
        self._arrays: dict[str, NDArray[Any]] = {
            "bins": bins,
            "others": others,
            "listed": listed.rows,
            "n_listed": listed.numbers,
            "has_missing": has_missing,
            "gradients": gradients,
            "hessians": hessians,
            "order": self._order,
            "leaf_start": self._start,
            "leaf_stop": self._stop,
            "leaf_value": self._values,
        }
        self._task = _Task(
            n_rows=n_rows,
            n_features=n_features,
            n_others=len(others),
            missing_bin=model.max_bins,
            max_leaves=NO_LIMIT if model.max_leaf_nodes is None else model.max_leaf_nodes,
            max_depth=NO_LIMIT if model.max_depth is None else model.max_depth,
            min_samples_leaf=model.min_samples_leaf,
            is_weighted=len(hessians) > 1,
            l2=model.l2_regularization,
            shrinkage=model.learning_rate,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )
        library = _load()
        assert isinstance(library, ctypes.CDLL), library
        self._library, self._reference = library, ctypes.byref(self._task)
        self._workspace = np.empty(library.workspace_size(self._reference), dtype=np.uint8)
        self._task.workspace = self._workspace.ctypes.data

    def grow(self) -> bool:
        """Grow a tree; return False if its sums would be rounded, so that order mattered."""
        if self._draws is None:
            return int(self._library.grow(self._reference)) == 0
        most_leaves = min(self._task.max_leaves, self._task.n_rows // self._task.min_samples_leaf)
        draws = self._draws.have(2 * max(1, most_leaves))
        self._task.draws = draws.ctypes.data
        grown = int(self._library.grow(self._reference)) == 0
        if grown:
            self._draws.used(self._task.n_draws)
        return grown

    @property
    def leaves(self) -> list[NDArray[np.uint16]]:
        """The rows in each leaf of the last tree."""
        n_leaves = self._task.n_leaves
        ends = zip(self._start[:n_leaves], self._stop[:n_leaves], strict=True)
        return [self._order[start:stop] for start, stop in ends]

    @property
    def values(self) -> Floats:
        """What each leaf of the last tree is worth; may be changed before `add`."""
        return self._values[: self._task.n_leaves]

    def add(self, of_rows: Floats, of_others: Floats) -> None:
        """Add what the last tree predicts: to an array of shape (n_rows,), and (n_others,)."""
        self._library.add_tree(self._reference, of_rows.ctypes.data, of_others.ctypes.data)
