"""The best model of a study: what cross-validation says of it, and what the held-out rows say.

Trials are chosen by cross-validation on the training rows alone. The held-out rows are looked at
once the budget is finished, for the best trial alone, and the study keeps a record of each look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable, TableView, anion_classes
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.errors import StorageError
from hpo.objectives.censored.bounds import Bounds, Truth, residuals, truth_of
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import AnyObjective
from hpo.objectives.folds import shared_group_fraction
from hpo.objectives.metrics import METRICS, Metric, score_all
from hpo.storage.events import EventKind
from hpo.study.snapshot import StudySnapshot


@dataclass(frozen=True, eq=False)
class Predictions:
    """Measured and predicted values of some rows, with scores and 95 % bootstrap intervals.

    A row that several folds validate is there once for each, with the prediction of its model: what
    is said of errors is said of one model, as it will be used, not of the mean of several.

    Attributes
    ----------
    ids, y, predicted, groups
        Arrays of shape (n_predictions,), in units of the target; scores of a ranker have no unit.
        Of a target with classes `y` has their positions, and `predicted`, of shape
        (n_predictions, n_classes), their probabilities. Of several targets both have the shape
        (n_predictions, n_targets).
    fold
        Array of shape (n_predictions,): the fold whose model predicted the row; -1 for held-out
        rows.
    scores
        Every metric that the objective keeps, over all these predictions together.
    row_intervals, group_intervals
        Lower and upper end for every metric, resampling rows, or whole groups.
    classes
        Labels; empty if the target is a number.
    baseline
        Of classes, the same metrics for the shares of the classes among the training rows: what is
        known without a model. Empty for numbers.
    targets
        Names of several targets; empty if it is one.
    bounds
        Array of shape (n_predictions, 2): what is known of the target, of which `y` is the limit
        that is stated, or the middle; None if all rows were measured.
    """

    ids: NDArray[np.str_]
    y: NDArray[np.float64]
    predicted: NDArray[np.float64]
    groups: NDArray[np.str_]
    fold: NDArray[np.int64]
    scores: Mapping[str, float]
    row_intervals: Mapping[str, tuple[float, float]]
    group_intervals: Mapping[str, tuple[float, float]]
    classes: tuple[str, ...] = ()
    baseline: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    bounds: NDArray[np.float64] | None = None

    def of_target(self, position: int) -> Predictions:
        """Return what is predicted of one of several targets, as if there were no other."""

        def own(by_name: Mapping[str, Any]) -> dict[str, Any]:
            names = {f"{name}_{self.targets[position]}": name for name in METRICS}
            return {names[name]: value for name, value in by_name.items() if name in names}

        return replace(
            self,
            y=np.ascontiguousarray(self.y[:, position]),
            predicted=np.ascontiguousarray(self.predicted[:, position]),
            scores=own(self.scores),
            row_intervals=own(self.row_intervals),
            group_intervals=own(self.group_intervals),
            targets=(),
        )

    @property
    def truth(self) -> Truth:
        """What predictions are scored against: `y`, or what is known of it."""
        return truth_of(self.y, self.bounds)

    @property
    def ends(self) -> NDArray[np.float64]:
        """Bounds of shape (n_predictions, 2), equal where the target was measured."""
        return np.column_stack([self.y, self.y]) if self.bounds is None else self.bounds

    @property
    def errors(self) -> NDArray[np.float64]:
        """Absolute errors of shape (n_predictions,), in units of the target; 0 within bounds."""
        return np.abs(residuals(self.truth, self.predicted))

    def take(self, rows: NDArray[np.bool_]) -> Predictions:
        """Return some of them, with the scores of all; `rows` is of shape (n_predictions,)."""
        names = ("ids", "y", "predicted", "groups", "fold")
        arrays = {name: getattr(self, name)[rows] for name in names}
        return replace(self, **arrays, bounds=None if self.bounds is None else self.bounds[rows])

    @property
    def measured(self) -> Predictions | None:
        """Those of rows that have a value, with the scores of all; None if no row has."""
        if self.bounds is None:
            return self
        kept = Bounds(self.bounds).is_measured
        return replace(self.take(kept), bounds=None) if kept.any() else None

    @property
    def n_rows(self) -> int:
        """Number of rows, each counted once."""
        return len(np.unique(self.ids))

    @property
    def shared_ids(self) -> NDArray[np.str_] | None:
        """The ids where some rows are predicted several times, so not independently; else None."""
        return self.ids if self.n_rows < len(self.ids) else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The best trial, refitted.

    Attributes
    ----------
    trial, params
        Number and parameters of the best trial.
    cv
        Out-of-fold predictions of the training rows that the folds validate on.
    test
        Predictions of the held-out rows by a model fitted on all training rows; None before the
        budget is finished, or if the table holds nothing out.
    shared_groups
        Fraction of validated rows with a row of the same group in their training part.
    derived_columns
        Features that are made from the measured value.
    headline
        The metric to speak of first.
    level
        Level of the quantile that is predicted; None if the value itself is.
    fold_models
        The fitted model of every fold.
    X_validated
        Array of shape (n_predictions, n_features): what the rows of `cv` were predicted from.
    withheld
        Why there is no `test` although the budget is finished and rows are held out; "" otherwise.
    """

    trial: int
    params: Mapping[str, Any]
    cv: Predictions
    test: Predictions | None
    shared_groups: float
    derived_columns: tuple[str, ...]
    headline: str
    level: float | None
    fold_models: tuple[Any, ...]
    X_validated: NDArray[np.float64]
    withheld: str = ""

    def of_target(self, position: int) -> Evaluation:
        """Return what there is to say of one of several targets; the models stay those of all."""
        test = None if self.test is None else self.test.of_target(position)
        return replace(self, cv=self.cv.of_target(position), test=test)


