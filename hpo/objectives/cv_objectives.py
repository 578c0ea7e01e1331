"""What cross-validation scores: a penalised metric, the loss of a quantile, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from features.table import FeatureTable
from hpo.errors import ObjectiveError
from hpo.estimators.factory import prepare
from hpo.estimators.protocol import Floats
from hpo.objectives.censored.checks import refuse_unordered, refuse_values_alone
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.folds import folds_of, row_weights, shared_group_fraction
from hpo.objectives.metrics import MAXIMISED, quantile_metrics
from hpo.objectives.protocol import Params, Scores
from hpo.objectives.scoring import Scoring, find_scoring
from hpo.spec.cv import GroupKFoldCv, LikeTestCv, SplitterCv
from hpo.spec.objectives import Direction, PenalisedCvSpec, QuantileSpec, SpearmanSpec
from hpo.spec.sections import StudySpec


class PenalisedCv(CrossValidation):
    """Cross-validation with a penalty on the gap between validation and training.

    For an error metric (rmse, mae) fold k scores

        s_k = v_k + penalty * max(0, v_k - t_k)

    with the metric's value v_k on the validation and t_k on the training part of the fold; for a
    metric that is maximised (r2, spearman), s_k = v_k - penalty * max(0, t_k - v_k). So it is for
    what `scoring` names, in place of the metric. A trial scores the mean over folds. Of several
    targets the metric is a mean over them, of rmse and mae in units of their standard deviations:
    `hpo.objectives.metrics.TargetMetric`. Other arguments are those of `CrossValidation`.
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
        name += f" over {len(self.targets)} targets" if self.targets else ""
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
    candidates will be ranked. Of several targets it is the mean of their correlations. Each fold's
    own rho is the score of its part, and `spearman_pooled` is rho over this fold and those before
    it; that of the last fold is the trial's.

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
        truth = self.truth[np.concatenate([self.folds[k].validation for k in so_far])]
        predicted = np.concatenate([self._predicted[k] for k in so_far])
        pooled = self.metrics["spearman"](truth, predicted)
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
    several = tuple(target.name for target in table.targets) if table.more_targets else ()
    bound = prepare(
        spec,
        table.columns,
        classifies=bool(table.target.classes),
        n_targets=len(table.targets),
        labels=table.target.classes or (),
    )
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
        "targets": several,
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
