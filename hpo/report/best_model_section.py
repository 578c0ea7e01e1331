"""The report's section on the best model: figures, and the coverage of its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from features.table import FeatureTable, Target
from hpo.analysis.best_model import Evaluation, classify
from hpo.analysis.calibration import calibrate, calibration_curve
from hpo.analysis.importance import find_importances
from hpo.report.figures.base import Figure, parity
from hpo.report.figures.model import (
    calibration_figure,
    error_figure,
    importance_figures,
    interval_figure,
)
from hpo.report.formatting import name_target, name_targets
from hpo.report.tables import TextTable, coverage_table


@dataclass(frozen=True)
class BestModelSection:
    """The best model in figures, those that cannot be drawn with the reason.

    Attributes
    ----------
    parity
        Predicted against actual values, coloured by fold, of each target; none of classes.
    details
        Further figures; without panels, and with the reason, what cannot be drawn.
    tables, about
        Coverage by class, and what is to be known of it; empty where there is none.
    note
        Why some intervals are missing; "" if none is.
    importance
        By feature family, and by column.
    """

    parity: tuple[Figure, ...]
    details: tuple[Figure, ...]
    tables: tuple[TextTable, ...]
    about: str
    note: str
    importance: tuple[Figure, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure."""
        return (*self.parity, *self.details, *self.importance)


ABOUT = (
    "Conformal intervals from the absolute out-of-fold residuals, one half-width for all rows that "
    "are calibrated alike: out-of-fold rows by the rows of other folds and other groups, held-out "
    "rows by all out-of-fold rows. Coverage is promised over all rows that are drawn alike, not "
    "within a class."
)
SHARED = (
    " Here groups have rows on both sides of a fold: out-of-fold rows are easier than rows of a "
    "new group, and held-out rows may be missed more often."
)

MEASURED = (
    " Rows whose target is known as an interval are left out: half-widths and coverage are of "
    "measured rows."
)
CALIBRATION, INTERVALS = "Coverage of the intervals", "Intervals around the predictions"


def _undrawn(titles: Mapping[str, str], why: str) -> tuple[Figure, ...]:
    return tuple(Figure(key, title, why) for key, title in titles.items())


def portray_targets(evaluation: Evaluation, table: FeatureTable, *, seed: int) -> BestModelSection:
    """Return the figures of a best model of one or several numbers; arguments as of `portray`.

    Of several targets each has figures and intervals of its own; what the model relies on is told
    by the mean over targets.
    """
    if not evaluation.cv.targets:
        return portray(evaluation, table, table.target, seed=seed)
    sections = [
        _named(portray(evaluation.of_target(k), table, target), k, target)
        for k, target in enumerate(table.targets)
    ]
    _, unit = name_targets(table.targets)
    relies = importance_figures(find_importances(evaluation, table, seed=seed), unit)
    notes = [f"{t.name}: {s.note}" for s, t in zip(sections, table.targets, strict=True) if s.note]
    return BestModelSection(
        parity=tuple(figure for section in sections for figure in section.parity),
        details=tuple(figure for section in sections for figure in section.details),
        tables=tuple(shown for section in sections for shown in section.tables),
        about=next((section.about for section in sections if section.about), ""),
        note="; ".join(notes),
        importance=tuple(relies),
    )


def _named(section: BestModelSection, position: int, target: Target) -> BestModelSection:
    """Return what is drawn of one of several targets, with its name in titles and files."""

    def named(figure: Figure) -> Figure:
        key, title = f"{figure.key}-{position + 1}", f"{target.name}: {figure.title}"
        return replace(figure, key=key, title=title)

    return replace(
        section,
        parity=tuple(map(named, section.parity)),
        details=tuple(map(named, section.details)),
        tables=tuple(
            replace(shown, title=f"{target.name}: {shown.title}") for shown in section.tables
        ),
    )


def portray(
    evaluation: Evaluation, table: FeatureTable, of: Target, *, seed: int | None = None
) -> BestModelSection:
    """Return the figures of a best model of one number.

    Parameters
    ----------
    evaluation
        Its predictions, and the models of its folds.
    table
        The table of its study.
    of
        What is predicted.
    seed
        Of the permutations that importance is told by; None to leave that out.
    """
    cv, test, level = evaluation.cv, evaluation.test, evaluation.level
    target, unit = name_target(of)
    importance: tuple[Figure, ...] = ()
    if seed is not None:
        found = find_importances(evaluation, table, seed=seed)
        importance = tuple(importance_figures(found, unit))
    plot = (parity(cv, test, target, level=level),)
    if level is not None or "rmse" not in cv.scores:
        what = f"the {level:g} quantile" if level is not None else "scores without a unit"
        why = f"not drawn; the model predicts {what}, not the value."
        missing = {
            "errors": "How large the errors are",
            "calibration": CALIBRATION,
            "intervals": INTERVALS,
        }
        return BestModelSection(plot, _undrawn(missing, why), (), "", "", importance)
    errors = error_figure(cv, test, unit)
    if cv.measured is None:
        why = "not drawn; no row has a measured value to calibrate intervals on."
        missing = {"calibration": CALIBRATION, "intervals": INTERVALS}
        return BestModelSection(plot, (errors, *_undrawn(missing, why)), (), "", "", importance)
    left_out = len(cv.y) - len(cv.measured.y)
    cv, test = cv.measured, test.measured if test is not None else None
    calibrated = calibrate(cv, test)
    sets = {"cv": cv} if test is None else {"cv": cv, "test": test}
    curves = calibration_curve(lambda coverage: calibrate(cv, test, coverage), sets)
    n_rows = {name: rows.n_rows for name, rows in sets.items()}
    covers = calibrated.cv is not None or calibrated.test is not None
    shared = SHARED if evaluation.shared_groups > 0 else ""
    return BestModelSection(
        parity=plot,
        details=(
            errors,
            calibration_figure(curves, n_rows),
            interval_figure(calibrated, cv, test, target),
        ),
        tables=(coverage_table(calibrated, sets, classify(sets, table), unit),) if covers else (),
        about=f"{ABOUT}{shared}{MEASURED if left_out else ''}" if covers else "",
        note=calibrated.problem,
        importance=importance,
    )