def evaluate(
    snapshot: StudySnapshot,
    table: FeatureTable | None,
    objective: AnyObjective,
    *,
    look: bool = True,
) -> Evaluation | None:
    """Refit the best trial of a study.

    Returns None for an objective that is not cross-validation over a table, before the first trial
    has finished, and for a trial from outside that has parameters of its own. Without `look`, the
    held-out rows are left alone; they are, too, where the study's storage cannot be written, for no
    evaluation of them goes unrecorded.
    """
    if table is None or not isinstance(objective, CrossValidation):
        return None
    counts, best = snapshot.counts, snapshot.best
    if best is None or foreign_params(snapshot):
        return None
    fold_models = _fit_folds(objective, best.params)
    validated = _predict_folds(objective, fold_models)
    X = objective.X_new[validated.rows]
    cv = _score_folds(objective, validated, table.train, X)
    test, withheld = None, ""
    if look and counts.done and not table.is_train.all():
        test = _predict_test(objective, best.params, table)
        try:
            _record_look(snapshot, best.number, cv, test, table.n_features)
        except StorageError as exc:
            test, withheld = None, f"their evaluation cannot be written down ({exc})"
    return Evaluation(
        trial=best.number,
        params=best.params,
        cv=cv,
        test=test,
        shared_groups=shared_group_fraction(objective.folds, table.train.groups),
        derived_columns=tuple(c.name for c in table.columns if c.derived_from_target),
        headline=objective.headline,
        level=objective.level,
        fold_models=fold_models,
        X_validated=X,
        withheld=withheld,
    )


def foreign_params(snapshot: StudySnapshot) -> list[str]:
    """Return parameters of the best trial that its study has not: somebody else added the trial."""
    best, spec = snapshot.best, snapshot.record.spec
    return [name for name in best.params if name not in spec.space] if best is not None else []


class Validated(NamedTuple):
    """Predictions of training rows by the models of the folds that validate on them.

    In the order of the rows, and of the folds where several validate on one.

    Attributes
    ----------
    rows, fold
        Arrays of shape (n_predictions,): the position of the row, and the fold.
    predicted
        Array of shape (n_predictions,), or of (n_predictions, n_classes) the probabilities, or of
        (n_predictions, n_targets).
    """

    rows: NDArray[np.int64]
    fold: NDArray[np.int64]
    predicted: NDArray[np.float64]


def predict_folds(objective: CrossValidation, params: Mapping[str, Any]) -> Validated:
    """Predict the training rows by the models of the folds that validate on them."""
    return _predict_folds(objective, _fit_folds(objective, params))


