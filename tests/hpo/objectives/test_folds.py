"""Cross-validation splits: what each scheme promises, on made-up groups and on OBELiX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import ObjectiveError
from hpo.objectives.folds import Fold, hash_folds, make_folds, shared_group_fraction
from hpo.spec.cv import GroupKFoldCv, InterleavedCv, KFoldCv, LikeTestCv

GROUPS = np.array([f"g{i}" for i in (0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 6)])
SCHEMES: list[Any] = [
    InterleavedCv(scheme="interleaved", folds=3),
    KFoldCv(scheme="kfold", folds=3, seed=1),
    GroupKFoldCv(scheme="group_kfold", folds=3),
    LikeTestCv(scheme="test_like", folds=3, max_group_rows=2),
]


@pytest.mark.parametrize("cv", SCHEMES, ids=lambda cv: cv.scheme)
def test_a_fold_divides_all_rows_and_no_row_is_validated_twice(cv):
    folds = make_folds(cv, GROUPS)
    validated = np.concatenate([fold.validation for fold in folds])
    assert len(set(validated)) == len(validated)
    for fold in folds:
        assert len(fold.validation) > 0
        together = np.sort(np.concatenate([fold.train, fold.validation]))
        np.testing.assert_array_equal(together, np.arange(len(GROUPS)))


@pytest.mark.parametrize("cv", SCHEMES, ids=lambda cv: cv.scheme)
def test_splits_are_the_same_every_time(cv):
    assert hash_folds(make_folds(cv, GROUPS)) == hash_folds(make_folds(cv, GROUPS))


def test_interleaved_gives_row_i_to_fold_i_mod_k():
    folds = make_folds(SCHEMES[0], GROUPS)
    for k, fold in enumerate(folds):
        assert set(fold.validation % 3) == {k}


def test_kfold_is_scikit_learns_shuffled_kfold():
    from sklearn.model_selection import KFold

    folds = make_folds(SCHEMES[1], GROUPS)
    theirs = KFold(3, shuffle=True, random_state=1).split(GROUPS)
    for fold, (train, validation) in zip(folds, theirs, strict=True):
        np.testing.assert_array_equal(fold.train, train)
        np.testing.assert_array_equal(fold.validation, validation)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=4, max_size=30),
    folds=st.integers(2, 4),
    limit=st.integers(1, 12),
)
def test_grouped_schemes_never_share_a_group(sizes, folds, limit):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    schemes: list[Any] = [GroupKFoldCv(scheme="group_kfold", folds=folds)]
    if sum(size <= limit for size in sizes) >= folds:
        schemes.append(LikeTestCv(scheme="test_like", folds=folds, max_group_rows=limit))
    for cv in schemes:
        assert shared_group_fraction(make_folds(cv, groups), groups) == 0.0


def test_test_like_validates_small_groups_alone():
    folds = make_folds(SCHEMES[3], GROUPS)
    validated = np.concatenate([fold.validation for fold in folds])
    assert set(GROUPS[validated]) == {"g1", "g2", "g3", "g4", "g5", "g6"}
    for fold in folds:
        assert set(np.flatnonzero(GROUPS == "g0")) <= set(fold.train)


def test_shared_group_fraction_counts_validated_rows():
    groups = np.array(["a", "a", "b", "c"])
    fold = Fold(train=np.array([0, 2]), validation=np.array([1, 3]))
    assert shared_group_fraction([fold], groups) == 0.5


def test_the_hash_depends_on_the_split():
    assert len({hash_folds(make_folds(cv, GROUPS)) for cv in SCHEMES}) == len(SCHEMES)


@pytest.mark.parametrize(
    ("cv", "what"),
    [
        (InterleavedCv(scheme="interleaved", folds=20), "20 folds need at least 20 rows"),
        (GroupKFoldCv(scheme="group_kfold", folds=8), "has 7"),
        (LikeTestCv(scheme="test_like", folds=4, max_group_rows=1), "has 3"),
    ],
)
def test_too_few_rows_or_groups_is_said(cv, what):
    with pytest.raises(ObjectiveError, match=what):
        make_folds(cv, GROUPS)
