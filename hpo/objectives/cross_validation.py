"""Cross-validation of one estimator, fold by fold, whatever a fold scores.

An objective names its parts, scores one of them for given parameters, and combines the scores.
Reporting, checkpoints, restart in the middle and timing are the worker's, once for all of them.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.table import columns_of
from hpo.errors import ObjectiveError
from hpo.estimators.construction import of_one_target
from hpo.estimators.factory import BoundEstimator
from hpo.estimators.kept_rows.choice import choose
from hpo.estimators.probabilities import class_probabilities
from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import bounds_argument, weight_argument
from hpo.estimators.staged_trees import predict_staged, without_curve
from hpo.estimators.suitability import declined
from hpo.objectives.censored.bounds import truth_of
from hpo.objectives.class_metrics import CLASS_METRICS, LABEL_METRICS
from hpo.objectives.folds import Fold, hash_folds
from hpo.objectives.metrics import (
    BOUNDS_METRICS,
    METRICS,
    RANK_METRICS,
    Metric,
    score_all,
    target_metrics,
)
from hpo.objectives.protocol import Params, Scores
from hpo.objectives.scoring import Scoring
from hpo.objectives.splitters import Indices
from hpo.records import ResolvedTrial
from hpo.spec.estimators import EstimatorSpec
from hpo.spec.objectives import Direction
from hpo.spec.space import distribution_of

if TYPE_CHECKING:
    from hpo.estimators.kept_rows.choice import KeptRows

# Predictions of what a fold validates, and of what it trains on.
Sides = tuple[Floats, Floats]
# Rows of all folds are kept, for what a worker does with them once, where they are not more.
MAX_KEPT_BYTES = 64_000_000
_log = logging.getLogger(__name__)


class CrossValidation(ABC):
    """Cross-validation of one estimator; a part is a fold.

    Parameters
    ----------
    X, y
        The training rows: arrays of shape (n_rows, n_features) and (n_rows,), or
        (n_rows, n_targets) of several targets.
    folds
        Their division.
    bound
        What is fitted, and with which seed.
    X_new
        Array of the shape of X: what validated rows are predicted from; X if None.
    groups
        Array of shape (n_rows,), for an estimator that divides its training rows once more; None
        where folds do not keep groups together.
    weights
        Array of shape (n_rows,): what each row counts in a fit; None if all count alike. In a score
        all rows count alike.
    classes
        Labels, of which `y` holds positions; empty if it holds numbers.
    targets
        Names of the targets that the columns of `y` are; empty if it is one.
    bounds
        Array of shape (n_rows, 2): what is known of the target; None if all rows were measured.

    Attributes
    ----------
    metrics
        What is kept of both sides of every fold, beside the score.
    headline
        The metric that a report speaks of first.
    level
        Level of the quantile that the estimator predicts; None if it predicts no quantile.
    averaged
        Whether a trial scores the mean over folds.
    """

    direction: Direction
    score_name: str
    metrics: Mapping[str, Metric] = METRICS
    headline = "r2"
    level: float | None = None
    averaged = True

    def __init__(
        self,
        X: Floats,
        y: Floats,
        folds: Sequence[Fold],
        bound: BoundEstimator,
        *,
        X_new: Floats | None = None,
        groups: NDArray[np.str_] | None = None,
        weights: Floats | None = None,
        classes: Sequence[str] = (),
        targets: Sequence[str] = (),
        bounds: Floats | None = None,
    ) -> None:
        self.X, self.y, self.folds = X, y, tuple(folds)
        self.classes, self.targets = tuple(classes), tuple(targets)
        self.scoring: Scoring | None = None
        self.X_new = X if X_new is None else X_new
        self.groups, self.weights, self.bounds = groups, weights, bounds
        self.truth = truth_of(y, bounds)
        self.bound, self.staged = bound, bound.staged
        if bound.ranks_only:
            self.metrics, self.headline = RANK_METRICS, "spearman"
        if bounds is not None:
            self.metrics = {**self.metrics, **BOUNDS_METRICS}
            self.headline = self.headline if bound.ranks_only else "concordance"
        if self.classes:
            self._take_classes()
        else:
            self._refuse_constant_targets()
        if self.targets:
            self.metrics = target_metrics(self.targets, y, self.metrics)
        self.parts: Sequence[str] = tuple(f"fold {k}" for k in range(len(self.folds)))
        self.splits_hash = hash_folds(self.folds)
        self._kept: dict[int, KeptRows] = {}
        self._said: set[str] = set()

    def _refuse_constant_targets(self) -> None:
        for name, values in zip(self.targets or ("",), columns_of(self.y), strict=True):
            if np.ptp(values) == 0:
                what = f"target {name!r}" if name else "the target"
                raise ObjectiveError(f"{what} is {values[0]:g} in all {len(values)} training rows")

    def _take_classes(self) -> None:
        """Keep the metrics of classes, and refuse folds that train on some of them alone."""
        for k, fold in enumerate(self.folds):
            lacking = np.setdiff1d(np.arange(len(self.classes)), self.y[fold.train])
            if len(lacking):
                raise ObjectiveError(
                    f"[cv] fold {k} trains on no row of class '{self.classes[int(lacking[0])]}', "
                    "which a model of it could not predict; use fewer or stratified folds"
                )
        self.gives_probabilities = hasattr(self.bound.make({}), "predict_proba")
        if self.gives_probabilities:
            self.metrics, self.headline = CLASS_METRICS, "roc_auc"
        else:
            self.metrics, self.headline = LABEL_METRICS, "balanced_accuracy"

    @property
    def y_fitted(self) -> NDArray[Any]:
        """What models are fitted to: `y`, as whole numbers where they are positions of classes."""
        return self.y.astype(np.int64) if self.classes else self.y

    @property
    def estimator(self) -> EstimatorSpec:
        """What is fitted, as its study file and the columns of its table say."""
        return self.bound.spec

    @property
    def seed(self) -> int:
        """The `random_state` of what is fitted."""
        return self.bound.seed

    @abstractmethod
    def score_part(self, params: Params, part: int) -> Scores:
        """Fit on the training part of a fold and score it."""

    def settle(self, parts: Sequence[Scores], *, pruned: bool) -> ResolvedTrial | None:
        """Return the parameter that is read off all folds, and the scores of its value.

        None if there is no such parameter. A trial that was pruned has none either; its parts are
        left with the scores at their own best points.
        """
        if self.staged is None:
            return None
        if pruned:
            return ResolvedTrial({}, {}, [without_curve(part) for part in parts])
        name, dimension = self.staged.name, self.staged.dimension
        chosen, settled = self.staged.choose(parts, maximises=self.direction == "maximize")
        return ResolvedTrial({name: chosen}, {name: distribution_of(dimension)}, settled)

    @property
    def score_names(self) -> list[str]:
        """Names of what a trial keeps: its score, and every metric of both sides of the folds."""
        names = [*self.metrics, *(["scoring"] if self.scoring is not None else [])]
        return ["score", *(f"{name}_{side}" for side in ("val", "train") for name in names)]

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Return the mean over folds of the score, and of every metric beside it."""
        names = self.score_names
        return {name: math.fsum(part[name] for part in parts) / len(parts) for name in names}

    def fit(self, params: Params, rows: Indices | slice = slice(None)) -> Regressor:
        """Return the estimator with these parameters, fitted on rows of the training part."""
        return self._fit(self.bound.make(params), rows)

    def _fit(self, model: Regressor, rows: Indices | slice) -> Regressor:
        settings: dict[str, Any] = {}
        fitted = of_one_target(model)
        if self.groups is not None and getattr(fitted, "takes_groups", False):
            settings["groups"] = self.groups[rows]
        if self.weights is not None:
            settings[weight_argument(fitted)] = self.weights[rows]
        if self.bounds is not None and (argument := bounds_argument(fitted)):
            settings[argument] = self.bounds[rows]
        model.fit(self.X[rows], self.y_fitted[rows], **settings)
        return model

    def predict(self, model: Regressor, X: Floats) -> Floats:
        """Return predictions of a fitted model.

        Raises
        ------
        ObjectiveError
            If a classifier gives no probabilities where others of the study do.

        Returns
        -------
        array of shape (n_rows,), or of (n_rows, n_classes) the probabilities, or
        (n_rows, n_targets)
        """
        if not self.classes:
            predicted = np.asarray(model.predict(X), dtype=np.float64)
            if self.targets and predicted.shape != (len(X), len(self.targets)):
                raise ObjectiveError(
                    f"[estimator] {self.estimator.name}: must predict {len(self.targets)} targets, "
                    f"returned the shape {predicted.shape} for {len(X)} rows"
                )
            return predicted
        if self.gives_probabilities and not hasattr(model, "predict_proba"):
            raise ObjectiveError(
                f"[estimator] {self.estimator.name}: gives no probabilities with these parameters, "
                "and with others it does"
            )
        return class_probabilities(model, X, len(self.classes))

    def _fit_fold(self, params: Params, part: int) -> tuple[dict[str, float], Floats]:
        """Fit on the training part of a fold; return all metrics, and what it validates."""
        _, (validated, trained) = self._predict_fold(params, part)
        return self._score_sides(part, validated, trained), validated

    def _score_sides(self, part: int, validated: Floats, trained: Floats) -> dict[str, float]:
        """Return all metrics of predictions of both sides of a fold."""
        fold, scores = self.folds[part], {}
        for side, predicted, rows in (
            ("val", validated, fold.validation),
            ("train", trained, fold.train),
        ):
            for name, value in score_all(self.truth[rows], predicted, self.metrics).items():
                scores[f"{name}_{side}"] = value
        return scores

    def _score_penalised(
        self, params: Params, part: int, metric: str, penalty: float
    ) -> dict[str, Any]:
        """Score a fold by a penalised metric, or the curve of it where a parameter is staged."""

        def score(model: Regressor | None, predicted: Sides) -> dict[str, float]:
            scores = self._score_sides(part, *predicted) | self._score_by(model, part, predicted)
            return {"score": self._penalise(scores, metric, penalty), **scores}

        if self.staged is None or self.staged.name in params:
            return score(*self._predict_fold(params, part))
        points = [score(None, predicted) for predicted in self._predict_stages(params, part)]
        return self.staged.keep(points, maximises=self.direction == "maximize")

    def _score_by(self, model: Regressor | None, part: int, predicted: Sides) -> dict[str, float]:
        """Return what the study's scoring says of both sides of a fold, if it has one."""
        if self.scoring is None:
            return {}
        fold, y, (validated, trained) = self.folds[part], self.y_fitted, predicted
        sides = (
            ("val", self.X_new[fold.validation], y[fold.validation], validated),
            ("train", self.X[fold.train], y[fold.train], trained),
        )
        return {f"scoring_{side}": self.scoring(model, *over) for side, *over in sides}

    def _predict_stages(self, params: Params, part: int) -> Iterator[Sides]:
        """Fit once; yield predictions of both sides of a fold at each number of trees."""
        assert self.staged is not None
        fold, numbers = self.folds[part], self.staged.numbers
        most = {**params, self.staged.name: numbers[-1]}
        model = self.bound.make(most)
        kept = self._kept_rows(model, part)
        if kept is not None:
            yield from kept.predict_staged(model, numbers)
            return
        self._fit(model, fold.train)
        yield from zip(
            predict_staged(model, self.X_new[fold.validation], numbers, len(self.classes)),
            predict_staged(model, self.X[fold.train], numbers, len(self.classes)),
            strict=True,
        )

    def _predict_fold(self, params: Params, part: int) -> tuple[Regressor | None, Sides]:
        """Fit on the training part of a fold; return the model, and its predictions of both sides.

        The model is None where predictions were found in a shorter way than by making it.

        Bit for bit those of `fit` and `predict`, which the report repeats for the best trial.
        """
        fold = self.folds[part]
        model = self.bound.make(params)
        kept = self._kept_rows(model, part)
        if kept is not None:
            return None, kept.predict(model)
        self._fit(model, fold.train)
        validated = self.predict(model, self.X_new[fold.validation])
        return model, (validated, self.predict(model, self.X[fold.train]))

    def slowed_by(self) -> list[str]:
        """Return what makes its fits slower here than they would be, in a sentence; or nothing."""
        model = self.bound.make({})
        asks_model = self.scoring is not None and self.scoring.asks_model
        if asks_model or self._too_large or "hist_gradient" not in type(model).__module__:
            return []
        from hpo.estimators.boosting import slowed_by

        found = slowed_by(model, self.X[max((fold.train for fold in self.folds), key=len)])
        return [found] if found else []

    @property
    def _too_large(self) -> bool:
        """Whether rows are too many to be kept for every fold."""
        return len(self.folds) * self.X.nbytes > MAX_KEPT_BYTES

    def _kept_rows(self, model: Regressor, part: int) -> KeptRows | None:
        """Return the rows of a fold for a shorter way than `fit`; None if there is none."""
        fold = self.folds[part]
        if self.scoring is not None and self.scoring.asks_model:
            return None
        kind, verdict = choose(model, len(fold.train))
        if verdict.suits and self._too_large:
            verdict = declined(
                "the folds together are too large to be kept, and are fitted one by one"
            )
        if kind is None or not verdict.suits:
            if verdict.reason and verdict.reason not in self._said:
                self._said.add(verdict.reason)
                _log.info("%s", verdict.reason)
            return None
        if part not in self._kept:
            weights = None if self.weights is None else self.weights[fold.train]
            self._kept[part] = kind(
                self.X[fold.train], self.y[fold.train], self.X_new[fold.validation], weights
            )
        return self._kept[part]

    def _penalise(self, scores: Scores, metric: str, penalty: float) -> float:
        """Return a metric's value on the validation part, made worse by the gap to training."""
        validation, train = float(scores[f"{metric}_val"]), float(scores[f"{metric}_train"])
        sign = -1.0 if self.direction == "maximize" else 1.0
        return validation + sign * penalty * max(0.0, sign * (validation - train))
