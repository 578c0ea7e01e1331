"""Splitters of scikit-learn's kind that a study file names: found, made, and their folds checked.

A class is one of `sklearn.model_selection` by its name, or any other one as `module:Class`; there
is no list of ours to keep up. One's own is made as `Class(**params)` and has a method `split(X, y,
groups)`, or `split(X, y)`, that yields pairs of arrays of row numbers, as scikit-learn's do.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import HpoError, ObjectiveError, SpecError, suggest
from hpo.plugins import check_params, missing_params, resolve
from hpo.spec.cv import SplitterCv
from hpo.wording import one_line

Indices = NDArray[np.int64]
# Every fold is fitted in every trial, and keeps its scores there.
MAX_FOLDS = 1000


@dataclass(frozen=True, eq=False)
class Rows:
    """What a splitter may be told of rows, beside their groups; None for what there is not.

    Attributes
    ----------
    X, y
        Arrays of shape (n_rows, n_features) and (n_rows,).
    classes
        Array of shape (n_rows,): the class of each row; None where the target is a number.
    test_fold
        Array of shape (n_rows,): the fold that each row is validated in, -1 for those that never
        are; what PredefinedSplit divides by where `params` do not say it.
    """

    X: NDArray[np.float64] | None = None
    y: NDArray[Any] | None = None
    classes: NDArray[Any] | None = None
    test_fold: NDArray[np.int64] | None = None


def split(
    cv: SplitterCv, rows: Rows, groups: NDArray[np.str_], seed: int
) -> list[tuple[Indices, Indices]]:
    """Return the training and the validated rows of every fold, both ascending.

    Parameters
    ----------
    cv
        Which splitter, as in the study file.
    rows
        What else it may be told.
    groups
        Array of shape (n_rows,).
    seed
        Its `random_state`, where it takes one and is given none.

    Raises
    ------
    SpecError
        If there is no such class, or it does not take these arguments.
    ObjectiveError
        If it cannot divide these rows, or its folds are none.
    """
    splitter = _make(cv, rows, seed)
    what = f"[cv] splitter {cv.splitter}"
    divided = getattr(splitter, "test_fold", None)
    if divided is not None and np.shape(divided) != (len(groups),):
        raise ObjectiveError(
            f"{what}: test_fold needs one fold for each of the {len(groups)} rows, has "
            f"{np.size(divided)}"
        )
    y = _labels(cv, splitter, rows)
    given: dict[str, Any] = {"groups": groups} if _takes_groups(splitter) else {}
    X = np.empty((len(groups), 0)) if rows.X is None else rows.X
    try:
        with warnings.catch_warnings():
            # Such as that a class has fewer members than there are folds.
            warnings.simplefilter("error", UserWarning)
            found = []
            for parts in splitter.split(X, y, **given):
                found.append(parts)
                if len(found) > MAX_FOLDS:
                    raise ValueError(f"makes more than {MAX_FOLDS} folds, each of which is fitted")
    except HpoError:
        raise
    except Exception as exc:  # one's own class may raise anything
        raise ObjectiveError(
            f"{what}: cannot divide the {len(groups)} training rows: {one_line(str(exc))}"
        ) from exc
    if not found:
        raise ObjectiveError(f"{what}: makes no folds of the {len(groups)} training rows")
    return [_checked(parts, len(groups), f"{what}: fold {k}") for k, parts in enumerate(found)]


def _make(cv: SplitterCv, rows: Rows, seed: int) -> Any:
    cls = _find(cv.splitter)
    parameters = inspect.signature(cls).parameters
    check_params(cls, cv.params, "cv")
    arguments = dict(cv.params)
    if "test_fold" in parameters and "test_fold" not in arguments and rows.test_fold is not None:
        arguments["test_fold"] = rows.test_fold
    if "random_state" in parameters and _draws(parameters, arguments):
        arguments.setdefault("random_state", seed)
    if missing := missing_params(cls, arguments):
        raise SpecError(f"[cv] {cls.__name__} needs params.{' and params.'.join(missing)}")
    try:
        made = cls(**arguments)
    except Exception as exc:  # one's own class may raise anything
        raise SpecError(
            f"[cv] splitter: {cls.__name__} refuses {dict(cv.params)}: {one_line(str(exc))}"
        ) from exc
    if not callable(getattr(made, "split", None)):
        raise SpecError(f"[cv] splitter: '{cv.splitter}' has no method split(X, y, groups)")
    return made


def _find(name: str) -> Any:
    # It takes a second, which studies without a table need not wait.
    import sklearn.model_selection as there
    from sklearn.model_selection import BaseCrossValidator, BaseShuffleSplit

    if ":" in name:
        found = resolve(name, "[cv] splitter")
        if not callable(found):
            raise SpecError(f"[cv] splitter: '{name}' is no class")
        return found
    known = {
        key: value
        for key, value in vars(there).items()
        if isinstance(value, type)
        and issubclass(value, BaseCrossValidator | BaseShuffleSplit | there.RepeatedKFold.__base__)
        and not inspect.isabstract(value)
    }
    if name not in known:
        hint = suggest(name, [*known, "module:Class"])
        raise SpecError(f"[cv] splitter: unknown '{name}'; {hint}")
    return known[name]


def _draws(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a splitter draws rows at random: KFold refuses a seed where it does not."""
    if "shuffle" not in parameters:
        return True
    return bool(arguments.get("shuffle", parameters["shuffle"].default))


def _takes_groups(splitter: Any) -> bool:
    # scikit-learn's own all have the argument, and those that do not need it warn of it.
    if type(splitter).__module__.partition(".")[0] == "sklearn":
        return hasattr(splitter, "set_split_request")
    return "groups" in inspect.signature(splitter.split).parameters


def _labels(cv: SplitterCv, splitter: Any, rows: Rows) -> NDArray[Any] | None:
    """Return what is told as `y`: the classes, where a splitter keeps their shares alike."""
    if "Stratified" not in type(splitter).__name__:
        return rows.y
    if rows.classes is None:
        raise ObjectiveError(
            f"[cv] splitter {cv.splitter}: keeps the shares of classes alike in all folds, and the "
            "target is a number; take the one of this name without Stratified"
        )
    return rows.classes


def _checked(parts: Any, n_rows: int, what: str) -> tuple[Indices, Indices]:
    """Return a fold with ascending rows; refuse what is none."""
    try:
        train, validation = (_numbers(part, n_rows) for part in parts)
    except (TypeError, ValueError) as exc:
        raise ObjectiveError(
            f"{what} must be two arrays of row numbers, to train and to validate on: {exc}"
        ) from exc
    for side, of_side in (("trains", train), ("validates", validation)):
        if not len(of_side):
            raise ObjectiveError(f"{what} {side} on no row")
        if of_side[0] < 0 or of_side[-1] >= n_rows or (np.diff(of_side) == 0).any():
            raise ObjectiveError(
                f"{what} {side} on rows {of_side[0]} to {of_side[-1]}; each must be one of 0 to "
                f"{n_rows - 1}, once"
            )
    if both := len(np.intersect1d(train, validation)):
        raise ObjectiveError(f"{what} validates {both} rows that it trains on")
    return train, validation


def _numbers(part: Any, n_rows: int) -> Indices:
    numbers = np.asarray(part)
    if numbers.dtype == np.bool_ and numbers.shape == (n_rows,):
        numbers = np.flatnonzero(numbers)
    if numbers.ndim != 1 or (len(numbers) and not np.issubdtype(numbers.dtype, np.integer)):
        raise ValueError(f"got an array of {numbers.dtype} of shape {numbers.shape}")
    return np.sort(numbers.astype(np.int64))
