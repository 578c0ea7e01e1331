"""Figures of the best model beside its parity plot: errors, intervals and what it relies on."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from hpo.analysis.best_model import Predictions
from hpo.analysis.calibration import Calibrated, Curve
from hpo.analysis.conformal import Intervals
from hpo.analysis.importance import Importance, Importances
from hpo.report.figures.base import (
    BEST,
    BLUE,
    INK,
    MAX_POINTS,
    MUTED,
    SCALE,
    Figure,
    Panel,
    RowSet,
    apply_style,
    find_ends,
    name_axis,
    name_sets,
)
from hpo.wording import count_of

Floats = NDArray[np.float64]

SHORT_NAMES = {"cv": "cross-validation", "test": "held out"}
BANDS = {"cv": "rgba(11,83,148,0.15)", "test": "rgba(213,94,0,0.15)"}
MAX_LABEL = 30
CORNERS = 400  # of a drawn distribution


# Errors ---------------------------------------------------------------------------------------


def cumulative(errors: Floats, most: int = CORNERS) -> tuple[Floats, Floats]:
    """Return the share of errors that are at most so large.

    Parameters
    ----------
    errors
        Array of shape (n_rows,): absolute errors.
    most
        Number of steps; where there are more errors, every so many of them.

    Returns
    -------
    tuple of arrays of shape (n_steps + 1,)
        Errors from 0 on, ascending, and the share of all errors up to each.
    """
    ordered = np.sort(errors)
    picked = np.unique(np.linspace(0, len(ordered) - 1, min(most, len(ordered))).astype(int))
    shares = np.searchsorted(ordered, ordered[picked], "right") / len(ordered)
    return np.concatenate(([0.0], ordered[picked])), np.concatenate(([0.0], shares))


def error_figure(cv: Predictions, test: Predictions | None, unit: str) -> Figure:
    """Draw the cumulative distribution of the absolute error, both sets in one plot."""
    curves = [
        (f"{SHORT_NAMES[s.name]} ({count_of(s.rows.n_rows, 'row')})", s.rows, s.colour)
        for s in name_sets(cv, test)
    ]
    halves = [
        f"{np.median(s.rows.errors):.3g} ({SHORT_NAMES[s.name]})" for s in name_sets(cv, test)
    ]
    caption = (
        "The share of rows whose prediction is at most so far off; the further up and left, the "
        f"better. Half of the rows are within {' and '.join(halves)}{f' {unit}' if unit else ''}. "
        "A held-out line below the other says by how much cross-validation is too hopeful."
    )
    if test is None:
        caption = caption.rpartition(" A held-out")[0]
    panel = Panel(draw_errors(curves, unit))
    return Figure("errors", "How large the errors are", caption, (panel,))


def draw_errors(
    curves: Sequence[tuple[str, Predictions, str]],
    unit: str,
    dashes: Sequence[str] = (),
    *,
    reach: float = 0.0,
    legend: bool = True,
) -> go.Figure:
    """Draw cumulative distributions of the absolute error.

    Parameters
    ----------
    curves
        Name, rows and colour of each.
    unit
        Of an error.
    dashes
        Of each curve; solid if not given.
    reach
        Where the axis ends, if that is further than the largest error.
    legend
        Whether the plot names its curves.
    """
    figure = go.Figure()
    reach = max(reach, *(float(rows.errors.max()) for _, rows, _ in curves))
    for position, (name, rows, colour) in enumerate(curves):
        errors, shares = cumulative(rows.errors)
        figure.add_scatter(
            x=[*errors.tolist(), reach],
            y=[*shares.tolist(), 1.0],
            mode="lines",
            name=html.escape(name),
            line={
                "color": colour,
                "width": 2,
                "shape": "hv",
                "dash": dashes[position] if dashes else "solid",
            },
            hovertemplate="%{y:.0%} of the rows are off by at most %{x:.3g}"
            f"<extra>{html.escape(name)}</extra>",
        )
    apply_style(figure, legend=legend)
    title = f"absolute error ({html.escape(unit)})" if unit else "absolute error"
    figure.update_xaxes(title_text=title, range=[0, 1.02 * reach or 1.0])
    figure.update_yaxes(title_text="share of the rows", tickformat=".0%", range=[0, 1.02])
    return figure


# Intervals ------------------------------------------------------------------------------------


def interval_figure(
    calibrated: Calibrated,
    cv: Predictions,
    test: Predictions | None,
    target: str,
    *,
    own_widths: bool = False,
) -> Figure:
    """Draw actual values in the order of their predictions, with the interval of each.

    `own_widths` says that every row's interval has a width of its own.
    """
    title = "Intervals around the predictions"
    sets = [
        (s, made)
        for s in name_sets(cv, test)
        if (made := calibrated.cv if s.name == "cv" else calibrated.test) is not None
    ]
    if not sets:
        return Figure("intervals", title, f"not drawn; {calibrated.problem}.")
    values = [np.concatenate((s.rows.y, made.lower, made.upper)) for s, made in sets]
    ends = find_ends(np.concatenate(values))
    panels = tuple(
        Panel(_interval_panel(s, made, ends, name_axis(target)), _covered_title(s, made), s.name)
        for s, made in sets
    )
    nominal = f"{100 * sets[0][1].coverage:g} %"
    caption = (
        "Rows in the order of their prediction, the line. The band is the interval that is to "
        f"hold the actual value of {nominal} of the rows; orange dots are outside."
    )
    if not own_widths:
        caption += (
            " It has one width for all rows of a fold: dots that leave it on one side, or in one "
            "stretch, say where the model is surer than it should be."
        )
    if max(len(s.rows.y) for s, _ in sets) > MAX_POINTS:
        caption += f" At most {MAX_POINTS} rows of a set are drawn."
    return Figure("intervals", title, caption, panels, "pair")


def _covered_title(rows: RowSet, made: Intervals) -> str:
    within = int(np.sum((made.lower <= rows.rows.y) & (rows.rows.y <= made.upper)))
    return f"{rows.title}: {within} of {count_of(len(rows.rows.y), 'row')} inside"


def _interval_panel(
    rows: RowSet, made: Intervals, ends: tuple[float, float], target: str
) -> go.Figure:
    order = np.argsort(made.centre, kind="stable")
    if len(order) > MAX_POINTS:
        order = order[np.linspace(0, len(order) - 1, MAX_POINTS).astype(int)]
    place = np.arange(1.0, len(order) + 1)
    lower, upper, y = made.lower[order], made.upper[order], rows.rows.y[order]
    figure = go.Figure()
    add_band(figure, place, lower, upper, BANDS["cv"])
    figure.add_scatter(
        x=place.tolist(),
        y=made.centre[order].tolist(),
        mode="lines",
        line={"color": INK, "width": 1.5},
        name="prediction",
        hoverinfo="skip",
    )
    within = (lower <= y) & (y <= upper)
    for name, picked, colour in (("inside", within, BLUE), ("outside", ~within, BEST)):
        texts = [html.escape(str(row_id)) for row_id in rows.rows.ids[order][picked]]
        figure.add_scatter(
            x=place[picked].tolist(),
            y=y[picked].tolist(),
            mode="markers",
            name=name,
            marker={"color": colour, "size": 5, "opacity": 0.75},
            text=texts,
            hovertemplate="%{text}<br>actual %{y:.3g}<extra></extra>",
        )
    apply_style(figure)
    figure.update_xaxes(title_text="rows by prediction", range=[0, len(order) + 1])
    figure.update_yaxes(title_text=target or "actual value", range=ends)
    return figure


def add_band(figure: go.Figure, x: Floats, low: Floats, high: Floats, colour: str) -> None:
    """Fill what lies between two lines."""
    figure.add_scatter(
        x=[*x.tolist(), *x[::-1].tolist()],
        y=[*low.tolist(), *high[::-1].tolist()],
        mode="lines",
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def calibration_figure(curves: dict[str, Curve], n_rows: dict[str, int]) -> Figure:
    """Draw observed against nominal coverage."""
    title = "Coverage of the intervals"
    if not curves:
        return Figure("calibration", title, "not drawn; there are no intervals.")
    figure = go.Figure()
    diagonal = {"color": MUTED, "width": 1, "dash": "dash"}
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip", showlegend=False
    )
    for name, curve in curves.items():
        colour = {"cv": BLUE, "test": BEST}[name]
        add_band(figure, curve.nominal, curve.low, curve.high, BANDS[name])
        figure.add_scatter(
            x=curve.nominal.tolist(),
            y=curve.observed.tolist(),
            mode="lines+markers",
            name=f"{SHORT_NAMES[name]} ({count_of(n_rows[name], 'row')})",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 6},
            hovertemplate="nominal %{x:.0%}, observed %{y:.1%}<extra></extra>",
        )
    apply_style(figure, legend=True)
    axis = {"range": [0, 1], "tickformat": ".0%"}
    figure.update_xaxes(title_text="nominal coverage", **axis)
    figure.update_yaxes(title_text="observed coverage", **axis)
    caption = (
        "The share of rows within their interval, for intervals of several nominal coverages. On "
        "the dashed line intervals hold what they say, below it they are too narrow. Bands are "
        "95 % binomial intervals (Wilson), which take rows for independent of one another."
    )
    return Figure("calibration", title, caption, (Panel(figure),))


# Importance -----------------------------------------------------------------------------------


def importance_figures(found: Importances, unit: str) -> list[Figure]:
    """Draw the importance of feature families, and of the most important columns."""
    how = (
        "How much worse out-of-fold predictions get when these columns are shuffled among the "
        f"rows that a fold validates (mean and standard deviation of several shuffles, "
        f"{count_of(found.n_rows, 'row')}). Columns that say the same stand in for one another."
    )
    axis = f"{found.error} ({unit})" if unit and "ρ" not in found.error else found.error
    figures = [
        Figure(
            "importance_families",
            "By feature family",
            f"{how} A bar that reaches below zero, or no further than its error bar, is none.",
            (Panel(_bars(found.families, axis)),),
            "tall" if len(found.families) > MAX_LABEL // 2 else "plain",
        )
    ]
    if found.n_columns > 1:
        which = "" if len(found.columns) == found.n_columns else f" of {found.n_columns}"
        figures.append(
            Figure(
                "importance_columns",
                "Column by column",
                f"The {len(found.columns)} most important columns{which}, each shuffled alone. A "
                "family can matter although none of its columns does by itself.",
                (Panel(_bars(found.columns, axis)),),
                "tall" if len(found.columns) > MAX_LABEL // 3 else "plain",
            )
        )
    return figures


def _bars(found: Sequence[Importance], axis: str) -> go.Figure:
    places = list(range(len(found)))
    names = [
        one.name if len(one.name) <= MAX_LABEL else f"{one.name[: MAX_LABEL - 1]}…" for one in found
    ]
    figure = go.Figure(
        go.Bar(
            x=[one.increase for one in found],
            y=places,
            orientation="h",
            marker={"color": SCALE[2]},
            width=0.65,
            error_x={
                "type": "data",
                "array": [one.spread for one in found],
                "color": INK,
                "thickness": 1,
                "width": 2,
            },
            text=[html.escape(one.name) for one in found],
            textposition="none",
            hovertemplate="%{text}: %{x:.3g}<extra></extra>",
        )
    )
    apply_style(figure)
    figure.update_xaxes(title_text=html.escape(axis), nticks=6)
    figure.update_yaxes(
        tickmode="array",
        tickvals=places,
        ticktext=[html.escape(name) for name in names],
        range=[len(found) - 0.5, -0.5],
        showgrid=False,
        ticks="",
        tickfont={"size": 11 if len(found) > MAX_LABEL // 3 else 12},
    )
    return figure
