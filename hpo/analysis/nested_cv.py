"""Nested cross-validation: what the search itself is worth, not the best of what it tried.

The best of many trials owes some of its score to luck with the folds that chose it. Here each fold
is held out in turn, the whole search is run anew on the rest, and its best model predicts the fold:
Varma & Simon, BMC Bioinformatics 7, 91 (2006); Cawley & Talbot, J. Mach. Learn. Res. 11, 2079
(2010). The search of an outer fold is a study like any other, named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from features.table import FeatureTable, TableView
from hpo.analysis.best_model import Predictions, score_predictions
from hpo.errors import SpecError
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.folds import folds_of
from hpo.objectives.metrics import Metric, TargetMetric, target_metrics
from hpo.spec.cv import SplitterCv
from hpo.spec.sections import StudySpec
from hpo.storage.events import EventKind
from hpo.study.record import StudyRecord
from hpo.study.snapshot import best_trial


def name_outer(name: str, fold: int) -> str:
    """Return the name of the study that holds an outer fold out."""
    return f"{name}.outer{fold}"


def count_outer(spec: StudySpec, read: Callable[[], FeatureTable]) -> int:
    """Return the number of outer folds of a study, which are those of its [cv].

    Parameters
    ----------
    read
        Returns its table, by which a splitter divides.

    Raises
    ------
    SpecError
        If it has no folds, or holds one out already.
    ObjectiveError
        If its table cannot be divided so.
    """
    if spec.cv is None:
        raise SpecError(f"study '{spec.name}': nested cross-validation needs [cv]")
    if spec.cv.outer is not None:
        raise SpecError(
            f"study '{spec.name}': cv.outer is set, so it is one step of a nested "
            "cross-validation itself; leave it out"
        )
    if isinstance(spec.cv, SplitterCv):
        return len(folds_of(spec.cv, read(), spec.seed))
    return spec.cv.folds


def pool(records: Sequence[StudyRecord]) -> Predictions:
    """Return what the best model of each outer study predicts for the fold that it held out.

    Parameters
    ----------
    records
        The finished studies of all outer folds, in their order.

    Raises
    ------
    ConflictError
        If a study is not what it was begun with.
    SpecError
        If a study predicts nothing over a table.
    """
    views, predicted, folds = [], [], []
    metrics: Mapping[str, Metric] = {}
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    for fold, record in enumerate(records):
        table, objective = record.open_objective()
        if table is None or not isinstance(objective, CrossValidation):
            raise SpecError(f"study '{record.name}': its objective predicts no rows of a table")
        model = objective.fit(best_trial(record).params)
        metrics, classes, targets = objective.metrics, objective.classes, objective.targets
        views.append(table.test)
        predicted.append(objective.predict(model, table.test.X))
        folds.append(np.full(len(table.test.y), fold, dtype=np.int64))
    names = ("ids", "X", "X_new", "y", "groups")
    bounds = [view.bounds for view in views if view.bounds is not None]
    rows = TableView(
        **{name: np.concatenate([getattr(view, name) for view in views]) for name in names},
        bounds=np.concatenate(bounds) if bounds else None,
    )
    if targets:
        # By the standard deviations of all rows, not of those that one study trained on.
        own = {one.name: one.metric for one in metrics.values() if isinstance(one, TargetMetric)}
        metrics = target_metrics(targets, rows.y, own)
    return score_predictions(
        rows, np.concatenate(predicted), np.concatenate(folds), metrics, classes, targets
    )


def record_nested(record: StudyRecord, pooled: Predictions) -> None:
    """Write the outcome into the study whose search was examined."""
    record.ledger.record(
        EventKind.NESTED,
        {
            "rows": pooled.n_rows,
            "folds": int(pooled.fold.max()) + 1,
            "trials": record.ledger.counts().budget,
            "scores": dict(pooled.scores),
            "intervals": {
                "row": dict(pooled.row_intervals),
                "group": dict(pooled.group_intervals),
            },
        },
    )
