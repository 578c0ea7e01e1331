"""What a trial is scored on, part by part.

An objective names its parts, scores one of them for given parameters, and combines the scores.
Reporting, checkpoints, restart in the middle and timing are the worker's, once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable
from hpo.errors import ObjectiveError
from hpo.estimators import make_estimator
from hpo.folds import Fold, hash_folds, make_folds
from hpo.metrics import MAXIMISED, METRICS, score_all
from hpo.plugins import resolve
from hpo.spec import CustomObjectiveSpec, EstimatorSpec, PenalisedCvSpec, StudySpec

Direction = Literal["minimize", "maximize"]
Params = Mapping[str, Any]
Scores = Mapping[str, float]


@runtime_checkable
class Objective(Protocol):
    """What the engine asks of an objective.

    Attributes
    ----------
    direction
        Optuna's word for which scores are better.
    score_name
        What the score is, with its unit if it has one; labels every figure.
    parts
        Names of the parts of a trial, in the order in which they are scored.
    splits_hash
        A hash of how the data were divided into parts; "" where nothing is divided.
    """

    direction: Direction
    score_name: str
    parts: Sequence[str]
    splits_hash: str

    def score_part(self, params: Params, part: int) -> Scores:
        """Score one part; the result has the key `score`, others are kept beside it.

        A worker may be told to leave at any moment of it, by an exception.
        """

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Combine the scores of all parts, in their order; the result has the key `score`."""


class PenalisedCv:
    """Cross-validation with a penalty on the gap between validation and training.

    For an error metric (rmse, mae) fold k scores

        s_k = v_k + penalty * max(0, v_k - t_k)

    with the metric's value v_k on the validation and t_k on the training part of the fold; for a
    metric that is maximised (r2, spearman), s_k = v_k - penalty * max(0, t_k - v_k). A trial
    scores the mean over folds.
    """

    def __init__(
        self,
        X: NDArray[np.float64],
        y: NDArray[np.float64],
        folds: Sequence[Fold],
        estimator: EstimatorSpec,
        *,
        metric: str = "rmse",
        penalty: float = 0.2,
        seed: int = 42,
    ) -> None:
        self.X, self.y, self.folds = X, y, tuple(folds)
        self.estimator, self.seed = estimator, seed
        self.metric, self.penalty = metric, penalty
        self.direction: Direction = "maximize" if metric in MAXIMISED else "minimize"
        self.score_name = f"penalised {metric}" if penalty else metric
        self.parts: Sequence[str] = tuple(f"fold {k}" for k in range(len(self.folds)))
        self.splits_hash = hash_folds(self.folds)

    def score_part(self, params: Params, part: int) -> Scores:
        """Fit on the training part of a fold; score both of its parts by every metric."""
        fold = self.folds[part]
        model = make_estimator(self.estimator, params, self.seed)
        model.fit(self.X[fold.train], self.y[fold.train])
        scores = {}
        for side, rows in (("val", fold.validation), ("train", fold.train)):
            predicted = np.asarray(model.predict(self.X[rows]), dtype=np.float64)
            for name, value in score_all(self.y[rows], predicted).items():
                scores[f"{name}_{side}"] = value
        validation, train = scores[f"{self.metric}_val"], scores[f"{self.metric}_train"]
        sign = -1.0 if self.direction == "maximize" else 1.0
        gap = max(0.0, sign * (validation - train))
        return {"score": validation + sign * self.penalty * gap, **scores}

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Return the mean over folds of the score, and of every metric beside it."""
        names = ["score", *(f"{name}_{side}" for side in ("val", "train") for name in METRICS)]
        return {name: math.fsum(part[name] for part in parts) / len(parts) for name in names}


def make_objective(spec: StudySpec, table: FeatureTable | None) -> Objective:
    """Build the objective of a study over its table.

    Raises
    ------
    ObjectiveError
        If the table does not allow the folds, or a user's own objective is not one.
    """
    if isinstance(spec.objective, CustomObjectiveSpec):
        return _custom_objective(spec.objective, spec, table)
    if table is None or spec.cv is None or spec.estimator is None:
        raise ObjectiveError("objective penalised_cv needs a table, [cv] and [estimator]")
    return penalised_cv(spec.objective, spec, table)


def penalised_cv(objective: PenalisedCvSpec, spec: StudySpec, table: FeatureTable) -> PenalisedCv:
    """Return the penalised cross-validation of a study over the training part of its table."""
    if spec.cv is None or spec.estimator is None:
        raise ObjectiveError("objective penalised_cv needs [cv] and [estimator]")
    train = table.train
    return PenalisedCv(
        train.X,
        train.y,
        make_folds(spec.cv, train.groups),
        spec.estimator,
        metric=objective.metric,
        penalty=objective.penalty,
        seed=spec.seed,
    )


def _custom_objective(
    objective: CustomObjectiveSpec, spec: StudySpec, table: FeatureTable | None
) -> Objective:
    factory = resolve(objective.name, "[objective] name")
    try:
        made = factory(table, seed=spec.seed, **objective.params)
    except TypeError as exc:
        raise ObjectiveError(
            f"[objective] {objective.name}: cannot be called as "
            f"(table, seed={spec.seed}, **{dict(objective.params)}): {exc}"
        ) from exc
    if not isinstance(made, Objective):
        missing = [
            name
            for name in ("direction", "score_name", "parts", "splits_hash", "score_part", "combine")
            if not hasattr(made, name)
        ]
        raise ObjectiveError(f"[objective] {objective.name}: lacks {', '.join(missing)}")
    return made
