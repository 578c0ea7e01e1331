"""Prototype transfer: rows without a usable CIF borrow from training structures like theirs.

Isostructural compounds have like surroundings of Li: where no CIF can be described, the mean over
the nearest prototypes is a better guess than 0. A prototype of a row is a *training* row whose own
CIF was described (its family's indicator is 1), with

- the same space-group number,
- lattice lengths a, b, c that each differ by at most 6 % of the row's own,
- a composition distance below 0.6: the sum over the elements of the absolute difference of the
  atomic fractions, between 0 for the same composition and 2 for no element in common.

The nearest three by composition distance (ties by id) are averaged, fewer where there are fewer.

What is borrowed depends on formulas, cells and CIFs alone, never on a target. A row's prototypes
may be in another fold of a cross-validation than the row itself: that shares what is known of their
structures, as for every new material, and no measured value. Held-out rows and candidates borrow,
and never lend.

A training row may have its prototypes in its own group, the same paper or material, and a new
material has none there. So each row has a second set of features, those that it would have if it
were new (`X_new` of a table): with prototypes of other groups alone. Folds of whole groups
validate on these; else they would promise what held-out rows do not keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ELEMENTS
from features.families.registry import FAMILIES, TRANSFER, TRANSFER_COLUMNS
from features.records import Column
from features.rows import VALUE_DECIMALS, Log, Remark

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Labels = NDArray[np.str_]

MAX_PROTOTYPES = 3
LENGTH_TOLERANCE = 0.06  # relative
MAX_DISTANCE = 0.6  # of 2

_CHUNK_ROWS = 500  # keeps the arrays of pairs by elements small


class Transfer(Protocol):
    """What a table's spec says about it."""

    @property
    def family_columns(self) -> tuple[Column, ...]:
        """The columns that families make, those of the transfer at the end."""

    @property
    def transfer(self) -> tuple[str, ...]:
        """The families whose values are borrowed."""


