"""Splitters by name: folds are those that scikit-learn makes, and what is none is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.model_selection
from sklearn.model_selection import BaseCrossValidator, BaseShuffleSplit

from hpo.errors import HpoError, ObjectiveError, SpecError
from hpo.objectives.folds import hash_folds, make_folds, mean_repeats, times_validated
from hpo.objectives.splitters import Rows
from hpo.spec.cv import SplitterCv

GROUPS = np.repeat([f"g{k}" for k in range(8)], [1, 2, 3, 4, 5, 2, 1, 6])
N_ROWS = len(GROUPS)
X = np.random.default_rng(0).normal(size=(N_ROWS, 2))
Y = X[:, 0]
CLASSES = np.array(["metal", "insulator"])[np.arange(N_ROWS) % 2]
NEEDED: dict[str, dict[str, Any]] = {
    "LeavePOut": {"p": 2},
    "LeavePGroupsOut": {"n_groups": 2},
    "PredefinedSplit": {"test_fold": [k % 4 - 1 for k in range(N_ROWS)]},
}
NAMES = sorted(
    name
    for name, found in vars(sklearn.model_selection).items()
    if inspect.isclass(found) and hasattr(found, "split") and not inspect.isabstract(found)
)


def fold(name: str, params: dict[str, Any] | None = None, **rows: Any) -> Any:
    cv = SplitterCv(splitter=name, params=params or {})
    return make_folds(cv, GROUPS, Rows(**{"X": X, "y": Y, **rows}), seed=7)


def expect(name: str, params: dict[str, Any], y: Any) -> list[tuple[Any, Any]]:
    splitter = getattr(sklearn.model_selection, name)(**params)
    if isinstance(splitter, BaseCrossValidator | BaseShuffleSplit) and "Group" not in name:
        return list(splitter.split(X, y))
    return list(splitter.split(X, y, GROUPS) if "Group" in name else splitter.split(X, y))


@pytest.mark.parametrize("name", NAMES)
def test_folds_are_those_of_scikit_learn(name):
    params, stratified = NEEDED.get(name, {}), "Stratified" in name
    folds = fold(name, params, classes=CLASSES if stratified else None)
    parameters = inspect.signature(getattr(sklearn.model_selection, name)).parameters
    # What shuffles by itself is seeded; what does not is as it is.
    seeded = "random_state" in parameters and "shuffle" not in parameters
    theirs = expect(name, {**params, **({"random_state": 7} if seeded else {})}, CLASSES)
    assert len(folds) == len(theirs)
    for ours, (train, validation) in zip(folds, theirs, strict=True):
        np.testing.assert_array_equal(ours.train, np.sort(train))
        np.testing.assert_array_equal(ours.validation, np.sort(validation))
    if stratified:
        with pytest.raises(ObjectiveError, match="the target is a number"):
            fold(name, params)


def test_the_seed_of_the_study_fixes_the_folds_unless_they_have_their_own():
    shuffled = {"n_splits": 3, "shuffle": True}
    cv = SplitterCv(splitter="KFold", params=shuffled)
    hashes = {hash_folds(make_folds(cv, GROUPS, seed=seed)) for seed in (1, 1, 2)}
    assert len(hashes) == 2
    own = SplitterCv(splitter="KFold", params={**shuffled, "random_state": 5})
    assert len({hash_folds(make_folds(own, GROUPS, seed=seed)) for seed in (1, 2)}) == 1


def test_repeats_are_counted():
    repeated = fold("RepeatedKFold", {"n_splits": 3, "n_repeats": 4})
    assert set(times_validated(repeated, N_ROWS)) == {4}
    assert mean_repeats(repeated, N_ROWS) == 4.0
    later = fold("TimeSeriesSplit", {"n_splits": 3})
    assert set(times_validated(later, N_ROWS)) == {0, 1}
    assert mean_repeats(later, N_ROWS) == 1.0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("RepeatedKfold", {}, "unknown 'RepeatedKfold'; did you mean 'RepeatedKFold'"),
        ("KFold", {"folds": 3}, "params.folds: KFold has no such parameter; .*n_splits"),
        ("KFold", {"n_splits": 1}, "KFold refuses .*n_splits=2 or more"),
        ("KFold", {"n_splits": 99}, "99 greater than the number of samples"),
        ("GroupKFold", {"n_splits": 9}, "n_splits=9 greater than the number of groups: 8"),
        ("LeavePGroupsOut", {}, "needs params.n_groups"),
        ("PredefinedSplit", {}, "needs params.test_fold"),
        ("PredefinedSplit", {"test_fold": [0, 1]}, "needs one fold for each of the 24 rows, has 2"),
        ("LeavePOut", {"p": 4}, "more than 1000 folds"),
        ("os:getpid", {}, "has no method split"),
        ("nowhere:Split", {}, "cannot import 'nowhere'"),
    ],
)
def test_what_cannot_divide_is_refused(name, params, message):
    with pytest.raises(HpoError, match=message) as caught:
        fold(name, params)
    assert isinstance(caught.value, SpecError | ObjectiveError)


def test_a_class_with_fewer_members_than_folds_is_refused():
    few = np.where(np.arange(N_ROWS) < 2, "rare", "common")
    with pytest.raises(ObjectiveError, match="least populated class in y has only 2 members"):
        fold("StratifiedKFold", {"n_splits": 3}, classes=few)


OWN = """
import numpy as np

class Own:
    def __init__(self, how="good"):
        self.how = how

    def split(self, X, y, groups):
        rows = np.arange(len(X))
        assert len(X) == len(y) == len(groups)
        yield {
            "good": (rows[3:], rows[:3]),
            "mask": (rows >= 3, rows < 3),
            "both": (rows, rows[:3]),
            "none": (rows, rows[:0]),
            "beyond": (rows + 5, rows[:3]),
            "twice": (rows[3:], [0, 1, 1]),
            "floats": (rows[3:], rows[:3] / 2),
            "one": rows,
        }[self.how]
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("both", "fold 0 validates 3 rows that it trains on"),
        ("none", "fold 0 validates on no row"),
        ("beyond", "each must be one of 0 to 23, once"),
        ("twice", "each must be one of 0 to 23, once"),
        ("floats", "must be two arrays of row numbers"),
        ("one", "must be two arrays of row numbers"),
        ("else", "cannot divide the 24 training rows: 'else'"),
    ],
)
def test_a_splitter_of_ones_own(tmp_path: Path, monkeypatch, how, message):
    (tmp_path / "own_splitter.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for good in ("good", "mask"):
        (only,) = fold("own_splitter:Own", {"how": good})
        assert only.validation.tolist() == [0, 1, 2]
        assert len(only.train) == N_ROWS - 3
    with pytest.raises(ObjectiveError, match=message):
        fold("own_splitter:Own", {"how": how})
