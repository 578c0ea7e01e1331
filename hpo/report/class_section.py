"""The report's section on a model of classes: figures, and prediction sets by class."""

from __future__ import annotations

from features.table import FeatureTable
from hpo.analysis.best_model import Evaluation, Predictions
from hpo.analysis.classification.curves import shares
from hpo.analysis.classification.prediction_sets import COVERAGE, PredictionSets, calibrated_sets
from hpo.analysis.importance import find_importances
from hpo.report.best_model_section import BestModelSection
from hpo.report.figures.classes import class_figures
from hpo.report.figures.model import importance_figures
from hpo.report.tables import SET_HEADS, TextTable

ABOUT = (
    "Sets of classes by split conformal prediction from the out-of-fold probabilities: a set has "
    "every class that is probable enough, and is to have the actual one as often as it says. "
    "Out-of-fold rows are calibrated by the rows of other folds and other groups, held-out rows by "
    "all out-of-fold rows. Coverage is promised over all rows that are drawn alike, not within a "
    "class."
)


def portray_classes(evaluation: Evaluation, table: FeatureTable, *, seed: int) -> BestModelSection:
    """Return the figures of a best model that predicts classes; arguments as of `portray`."""
    cv, test = evaluation.cv, evaluation.test
    figures = class_figures(cv, test)
    of_cv, of_test, problem = calibrated_sets(cv, test)
    sets = [("cv", cv, of_cv)] + ([] if test is None else [("test", test, of_test)])
    return BestModelSection(
        parity=(),
        details=figures,
        tables=(_table(sets),),
        about=ABOUT if of_cv is not None or of_test is not None else "",
        note=problem,
        importance=tuple(importance_figures(find_importances(evaluation, table, seed=seed), "")),
    )


def _table(sets: list[tuple[str, Predictions, PredictionSets | None]]) -> TextTable:
    classes = sets[0][1].classes
    lines = []
    for k, label in (*enumerate(classes), (None, "all rows")):
        cells = [label]
        for _, rows, made in sets:
            picked = rows.y == k if k is not None else rows.y >= 0
            n_rows = len(rows.y) if k is None else int(shares(rows)[k])
            cells += [str(n_rows), f"{n_rows / len(rows.y):.1%}"]
            if made is None or not n_rows:
                cells += ["–", "–"]
            else:
                covered = made.covers(rows.y)[picked].mean()
                cells += [f"{covered:.3f}", f"{made.size[picked].mean():.2f}"]
        lines.append(tuple(cells))
    columns = ("class", *("rows", "share", "coverage", "classes in a set") * len(sets))
    return TextTable(
        title=f"Classes, and their prediction sets of {100 * COVERAGE:g} % nominal coverage",
        columns=columns,
        rows=tuple(lines),
        numeric=frozenset(range(1, len(columns))),
        heads=(("", 1), *((SET_HEADS[name], 4) for name, _, _ in sets)),
        n_summary=1,
    )