def _fit_folds(objective: CrossValidation, params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(objective.fit(params, fold.train) for fold in objective.folds)


def _predict_folds(objective: CrossValidation, models: Sequence[Any]) -> Validated:
    rows = [fold.validation for fold in objective.folds]
    predicted = [
        objective.predict(model, objective.X_new[of_fold])
        for of_fold, model in zip(rows, models, strict=True)
    ]
    fold = np.repeat(np.arange(len(rows)), [len(of_fold) for of_fold in rows])
    order = np.argsort(np.concatenate(rows), kind="stable")
    return Validated(np.concatenate(rows)[order], fold[order], np.concatenate(predicted)[order])


def _score_folds(
    objective: CrossValidation, found: Validated, train: TableView, X: NDArray[np.float64]
) -> Predictions:
    rows = found.rows
    bounds = None if train.bounds is None else train.bounds[rows]
    validated = TableView(train.ids[rows], X, X, train.y[rows], train.groups[rows], bounds=bounds)
    scored = score_predictions(
        validated,
        found.predicted,
        found.fold,
        objective.metrics,
        objective.classes,
        objective.targets,
    )
    return _with_baseline(objective, scored)


def _predict_test(
    objective: CrossValidation, params: Mapping[str, Any], table: FeatureTable
) -> Predictions:
    test = table.test
    model = objective.fit(params)
    predicted = objective.predict(model, test.X)
    fold = np.full(len(test.y), -1, dtype=np.int64)
    scored = score_predictions(
        test, predicted, fold, objective.metrics, objective.classes, objective.targets
    )
    return _with_baseline(objective, scored)


def _with_baseline(objective: CrossValidation, scored: Predictions) -> Predictions:
    """Add what the shares of the classes among all training rows score."""
    if not scored.classes:
        return scored
    trained = objective.y.astype(np.int64)
    shares = np.bincount(trained, minlength=len(scored.classes)) / len(trained)
    prior = np.tile(shares, (len(scored.y), 1))
    return replace(scored, baseline=score_all(scored.y, prior, objective.metrics))


def score_predictions(
    rows: TableView,
    predicted: NDArray[np.float64],
    fold: NDArray[np.int64],
    metrics: Mapping[str, Metric],
    classes: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> Predictions:
    """Score predictions of rows; `predicted` and `fold` are arrays of shape (n_rows,).

    With `classes`, `predicted` has the shape (n_rows, n_classes), with `targets`
    (n_rows, n_targets).
    """
    y, groups = truth_of(rows.y, rows.bounds), rows.groups
    scores = score_all(y, predicted, metrics)
    found = Predictions(
        rows.ids,
        rows.y,
        predicted,
        groups,
        fold,
        scores,
        {},
        {},
        classes=tuple(classes),
        targets=tuple(targets),
        bounds=rows.bounds,
    )
    return replace(
        found,
        row_intervals=bootstrap_intervals(y, predicted, found.shared_ids, metrics=metrics),
        group_intervals=bootstrap_intervals(y, predicted, groups, metrics=metrics),
    )


def _record_look(
    snapshot: StudySnapshot, trial: int, cv: Predictions, test: Predictions, n_features: int
) -> None:
    """Record a test-set evaluation; reading the same model's scores again is none."""
    evaluations = snapshot.events_of(EventKind.TEST_EVALUATION)
    if any(look["trial"] == trial and look["scores"] == dict(test.scores) for look in evaluations):
        return
    detail = {
        "trial": trial,
        "finished": snapshot.counts.finished,
        "scores": dict(test.scores),
        # What a comparison of studies shows, so that it need not fit anything again.
        "n_test": test.n_rows,
        "intervals": {"row": dict(test.row_intervals), "group": dict(test.group_intervals)},
        "cv": dict(cv.scores),
        "n_cv": cv.n_rows,
        "n_features": n_features,
    }
    with snapshot.record.writable() as record:
        record.ledger.record(EventKind.TEST_EVALUATION, detail)


def classify(rows: Mapping[str, Predictions], table: FeatureTable) -> dict[str, NDArray[np.str_]]:
    """Return the chemical class of every row of each set."""
    formulas = dict(zip(table.ids.tolist(), table.formulas.tolist(), strict=True))
    return {
        name: anion_classes([formulas[row_id] for row_id in of_set.ids.tolist()])
        for name, of_set in rows.items()
    }
