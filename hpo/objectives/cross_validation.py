"""Objectives scored fold by fold: penalised cross-validation, quantiles, rank correlation.

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

from features.table import FeatureTable
from hpo.errors import ObjectiveError
from hpo.estimators.factory import BoundEstimator, prepare
from hpo.estimators.probabilities import class_probabilities
from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import weight_argument
from hpo.estimators.staged_trees import predict_staged, without_curve
from hpo.estimators.suitability import declined
from hpo.objectives.censored.bounds import truth_of
from hpo.objectives.censored.checks import bounds_argument, refuse_unordered, refuse_values_alone
from hpo.objectives.class_metrics import CLASS_METRICS, LABEL_METRICS
from hpo.objectives.folds import Fold, folds_of, hash_folds, row_weights, shared_group_fraction
from hpo.objectives.metrics import (
    BOUNDS_METRICS,
    MAXIMISED,
    METRICS,
    RANK_METRICS,
    Metric,
    quantile_metrics,
    score_all,
    spearman,
)
from hpo.objectives.protocol import Params, Scores
from hpo.objectives.scoring import Scoring, find_scoring
from hpo.objectives.splitters import Indices
from hpo.records import ResolvedTrial
from hpo.spec.cv import GroupKFoldCv, LikeTestCv, SplitterCv
from hpo.spec.estimators import EstimatorSpec
from hpo.spec.objectives import Direction, PenalisedCvSpec, QuantileSpec, SpearmanSpec
from hpo.spec.sections import StudySpec
from hpo.spec.space import distribution_of

if TYPE_CHECKING:
    from hpo.estimators.boosting import BoostedRows

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
        The training rows: arrays of shape (n_rows, n_features) and (n_rows,).
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
        bounds: Floats | None = None,
    ) -> None:
        self.X, self.y, self.folds = X, y, tuple(folds)
        self.classes = tuple(classes)
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
        elif np.ptp(y) == 0:
            raise ObjectiveError(f"the target is {y[0]:g} in all {len(y)} training rows")
        self.parts: Sequence[str] = tuple(f"fold {k}" for k in range(len(self.folds)))
        self.splits_hash = hash_folds(self.folds)
        self._boosted: dict[int, BoostedRows] = {}
        self._said: set[str] = set()

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
        if self.groups is not None and getattr(model, "takes_groups", False):
            settings["groups"] = self.groups[rows]
        if self.weights is not None:
            settings[weight_argument(model)] = self.weights[rows]
        if self.bounds is not None and (argument := bounds_argument(model)):
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
        array of shape (n_rows,), or of (n_rows, n_classes) the probabilities
        """
        if not self.classes:
            return np.asarray(model.predict(X), dtype=np.float64)
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
        boosted = self._boosted_rows(model, part)
        if boosted is not None:
            yield from boosted.predict_staged(model, numbers)
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
        boosted = self._boosted_rows(model, part)
        if boosted is not None:
            return None, boosted.predict(model)
        self._fit(model, fold.train)
        validated = self.predict(model, self.X_new[fold.validation])
        return model, (validated, self.predict(model, self.X[fold.train]))

    def _boosted_rows(self, model: Regressor, part: int) -> BoostedRows | None:
        """Return the rows of a fold for the short way of boosting; None if that is not for it."""
        # Loads scikit-learn, which an objective that is made and not scored does without.
        from hpo.estimators.boosting import BoostedRows, judge

        fold = self.folds[part]
        if self.scoring is not None and self.scoring.asks_model:
            return None
        verdict = judge(model, len(fold.train))
        if verdict.suits and len(self.folds) * self.X.nbytes > MAX_KEPT_BYTES:
            verdict = declined(
                "the folds together are too large to be kept, and are fitted one by one"
            )
        if not verdict.suits:
            if verdict.reason and verdict.reason not in self._said:
                self._said.add(verdict.reason)
                _log.info("%s", verdict.reason)
            return None
        if part not in self._boosted:
            weights = None if self.weights is None else self.weights[fold.train]
            self._boosted[part] = BoostedRows(
                self.X[fold.train], self.y[fold.train], self.X_new[fold.validation], weights
            )
        return self._boosted[part]

    def _penalise(self, scores: Scores, metric: str, penalty: float) -> float:
        """Return a metric's value on the validation part, made worse by the gap to training."""
        validation, train = float(scores[f"{metric}_val"]), float(scores[f"{metric}_train"])
        sign = -1.0 if self.direction == "maximize" else 1.0
        return validation + sign * penalty * max(0.0, sign * (validation - train))


