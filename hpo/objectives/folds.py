"""Cross-validation splits: made once per study, the same in every trial."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable
from hpo.errors import ObjectiveError
from hpo.spec.sections import GroupKFoldCv, InterleavedCv, KFoldCv, LikeTestCv

Indices = NDArray[np.int64]
AnyCv = InterleavedCv | KFoldCv | GroupKFoldCv | LikeTestCv


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


def make_folds(cv: AnyCv, groups: NDArray[np.str_]) -> tuple[Fold, ...]:
    """Split the training rows of a table.

    Parameters
    ----------
    cv
        The scheme of the study file.
    groups
        Array of shape (n_rows,): the group of every training row, in file order.

    Raises
    ------
    ObjectiveError
        If there are fewer rows or groups than folds.
    """
    rows = np.arange(len(groups), dtype=np.int64)
    return tuple(
        Fold(train=np.setdiff1d(rows, validation), validation=validation)
        for validation in _validation_rows(cv, groups)
    )


def hold_out(cv: AnyCv | None, table: FeatureTable) -> FeatureTable:
    """Return the table with the fold that `outer` names held out; without `outer`, the table.

    Raises
    ------
    ObjectiveError
        If there are fewer rows or groups than folds.
    """
    if cv is None or cv.outer is None:
        return table
    return table.holding_out(make_folds(cv, table.train.groups)[cv.outer].validation)


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


def shared_group_fraction(folds: Sequence[Fold], groups: NDArray[np.str_]) -> float:
    """Return the fraction of validation rows whose group also has rows in their training part.

    Above zero, cross-validation asks for less than a new group of materials would.
    """
    shared = sum(int(np.isin(groups[fold.validation], groups[fold.train]).sum()) for fold in folds)
    return shared / sum(len(fold.validation) for fold in folds)


def _validation_rows(cv: AnyCv, groups: NDArray[np.str_]) -> list[Indices]:
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