@dataclass(frozen=True, eq=False)
class Borrowed:
    """A table's values with those that rows borrowed.

    Attributes
    ----------
    X : array of shape (n_rows, n_columns + 2)
        The columns of the families and of the transfer.
    reasons : dict of family to dict
        From which training rows the values are, by row; the rows that borrowed alone.
    """

    X: Array
    reasons: Mapping[str, Mapping[int, str]]

    def remarks(self, family: str) -> tuple[Remark, ...]:
        """Return the reasons as a family's remarks; none for a family that is not borrowed."""
        return tuple(Remark(row, why) for row, why in self.reasons.get(family, {}).items())

    def tell(self, log: Log) -> None:
        """Log how many rows borrowed."""
        counts = ", ".join(f"{name} {len(said)}" for name, said in self.reasons.items())
        log(f"{TRANSFER}: rows that borrow: {counts}")


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Rows and their prototypes, by row, then from the nearest to the farthest."""

    row: Indices
    donor: Indices
    distance: Array

    def take(self, kept: NDArray[np.bool_]) -> _Pairs:
        """Return some of the pairs, in their order."""
        return _Pairs(self.row[kept], self.donor[kept], self.distance[kept])


def borrow(
    X: Array,
    spec: Transfer,
    donor_X: Array,
    donor_ids: Sequence[str],
    *,
    groups: Labels | None = None,
    donor_groups: Labels | None = None,
) -> Borrowed:
    """Give rows whose CIF could not be described the mean values of their prototypes.

    In each family of `spec.transfer` a row whose indicator is 0 gets, in every other column, the
    mean over its prototypes; the indicator stays 0. Two columns are added: `n_prototypes`, how
    many different training rows were borrowed from (0 where none is like the row, or none is
    needed), and `prototype_distance`, the mean composition distance to them (0 without any).

    Parameters
    ----------
    X : array of shape (n_rows, n_columns)
        The families' columns.
    spec : Transfer
        `family_columns` names these columns, and the two that are added.
    donor_X : array of shape (n_donors, at least n_columns)
        The same columns of the training rows, in any order, before or after they borrowed.
    donor_ids : sequence of str
        Their identifiers.
    groups, donor_groups : arrays of shape (n_rows,) and (n_donors,), optional
        Groups of the rows and of the donors; where given, nobody borrows from the own group.
    """
    own = spec.family_columns[: -len(TRANSFER_COLUMNS)]
    position = {column.name: index for index, column in enumerate(spec.family_columns)}
    indicators = [position[FAMILIES[name].indicator] for name in spec.transfer]
    pairs = _find_pairs(
        X,
        donor_X,
        position,
        needy=np.flatnonzero((X[:, indicators] != 1.0).any(axis=1)),
        able=np.flatnonzero((donor_X[:, indicators] == 1.0).any(axis=1)),
        donor_ids=donor_ids,
    )
    if groups is not None and donor_groups is not None:
        pairs = pairs.take(groups[pairs.row] != donor_groups[pairs.donor])
    values = np.hstack([X, np.zeros((len(X), len(TRANSFER_COLUMNS)))])
    used = np.zeros(len(pairs.row), dtype=bool)
    reasons = {}
    for name, indicator in zip(spec.transfer, indicators, strict=True):
        chosen = _nearest(
            pairs,
            (X[pairs.row, indicator] != 1.0) & (donor_X[pairs.donor, indicator] == 1.0),
        )
        columns = np.flatnonzero(
            [column.family == name and position[column.name] != indicator for column in own]
        )
        rows, means = _means(pairs, chosen, donor_X[:, columns])
        values[np.ix_(rows, columns)] = means
        used[chosen] = True
        reasons[name] = _say(pairs, chosen, donor_ids)
    n_used = np.bincount(pairs.row[used], minlength=len(X))
    total = np.bincount(pairs.row[used], pairs.distance[used], minlength=len(X))
    values[:, position["n_prototypes"]] = n_used
    values[:, position["prototype_distance"]] = total / np.maximum(n_used, 1)
    np.round(values, VALUE_DECIMALS, out=values)
    values += 0.0  # minus zero is zero
    return Borrowed(values, reasons)


def without_borrowed(X: Array, spec: Transfer) -> Array:
    """Return the families' columns of a table as they were before rows borrowed.

    Parameters
    ----------
    X : array of shape (n_rows, n_columns + 2)
        What `borrow` returned.
    """
    own = X[:, : -len(TRANSFER_COLUMNS)].copy()
    families = np.array([column.family for column in spec.family_columns[: own.shape[1]]])
    position = {column.name: index for index, column in enumerate(spec.family_columns)}
    for name in spec.transfer:
        missing = own[:, position[FAMILIES[name].indicator]] != 1.0
        # What no CIF describes is 0 in every column, the indicator among them.
        own[np.ix_(missing, families == name)] = 0.0
    return own


def _find_pairs(
    X: Array,
    donor_X: Array,
    position: Mapping[str, int],
    *,
    needy: Indices,
    able: Indices,
    donor_ids: Sequence[str],
) -> _Pairs:
    """Find the prototypes of each row."""
    group = position["space_group_number"]
    lengths = [position[f"lattice_{axis}"] for axis in "abc"]
    elements = [position[f"smact_{symbol}"] for symbol in ELEMENTS]
    found: list[tuple[Indices, Indices, Array]] = [
        (np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), np.zeros(0))
    ]
    for number in np.unique(donor_X[able, group]):
        donors = able[donor_X[able, group] == number]
        rows = needy[X[needy, group] == number]
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            own = X[np.ix_(chunk, lengths)][:, None]
            apart = np.abs(own - donor_X[np.ix_(donors, lengths)])
            at_row, at_donor = np.nonzero((apart <= LENGTH_TOLERANCE * own).all(axis=-1))
            row, donor = chunk[at_row], donors[at_donor]
            apart = np.abs(X[np.ix_(row, elements)] - donor_X[np.ix_(donor, elements)])
            distance = np.round(apart.sum(axis=1), VALUE_DECIMALS)
            near = distance < MAX_DISTANCE
            found.append((row[near], donor[near], distance[near]))
    row, donor, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    rank_of_id = np.argsort(np.argsort(np.array(donor_ids, dtype=np.str_)))
    order = np.lexsort((rank_of_id[donor], distance, row))
    return _Pairs(row[order], donor[order], distance[order])


def _nearest(pairs: _Pairs, fits: NDArray[np.bool_]) -> Indices:
    """Return the positions of the first few pairs of each row among those that fit."""
    fitting = np.flatnonzero(fits)
    rows = pairs.row[fitting]
    return fitting[np.arange(len(rows)) - np.searchsorted(rows, rows) < MAX_PROTOTYPES]


def _means(pairs: _Pairs, chosen: Indices, values: Array) -> tuple[Indices, Array]:
    """Return the rows of the chosen pairs, and the means of their donors' values."""
    rows, first, counts = np.unique(pairs.row[chosen], return_index=True, return_counts=True)
    sums = np.zeros((len(rows), values.shape[1]))
    for nth in range(MAX_PROTOTYPES):  # one after the other: every row adds in the same order
        having = np.flatnonzero(counts > nth)
        sums[having] += values[pairs.donor[chosen[first[having] + nth]]]
    return rows, sums / counts[:, None]


def _say(pairs: _Pairs, chosen: Indices, donor_ids: Sequence[str]) -> dict[int, str]:
    """Say of each row with chosen pairs from whom it borrows."""
    of_row: dict[int, list[str]] = {}
    for pair in chosen.tolist():
        donor, distance = donor_ids[pairs.donor[pair]], pairs.distance[pair]
        said = f"{donor} (composition distance {distance:.3g})"
        of_row.setdefault(int(pairs.row[pair]), []).append(said)
    return {row: f"borrowed from {', '.join(said)}" for row, said in of_row.items()}