class PenalisedCv(CrossValidation):
    """Cross-validation with a penalty on the gap between validation and training.

    For an error metric (rmse, mae) fold k scores

        s_k = v_k + penalty * max(0, v_k - t_k)

    with the metric's value v_k on the validation and t_k on the training part of the fold; for a
    metric that is maximised (r2, spearman), s_k = v_k - penalty * max(0, t_k - v_k). So it is for
    what `scoring` names, in place of the metric. A trial scores the mean over folds. Other
    arguments are those of `CrossValidation`.
    """

    def __init__(
        self,
        *over: Any,
        metric: str = "rmse",
        scoring: str | None = None,
        penalty: float = 0.2,
        **settings: Any,
    ) -> None:
        super().__init__(*over, **settings)
        self.metric, self.penalty = metric if scoring is None else "scoring", penalty
        if scoring is not None:
            self.scoring = self._find_scoring(scoring)
        elif metric in MAXIMISED:
            why = "leaves it undefined; take rmse or mae, or other [cv] folds"
            what = f"metric {metric}"
            refuse_unordered(self.truth, self.folds, self.metrics, metric, what, why)
        maximises = scoring is not None or metric in MAXIMISED
        self.direction = "maximize" if maximises else "minimize"
        name = scoring or metric
        self.score_name = f"penalised {name}" if penalty else name

    def _find_scoring(self, name: str) -> Scoring:
        """Return a scorer that can score every fold."""
        refuse_values_alone(self.bounds, f"[objective] scoring {name}: a scorer sees")
        found = find_scoring(name, len(self.classes))
        if self.staged is not None and found.asks_model:
            raise ObjectiveError(
                f"[objective] scoring {name}: asks the fitted model, and there is none for each "
                f'number of trees; draw [space] {self.staged.name} (type = "int"), or wrap a '
                "function of y and predictions by make_scorer"
            )
        found.try_out(self.y_fitted, self.folds, self.bound.make({}))
        return found

    def score_part(self, params: Params, part: int) -> Scores:
        """Fit on the training part of a fold; score both of its parts by every metric."""
        return self._score_penalised(params, part, self.metric, self.penalty)


class QuantileCv(CrossValidation):
    """Cross-validated pinball loss of one quantile, optionally with a penalty on the gap.

    Fold k scores s_k = v_k + penalty * max(0, v_k - t_k) with the pinball loss v_k of the
    validation and t_k of the training part of the fold (Koenker & Bassett, Econometrica 46, 33
    (1978)); a trial scores the mean over folds. Each fold keeps the coverage, too: the fraction
    of rows that are not above their predicted quantile. The usual metrics are kept beside them,
    but say little: a quantile away from 0.5 is not meant to be near the value. The estimator is
    one that predicts the quantile of that `level`, between 0 and 1, as
    `hpo.estimators.factory.prepare` makes it. Other arguments are those of `CrossValidation`.
    """

    headline = "pinball"

    def __init__(self, *over: Any, level: float, penalty: float = 0.0, **settings: Any) -> None:
        super().__init__(*over, **settings)
        refuse_values_alone(self.bounds, '[objective] name = "quantile": its loss is of')
        self.level, self.penalty = level, penalty
        self.metrics = quantile_metrics(level)
        self.direction = "minimize"
        self.score_name = f"{'penalised ' if penalty else ''}pinball loss at {level:g}"

    def score_part(self, params: Params, part: int) -> Scores:
        """Fit on the training part of a fold; score both of its parts by every metric."""
        return self._score_penalised(params, part, "pinball", self.penalty)


