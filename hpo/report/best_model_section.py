"""The report's section on the best model: figures, and the coverage of its intervals."""

from __future__ import annotations

from dataclasses import dataclass

from features.table import FeatureTable
from hpo.analysis.best_model import Evaluation, Predictions, classify
from hpo.analysis.calibration import Calibrated, calibrate, calibration_curve
from hpo.analysis.importance import find_importances
from hpo.report.figures.base import Figure, parity
from hpo.report.figures.model import (
    calibration_figure,
    error_figure,
    importance_figures,
    interval_figure,
)
from hpo.report.formatting import name_target
from hpo.report.tables import TextTable, coverage_table


@dataclass(frozen=True)
class BestModelSection:
    """The best model in figures, those that cannot be drawn with the reason.

    Attributes
    ----------
    errors, calibration, intervals
        Figures without panels where the model does not predict the value itself.
    coverage
        Coverage and width of the intervals, by class; None where there are none.
    note
        Why some intervals are missing; "" if none is.
    importance
        By feature family, and by column.
    """

    parity: Figure
    errors: Figure
    calibration: Figure
    intervals: Figure
    coverage: TextTable | None
    note: str
    importance: tuple[Figure, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure."""
        return (self.parity, self.errors, self.calibration, self.intervals, *self.importance)


def portray(evaluation: Evaluation, table: FeatureTable, *, seed: int) -> BestModelSection:
    """Return the figures of a best model.

    Parameters
    ----------
    evaluation
        Its predictions, and the models of its folds.
    table
        The table of its study.
    seed
        Of the permutations that importance is told by.
    """
    cv, test, level = evaluation.cv, evaluation.test, evaluation.level
    target, unit = name_target(table.target)
    importance = tuple(importance_figures(find_importances(evaluation, table, seed=seed), unit))
    plot = parity(cv, test, target, level=level)
    if level is not None or "rmse" not in cv.scores:
        what = f"the {level:g} quantile" if level is not None else "scores without a unit"
        why = f"not drawn; the model predicts {what}, not the value."
        return BestModelSection(
            parity=plot,
            errors=Figure("errors", "How large the errors are", why),
            calibration=Figure("calibration", "Coverage of the intervals", why),
            intervals=Figure("intervals", "Intervals around the predictions", why),
            coverage=None,
            note="",
            importance=importance,
        )
    calibrated = calibrate(cv, test)
    sets = {"cv": cv} if test is None else {"cv": cv, "test": test}
    curves = calibration_curve(lambda coverage: calibrate(cv, test, coverage), sets)
    n_rows = {name: rows.n_rows for name, rows in sets.items()}
    return BestModelSection(
        parity=plot,
        errors=error_figure(cv, test, unit),
        calibration=calibration_figure(curves, n_rows),
        intervals=interval_figure(calibrated, cv, test, target),
        coverage=_coverage(calibrated, sets, table, unit),
        note=calibrated.problem,
        importance=importance,
    )


def _coverage(
    calibrated: Calibrated, sets: dict[str, Predictions], table: FeatureTable, unit: str
) -> TextTable | None:
    if calibrated.cv is None and calibrated.test is None:
        return None
    return coverage_table(calibrated, sets, classify(sets, table), unit)
