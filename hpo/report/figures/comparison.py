"""Figures of several studies together: parity, overlays, errors and differences."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from hpo.analysis.best_model import Predictions
from hpo.analysis.comparison.differences import Pair, ScoredStudy
from hpo.analysis.comparison.studies import CLASSES, INTERVALS, Outside
from hpo.report.figures.base import (
    BEST,
    BLUE,
    FOLD_COLOURS,
    MUTED,
    Ends,
    Figure,
    Panel,
    add_lines,
    add_rows,
    apply_style,
    find_ends,
    name_axis,
    pick_rows,
)
from hpo.report.figures.model import SHORT_NAMES, draw_errors
from hpo.report.formatting import label
from hpo.wording import count_of

MAX_DRAWN = 6
COLOURS = FOLD_COLOURS[:MAX_DRAWN]
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
LABEL_WIDTH = 22
SET_TITLES = {"cv": "cross-validation, out of fold", "test": "held-out test set"}

Scatter = tuple[str, Predictions, str]  # name, rows and colour
Floats = NDArray[np.float64]


def comparison_figures(
    studies: Sequence[ScoredStudy], pairs: Sequence[Pair], target: str, unit: str
) -> list[Figure]:
    """Return the figures of a comparison.

    Parameters
    ----------
    studies
        Those with predictions of the value itself are drawn.
    pairs
        Differences to one study.
    target, unit
        The target as an axis names it, and the unit of an error.
    """
    drawn = [study for study in studies if study.predicts_value]
    shown = drawn[:MAX_DRAWN]
    figures = []
    if shown:
        ends = _common_ends(shown)
        figures += [_parity(shown, drawn, of, ends, target) for of in SHORT_NAMES]
        figures += [_overlays(shown, drawn, of, ends, target) for of in SHORT_NAMES]
        figures.append(_errors(drawn, unit))
    figures.append(_forest([pair for pair in pairs if pair.metrics], unit))
    return [figure for figure in figures if figure.panels]


def styles(count: int) -> list[tuple[str, str]]:
    """Return a colour and a dash for every study; the first ones differ in colour alone."""
    return [
        (COLOURS[k % len(COLOURS)], DASHES[k // len(COLOURS) % len(DASHES)]) for k in range(count)
    ]


def _common_ends(studies: Iterable[ScoredStudy]) -> Ends:
    """Return the ends of an axis that holds everything that any of the plots shows."""
    every = [rows for study in studies for rows in study.rows.values()]
    return find_ends(np.concatenate([part for rows in every for part in (rows.y, rows.predicted)]))


# Predictions ----------------------------------------------------------------------------------


def _parity(
    shown: Sequence[ScoredStudy], drawn: Sequence[ScoredStudy], of: str, ends: Ends, target: str
) -> Figure:
    styled = zip(shown, styles(len(shown)), strict=True)
    having = [(study, colour) for study, (colour, _) in styled if of in study.rows]
    panels = tuple(
        Panel(
            _scatter([(study.name, study.rows[of], colour)], ends, name_axis(target)),
            f"{study.name}: {count_of(study.rows[of].n_rows, 'row')}",
            study.name,
        )
        for study, colour in having
    )
    caption = (
        "All of these plots have the same axes. The solid line is perfect prediction, the "
        f"dashed lines are one RMSE of the study away from it.{_of_many(shown, drawn)}"
    )
    title = f"Predicted against actual {target}: {SET_TITLES[of]}".replace("  ", " ")
    return Figure(f"parity_{of}", title, caption, panels, "trio")


def _overlays(
    shown: Sequence[ScoredStudy], drawn: Sequence[ScoredStudy], of: str, ends: Ends, target: str
) -> Figure:
    having = [study for study in shown if of in study.rows]
    panels = tuple(
        Panel(
            _scatter(
                [(first.name, first.rows[of], BLUE), (second.name, second.rows[of], BEST)],
                ends,
                name_axis(target),
            ),
            f"{first.name} (blue) and {second.name} (orange)",
            f"{first.name}_{second.name}",
        )
        for first, second in itertools.pairwise(having)
    )
    caption = (
        "Two studies after one another, in the order in which they were named, over each other "
        f"and with the same axes as above.{_of_many(shown, drawn)}"
    )
    return Figure(f"overlay_{of}", f"In pairs: {SET_TITLES[of]}", caption, panels, "trio")


def _of_many(shown: Sequence[ScoredStudy], drawn: Sequence[ScoredStudy]) -> str:
    if len(shown) == len(drawn):
        return ""
    return f" The first {len(shown)} of {len(drawn)} studies are drawn."


def _scatter(entries: Sequence[Scatter], ends: Ends, target: str) -> go.Figure:
    figure = go.Figure()
    add_lines(figure, ends, entries[0][1].scores["rmse"] if len(entries) == 1 else None)
    for name, rows, colour in entries:
        marker = {"color": colour, "size": 5, "opacity": 0.6}
        add_rows(figure, rows, pick_rows(len(rows.y)), name, marker, showlegend=False)
    apply_style(figure)
    figure.update_layout(margin={"l": 64, "r": 14, "t": 12, "b": 52})
    figure.update_xaxes(title_text=f"actual {target}", range=ends, constrain="domain")
    figure.update_yaxes(
        title_text=f"predicted {target}",
        range=ends,
        scaleanchor="x",
        constrain="domain",
        automargin=False,
    )
    return figure


# Errors ---------------------------------------------------------------------------------------


def _errors(drawn: Sequence[ScoredStudy], unit: str) -> Figure:
    reach = max(float(rows.errors.max()) for study in drawn for rows in study.rows.values())
    panels = []
    for of, title in SET_TITLES.items():
        having = [
            ((study.name, study.rows[of], colour), dash)
            for study, (colour, dash) in zip(drawn, styles(len(drawn)), strict=True)
            if of in study.rows
        ]
        if having:
            curves, dashes = zip(*having, strict=True)
            figure = draw_errors(curves, unit, dashes, reach=reach, legend=False)
            panels.append(Panel(figure, title.capitalize(), of))
    caption = (
        "The share of rows whose prediction is at most so far off; the further up and left, the "
        "better. Point at a line for its study."
    )
    return Figure("errors", "How large the errors are", caption, tuple(panels), "pair")


# Differences ----------------------------------------------------------------------------------


def _forest(pairs: Sequence[Pair], unit: str) -> Figure:
    title = f"Differences to {pairs[0].against}" if pairs else ""
    names = list(dict.fromkeys(pair.name for pair in pairs))
    shown = (*INTERVALS.names, *CLASSES.names)
    metrics = [name for name in shown if any(name in pair.metrics for pair in pairs)]
    panels = tuple(
        Panel(_forest_panel(pairs, names, metric, unit), label(metric), metric)
        for metric in metrics
    )
    caption = (
        "A study's score less that of the study in the title, blue in cross-validation and orange "
        "on the held-out rows, with paired 95 % bootstrap intervals that resample whole groups. An "
        "interval that holds zero, the line, leaves it open which of the two is better. For errors "
        "and losses less is better, for all else more."
    )
    n_lines = max((wrap(name).count("<br>") + 1 for name in names), default=1)
    height = max(14.0, 5.0 + (0.8 + 0.9 * n_lines) * len(names))
    return Figure("differences", title, caption, panels, "pair", height)


def _forest_panel(pairs: Sequence[Pair], names: list[str], metric: str, unit: str) -> go.Figure:
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 0],
        y=[-0.6, len(names) - 0.4],
        mode="lines",
        line={"color": MUTED, "width": 1},
        hoverinfo="skip",
    )
    for of, colour, shift in (("cv", BLUE, -0.15), ("test", BEST, 0.15)):
        mine = [pair for pair in pairs if pair.of == of and metric in pair.metrics]
        found = [pair.metrics[metric] for pair in mine]
        if not mine:
            continue
        figure.add_scatter(
            x=[one.value for one in found],
            y=[names.index(pair.name) + shift for pair in mine],
            mode="markers",
            name=SHORT_NAMES[of],
            marker={"color": colour, "size": 7},
            error_x={
                "type": "data",
                "symmetric": False,
                # Of a few resamples the ends may both lie on one side of the value.
                "array": [max(0.0, one.group[1] - one.value) for one in found],
                "arrayminus": [max(0.0, one.value - one.group[0]) for one in found],
                "color": colour,
                "thickness": 1.5,
                "width": 3,
            },
            text=[_ends_text(pair, metric) for pair in mine],
            hovertemplate="%{text}<extra></extra>",
        )
    apply_style(figure)
    unit = f" ({html.escape(unit)})" if unit and metric in ("rmse", "mae") else ""
    figure.update_xaxes(title_text=f"difference in {label(metric)}{unit}", nticks=6)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[wrap(name) for name in names],
        tickfont={"size": 11},
        range=[len(names) - 0.4, -0.6],
        showgrid=False,
        ticks="",
    )
    return figure


def _ends_text(pair: Pair, metric: str) -> str:
    found = pair.metrics[metric]
    low, high = found.group
    return (
        f"{html.escape(pair.name)}, {SHORT_NAMES[pair.of]}<br>{found.value:+.3g} "
        f"({low:+.3g} to {high:+.3g})"
    )


# Scores from outside --------------------------------------------------------------------------


def draw_outside(found: Outside, number: int) -> Figure:
    """Draw scores from outside against what was searched by, the line, and its 95 % band.

    Parameters
    ----------
    found
        The experiments and their line.
    number
        Tells the figure from the others of its kind.
    """
    line, points = found.line, found.points
    figure = go.Figure()
    x = np.linspace(*find_ends(np.array([line.low, line.high])), 60)
    bands = [line.predict(score)[1] for score in x]
    for end in (0, 1):
        figure.add_scatter(
            x=x.tolist(),
            y=[band[end] for band in bands],
            mode="lines",
            line={"color": MUTED, "width": 1, "dash": "dash"},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=x.tolist(),
        y=(line.intercept + line.slope * x).tolist(),
        mode="lines",
        line={"color": MUTED, "width": 1},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[point.score for point in points],
        y=[point.external for point in points],
        mode="markers",
        marker={"color": BLUE, "size": 8},
        text=[html.escape(point.name) for point in points],
        hovertemplate="%{text}<br>score %{x:.4g}, outside %{y:.4g}<extra></extra>",
    )
    apply_style(figure)
    figure.update_xaxes(title_text="score")
    figure.update_yaxes(title_text=name_axis(found.external.name))
    caption = (
        "Experiments whose score outside is known, the least-squares line, and between the dashed "
        "lines where a single further one is expected with 95 %. It says nothing of scores outside "
        "of those drawn."
    )
    name = found.external.name
    title = f"{name[:1].upper()}{name[1:]} against the score: {found.of}"
    return Figure(f"external_{number}", title, caption, (Panel(figure),), "plain")


def wrap(name: str, width: int = LABEL_WIDTH) -> str:
    """Return a long name in several lines, broken behind its hyphens, dots and underscores."""
    lines = [""]
    for piece in re.findall(r"[^_.-]+[_.-]*|[_.-]+", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "<br>".join(html.escape(line) for line in lines)
