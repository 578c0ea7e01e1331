"""Cross-validation splits: made once per study, the same in every trial."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable, TableView
from hpo.errors import ObjectiveError
from hpo.objectives.splitters import Indices, Rows, split
from hpo.spec.cv import AnyCv, GroupKFoldCv, InterleavedCv, KFoldCv, LikeTestCv, SplitterCv
from hpo.spec.sections import StudySpec


@dataclass(frozen=True, eq=False)
class Fold:
    """Row indices into the training part of a table.

    Attributes
    ----------
    train, validation
        Arrays of shape (n_train,) and (n_validation,), ascending and disjoint.
    """

    train: Indices
    validation: Indices


def make_folds(
    cv: AnyCv, groups: NDArray[np.str_], rows: Rows | None = None, *, seed: int = 42
) -> tuple[Fold, ...]:
    """Split the training rows of a table.

    Parameters
    ----------
    cv
        The scheme, or the splitter, of the study file.
    groups
        Array of shape (n_rows,): the group of every training row, in file order.
    rows
        What else a splitter may ask for.
    seed
        The study's, for a splitter that takes one and is given none.

    Raises
    ------
    ObjectiveError
        If there are fewer rows or groups than folds, or the splitter cannot divide these rows.
    """
    if isinstance(cv, SplitterCv):
        return tuple(Fold(*parts) for parts in split(cv, rows or Rows(), groups, seed))
    everything = np.arange(len(groups), dtype=np.int64)
    return tuple(
        Fold(train=np.setdiff1d(everything, validation), validation=validation)
        for validation in _validation_rows(cv, groups)
    )


def folds_of(cv: AnyCv, table: FeatureTable, seed: int) -> tuple[Fold, ...]:
    """Split the training part of a table; see `make_folds`."""
    train = table.train
    classes = train.y.astype(np.int64) if table.target.classes else None
    return make_folds(cv, train.groups, Rows(train.X, train.y, classes, train.test_fold), seed=seed)


def hold_out(spec: StudySpec, table: FeatureTable) -> FeatureTable:
    """Return a study's table with the fold that `outer` names held out; without `outer`, the table.

    Raises
    ------
    ObjectiveError
        If there are fewer rows or groups than folds, no such fold, or one beside which rows are
        left that it neither trains nor validates on.
    """
    cv, train = spec.cv, table.train
    if cv is None or cv.outer is None:
        return table
    folds = folds_of(cv, table, spec.seed)
    if cv.outer >= len(folds):
        raise ObjectiveError(
            f"[cv] outer: must be below the number of folds, {len(folds)}, got {cv.outer}"
        )
    fold = folds[cv.outer]
    left = len(train.y) - len(fold.train) - len(fold.validation)
    if left:
        raise ObjectiveError(
            f"[cv] outer: fold {cv.outer} of {cv.name} leaves {left} rows out that it neither "
            "trains nor validates on, which nested cross-validation would train on; take a "
            "splitter whose folds use all rows"
        )
    return table.holding_out(fold.validation)


def hash_folds(folds: Sequence[Fold]) -> str:
    """Return the SHA-256 of the splits, independent of how they were made."""
    digest = hashlib.sha256()
    for fold in folds:
        for part in (fold.train, fold.validation):
            digest.update(np.int64(len(part)).tobytes())
            digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


def weigh_groups(groups: NDArray[np.str_], power: float) -> NDArray[np.float64]:
    """Return a weight per row, size^-power of its group, with the mean 1; arrays (n_rows,)."""
    _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = sizes[group_of_row].astype(np.float64) ** -power
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def row_weights(spec: StudySpec, train: TableView) -> NDArray[np.float64] | None:
    """Return what each training row counts in a fit: by the table, by its group, or by both."""
    if spec.fit is None:
        return train.weights
    by_group = weigh_groups(train.groups, spec.fit.group_weight)
    return by_group if train.weights is None else by_group * train.weights


def times_validated(folds: Sequence[Fold], n_rows: int) -> Indices:
    """Return how many folds validate each row; array of shape (n_rows,)."""
    validated = np.concatenate([fold.validation for fold in folds])
    return np.bincount(validated, minlength=n_rows).astype(np.int64)


def mean_repeats(folds: Sequence[Fold], n_rows: int) -> float:
    """Return how many folds validate a row in the mean, of the rows that any does.

    Scores of so many folds say no more of the error than one would: they are of the same rows.
    """
    times = times_validated(folds, n_rows)
    return float(times[times > 0].mean())


def shared_group_fraction(folds: Sequence[Fold], groups: NDArray[np.str_]) -> float:
    """Return the fraction of validation rows whose group also has rows in their training part.

    Above zero, cross-validation asks for less than a new group of materials would.
    """
    shared = sum(int(np.isin(groups[fold.validation], groups[fold.train]).sum()) for fold in folds)
    return shared / sum(len(fold.validation) for fold in folds)


def _validation_rows(
    cv: InterleavedCv | KFoldCv | GroupKFoldCv | LikeTestCv, groups: NDArray[np.str_]
) -> list[Indices]:
    # It takes a second, which studies without a table need not wait.
    from sklearn.model_selection import GroupKFold, KFold

    rows = np.arange(len(groups), dtype=np.int64)
    if isinstance(cv, InterleavedCv | KFoldCv):
        _need(len(rows), cv, "rows")
        if isinstance(cv, InterleavedCv):
            return [rows[k :: cv.folds] for k in range(cv.folds)]
        splitter = KFold(cv.folds, shuffle=True, random_state=cv.seed)
        return [np.sort(validation) for _, validation in splitter.split(rows)]
    if isinstance(cv, LikeTestCv):
        _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        rows = rows[sizes[group_of_row] <= cv.max_group_rows]
    _need(len(np.unique(groups[rows])), cv, "groups that may be validated on")
    splitter = GroupKFold(cv.folds)
    return [np.sort(rows[part]) for _, part in splitter.split(rows, groups=groups[rows])]


def _need(available: int, cv: Any, what: str) -> None:
    if available < cv.folds:
        raise ObjectiveError(
            f"[cv] scheme {cv.scheme}: {cv.folds} folds need at least {cv.folds} {what}, "
            f"the training part of the table has {available}"
        )
