"""Permutation importance: how much worse the best model predicts when columns are shuffled.

The columns of one feature family, or one column alone, are permuted together among the rows that
a fold validates, so that they keep their values and lose what they say of the row; the model of
that fold predicts these rows again. The increase of the error over all out-of-fold rows is the
family's importance. Breiman, Machine Learning 45, 5 (2001); Fisher, Rudin & Dominici, JMLR 20,
177 (2019). Correlated columns stand in for one another: what one of them says is not missed while
the others say it. Only training rows are touched, by the models that the folds have anyway.
scikit-learn's `permutation_importance` knows neither families of columns nor a model per fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable
from hpo.analysis.best_model import Evaluation
from hpo.estimators.probabilities import class_probabilities
from hpo.objectives.censored.bounds import Truth
from hpo.objectives.class_metrics import CLASS_METRICS
from hpo.objectives.metrics import pinball_loss, rmse, spearman, target_metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Error = Callable[[Any, Floats], float]

N_REPEATS = 5
N_COLUMNS = 20
MAX_ROWS = 1000  # more rows make no figure clearer
MAX_SCREENED = 50_000  # rows predicted in the search for the most important columns
CHUNK_CELLS = 1_000_000  # of the stacked copies that one call predicts


@dataclass(frozen=True)
class Importance:
    """How much worse predictions are without what some columns say.

    Attributes
    ----------
    name
        A feature family or a column.
    increase
        Of the error, in its unit: mean over repeats.
    spread
        Standard deviation over repeats; that of permuting, not of another training set.
    """

    name: str
    increase: float
    spread: float


@dataclass(frozen=True)
class Importances:
    """Feature families and the most important single columns, the most important first.

    Attributes
    ----------
    error
        What gets worse, in words.
    n_rows
        Number of out-of-fold rows.
    n_columns
        Number of columns that were looked at for the most important ones.
    """

    error: str
    families: tuple[Importance, ...]
    columns: tuple[Importance, ...]
    n_rows: int
    n_columns: int


@dataclass(frozen=True, eq=False)
class Validated:
    """Rows that folds validate, with the model of each fold.

    Attributes
    ----------
    models
        One for each fold.
    X
        Array of shape (n_rows, n_features).
    y, predicted, fold
        Arrays of shape (n_rows,); of a target with classes, `predicted` has the shape
        (n_rows, n_classes); of several targets, `y` and `predicted` have (n_rows, n_targets). `y`
        may be `Bounds` of so many rows.
    """

    models: Sequence[Any]
    X: Floats
    y: Truth
    predicted: Floats
    fold: Ints

    def some(self, most: int, seed: int) -> Validated:
        """Return these rows, or so many of them, drawn at random."""
        if len(self.y) <= most:
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self.y), most, replace=False))
        y, predicted, fold = self.y[rows], self.predicted[rows], self.fold[rows]
        return Validated(self.models, self.X[rows], y, predicted, fold)

    def predict(self, model: Any, X: Floats) -> Floats:
        """Return what a model predicts of rows, in the form of `predicted`."""
        if self.predicted.shape == self.y.shape:
            return np.asarray(model.predict(X), dtype=np.float64)
        return class_probabilities(model, X, self.predicted.shape[1])


def find_importances(evaluation: Evaluation, table: FeatureTable, *, seed: int) -> Importances:
    """Return what the models of the folds rely on.

    Single columns are searched with one permutation each; the most important ones are then
    permuted anew, several times, so that none is among them by one lucky permutation.

    Parameters
    ----------
    evaluation
        With the models of its folds.
    table
        Whose training rows these predict.
    seed
        Of the permutations.
    """
    word, error = _choose_error(evaluation, table)
    cv, models = evaluation.cv, evaluation.fold_models
    everything = Validated(models, evaluation.X_validated, cv.truth, cv.predicted, cv.fold)
    rows = everything.some(MAX_ROWS, seed)
    families: dict[str, list[int]] = {}
    for position, column in enumerate(table.columns):
        families.setdefault(column.family, []).append(position)
    columns = {column.name: [position] for position, column in enumerate(table.columns)}
    fewer = rows.some(max(50, MAX_SCREENED // max(1, len(columns))), seed)
    first = permute(fewer, columns, error, repeats=1, seed=seed)
    chosen = {found.name: columns[found.name] for found in first[:N_COLUMNS]}
    return Importances(
        error=word,
        families=tuple(permute(rows, families, error, seed=seed + 1)),
        columns=tuple(permute(rows, chosen, error, seed=seed + 1)),
        n_rows=len(rows.y),
        n_columns=len(columns),
    )


def permute(
    rows: Validated,
    sets: Mapping[str, Sequence[int]],
    error: Error,
    *,
    repeats: int = N_REPEATS,
    seed: int,
) -> list[Importance]:
    """Return the importance of sets of columns, the most important first.

    Parameters
    ----------
    rows
        Rows and the models that predict them.
    sets
        Positions of the columns that are permuted together, by name.
    error
        Of measured and predicted values; the greater the worse.
    repeats
        Number of permutations of each set.
    seed
        Of the permutations, which are the same for every set.
    """
    rng = np.random.default_rng(seed)
    predicted = np.empty((len(sets), repeats, *rows.predicted.shape))
    predicted[:] = rows.predicted
    for fold, model in enumerate(rows.models):
        of_fold = np.flatnonzero(rows.fold == fold)
        orders = [rng.permutation(len(of_fold)) for _ in range(repeats)]
        if not len(of_fold):
            continue
        X = rows.X[of_fold]
        # What is the same in all rows is the same in any order.
        varies = ~((X[0] == X) | (np.isnan(X) & np.isnan(X[0]))).all(axis=0)
        picked = [list(columns) for columns in sets.values()]
        live = [k for k, columns in enumerate(picked) if varies[columns].any()]
        jobs = [(k, repeat) for k in live for repeat in range(repeats)]
        for some in _chunks(jobs, max(1, CHUNK_CELLS // X.size)):
            copies = np.tile(X, (len(some), 1, 1))
            for copy, (k, repeat) in zip(copies, some, strict=True):
                copy[:, picked[k]] = X[orders[repeat]][:, picked[k]]
            found = rows.predict(model, copies.reshape(-1, X.shape[1]))
            of_copy = found.reshape(len(some), len(X), *found.shape[1:])
            for again, (k, repeat) in zip(of_copy, some, strict=True):
                predicted[k, repeat, of_fold] = again
    before = error(rows.y, rows.predicted)
    importances = []
    for name, of_set in zip(sets, predicted, strict=True):
        increases = np.array([error(rows.y, again) for again in of_set]) - before
        spread = float(np.std(increases, ddof=1)) if repeats > 1 else 0.0
        importances.append(Importance(name, float(np.mean(increases)), spread))
    return sorted(importances, key=lambda found: -found.increase)


def _chunks(jobs: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _choose_error(evaluation: Evaluation, table: FeatureTable) -> tuple[str, Error]:
    level, targets = evaluation.level, evaluation.cv.targets
    if targets:
        metrics = target_metrics(targets, table.train.y)
        if evaluation.headline == "spearman":
            return "drop of the mean Spearman ρ", lambda y, p: -metrics["spearman"](y, p)
        return "increase of the mean RMSE", metrics["rmse"]
    if level is not None:
        return "increase of the pinball loss", lambda y, p: pinball_loss(y, p, level)
    if "log_loss" in evaluation.cv.scores:
        return "increase of the log loss", CLASS_METRICS["log_loss"]
    if evaluation.cv.classes:
        return (
            "drop of the balanced accuracy",
            lambda y, p: -CLASS_METRICS["balanced_accuracy"](y, p),
        )
    if evaluation.headline == "spearman":
        return "drop of Spearman ρ", lambda y, p: -spearman(y, p)
    return "increase of RMSE", rmse
