"""Intervals from three quantile studies: joined, repaired, conformalised, and how they hold."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from features.table import FeatureTable
from hpo.analysis.best_model import classify
from hpo.analysis.calibration import LEVELS, calibration_curve
from hpo.analysis.conformal import Assessment, assess
from hpo.analysis.quantile_studies import MIN_COVERAGE, SET_NAMES, ThreeQuantiles
from hpo.errors import HpoError
from hpo.report.figures.files import write_figures
from hpo.report.figures.model import calibration_figure, interval_figure
from hpo.report.formatting import name_target, number, utc
from hpo.report.html import render
from hpo.report.tables import TextTable, coverage_table
from hpo.system.atomic_files import is_stream, replace_file

PAGE_NAME = "intervals.html"


# Output ---------------------------------------------------------------------------------------


def summary_table(three: ThreeQuantiles, unit: str) -> TextTable:
    """Return coverage and mean width of predicted and of conformalised intervals."""
    made = {"as predicted": three.raw(), "conformalised": three.calibrated()}
    lines = []
    for name, rows in three.medians.items():
        for how, calibrated in made.items():
            intervals = getattr(calibrated, name)
            held: Assessment | None = assess(intervals, rows.y) if intervals is not None else None
            cells = (number(held.coverage), number(held.mean_width)) if held else ("–", "–")
            lines.append((SET_NAMES[name], how, str(rows.n_rows), *cells))
    width = f"mean width ({unit})" if unit else "mean width"
    return TextTable(
        title=f"Intervals of {100 * three.coverage:g} % nominal coverage",
        columns=("rows of", "intervals", "rows", "coverage", width),
        rows=tuple(lines),
        numeric=frozenset((2, 3, 4)),
    )


def write_intervals(three: ThreeQuantiles, table: FeatureTable | None, page: Path) -> Path:
    """Write the page about the intervals, and its figures into `<page>_figures/`.

    Of a stream, the page is written alone.

    Raises
    ------
    HpoError
        If the files cannot be written.
    """
    target, unit = name_target(table.target if table else None)
    medians, calibrated = three.medians, three.calibrated()
    cv, test = medians["cv"], medians.get("test")
    curves = calibration_curve(
        functools.partial(three.calibrated),
        medians,
        [level for level in LEVELS if level >= MIN_COVERAGE],
    )
    n_rows = {name: rows.n_rows for name, rows in medians.items()}
    figures = (
        interval_figure(calibrated, cv, test, target, own_widths=True),
        calibration_figure(curves, n_rows),
    )
    by_class = None
    if table is not None:
        by_class = coverage_table(calibrated, medians, classify(medians, table), unit)
    context = {
        "names": three.names,
        "levels": [f"{level:g}" for level in three.levels],
        "by_group": three.by_group,
        "written": utc(time.time()),
        "summary": summary_table(three, unit),
        "by_class": by_class,
        "crossed": {SET_NAMES[name]: f"{three.crossed(name):.1%}" for name in three.rows},
        "problem": calibrated.problem,
        "figures": figures,
        "folder": f"{page.stem}_figures",
    }
    try:
        if is_stream(page):
            replace_file(page, render("intervals.html.j2", context))
            return page
        page.parent.mkdir(parents=True, exist_ok=True)
        replace_file(page, render("intervals.html.j2", context))
        write_figures(figures, page.with_name(f"{page.stem}_figures"))
    except OSError as exc:
        raise HpoError(f"{page}: cannot be written: {exc.strerror}") from exc
    return page