class SpearmanCv(CrossValidation):
    """Spearman's rho of all out-of-fold predictions together.

    A trial scores the rank correlation (Spearman, Am. J. Psychol. 15, 72 (1904)) over all
    validated rows at once. That is not the mean over folds, for which there is `penalised_cv`
    with metric spearman: it ranks rows of different folds against one another, too, as a list of
    candidates will be ranked. Each fold's own rho is the score of its part, and `spearman_pooled`
    is rho over this fold and those before it; that of the last fold is the trial's.

    Predictions of earlier folds are kept in memory while one worker scores a trial, not stored:
    they would be as many numbers per trial as the table has rows, read by every sampler and every
    report. A worker that takes a trial over fits the folds before its first one again, which
    gives the same predictions because a model depends on parameters, seed and fold alone.

    Raises
    ------
    ObjectiveError
        If a fold validates rows of one value only, which cannot be ranked.
    """

    direction: Direction = "maximize"
    score_name = "out-of-fold Spearman rho"
    headline = "spearman"
    averaged = False

    def __init__(self, *over: Any, **settings: Any) -> None:
        super().__init__(*over, **settings)
        why = "cannot be ranked; use fewer [cv] folds"
        what = "objective spearman"
        refuse_unordered(self.truth, self.folds, self.metrics, "spearman", what, why)
        self._of_params: dict[str, Any] = {}
        self._predicted: dict[int, Floats] = {}

    def score_part(self, params: Params, part: int) -> Scores:
        """Fit on the training part of a fold; score it, and it together with earlier folds."""
        if dict(params) != self._of_params:
            self._of_params, self._predicted = dict(params), {}
        scores, self._predicted[part] = self._fit_fold(params, part)
        for earlier in range(part):
            if earlier not in self._predicted:
                self._predicted[earlier] = self._fit_fold(params, earlier)[1]
        so_far = range(part + 1)
        rows = np.concatenate([self.folds[k].validation for k in so_far])
        pooled = spearman(self.truth[rows], np.concatenate([self._predicted[k] for k in so_far]))
        return {"score": scores["spearman_val"], "spearman_pooled": pooled, **scores}

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Return rho over all folds together, and the mean over folds of every metric."""
        return {**super().combine(parts), "score": parts[-1]["spearman_pooled"]}


def cross_validation(
    objective: PenalisedCvSpec | QuantileSpec | SpearmanSpec, spec: StudySpec, table: FeatureTable
) -> CrossValidation:
    """Return the cross-validation of a study over the training part of its table."""
    if spec.cv is None:
        raise ObjectiveError(f"objective {objective.name} needs [cv]")
    train = table.train
    bound = prepare(spec, table.columns, classifies=bool(table.target.classes))
    bound.check_rows(train.X)
    folds = folds_of(spec.cv, table, spec.seed)
    over = (train.X, train.y, folds, bound)
    keeps_groups = isinstance(spec.cv, GroupKFoldCv | LikeTestCv) or (
        isinstance(spec.cv, SplitterCv) and shared_group_fraction(folds, train.groups) == 0
    )
    settings: dict[str, Any] = {
        "X_new": train.X_new if keeps_groups else None,
        "groups": train.groups if keeps_groups else None,
        "weights": row_weights(spec, train),
        "classes": table.target.classes,
        "bounds": train.bounds,
    }
    if isinstance(objective, QuantileSpec):
        return QuantileCv(*over, level=objective.level, penalty=objective.penalty, **settings)
    if isinstance(objective, SpearmanSpec):
        return SpearmanCv(*over, **settings)
    return PenalisedCv(
        *over,
        metric=objective.metric,
        scoring=objective.scoring,
        penalty=objective.penalty,
        **settings,
    )
