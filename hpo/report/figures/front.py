"""The figures of a search: those of its score, and of several objectives the Pareto front."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from html import escape

import optuna.visualization as plots
from optuna.exceptions import ExperimentalWarning

from hpo.report.figures.base import (
    BEST,
    BLUE,
    BROKEN,
    MAX_POINTS,
    SCALE,
    Figure,
    Panel,
    apply_style,
)
from hpo.report.figures.search import history, importance, score_figures
from hpo.study.trials import Search
from hpo.wording import count_of

# Optuna draws fronts of two and of three values.
_MAX_DRAWN = 3
_KINDS = (("breaks a constraint", BROKEN), ("other trial", SCALE[2]), ("Pareto front", BEST))


def search_figures(search: Search) -> list[Figure]:
    """Return the figures of a search, in the order of the page.

    With several objectives they are those of the first, with the others' scores and importance.
    """
    n_values = len(search.directions)
    if n_values == 1:
        return score_figures(search)
    figures = [_front(search), _hypervolume(search)]
    for one in map(search.of_value, range(1, n_values)):
        figures += [_naming(figure, one.score_name) for figure in (history(one), importance(one))]
    ranked = score_figures(search)
    return [*figures[:2], *(_naming(f, search.score_name) for f in ranked), *figures[2:]]


def _naming(figure: Figure, value: str) -> Figure:
    """Return a figure that says which value it is about, if it is about one."""
    if figure.key == "timeline":
        return figure
    key = f"{figure.key}-{re.sub('[^0-9A-Za-z]+', '-', value)}"
    return replace(figure, key=key, title=f"{figure.title}: {value}")


def _front(search: Search) -> Figure:
    title = "Pareto front"
    front = search.front
    if front is None:
        return Figure("front", title, "not drawn; no trial has finished that counts.")
    if len(search.directions) > _MAX_DRAWN:
        return Figure("front", title, "not drawn; a plot has three values at most.")
    figure = plots.plot_pareto_front(
        search.view_values(), target_names=[escape(name) for name in search.value_names]
    )
    # Optuna draws trials that break a constraint first, if there are constraints, the front last.
    for trace, (name, colour) in zip(reversed(figure.data), reversed(_KINDS), strict=False):
        on_front = name == _KINDS[-1][0]
        trace.update(
            name=name,
            showlegend=len(trace.x) > 0,
            marker={"color": colour, "size": 8 if on_front else 5, "line": {"width": 0}},
            text=None,
            hovertemplate=f"{name}: (%{{x:.5g}}, %{{y:.5g}})<extra></extra>",
        )
        trace.marker.update(showscale=False, colorscale=None)
    apply_style(figure, legend=True)
    caption = (
        f"A dot is a trial. For the {count_of(len(front.numbers), 'trial')} of the front, no other "
        "one is better in every value: which of them to use is a choice between the values."
    )
    return Figure("front", title, caption, (Panel(figure),))


def _hypervolume(search: Search) -> Figure:
    title = "Hypervolume"
    front = search.front
    if front is None or len(search.finished) < 2:
        return Figure("hypervolume", title, "not drawn; it needs two finished trials.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        figure = plots.plot_hypervolume_history(search.view_values(), front.reference_point)
    (line,) = figure.data
    every = max(1, len(line.x) // MAX_POINTS)
    line.update(
        x=line.x[::every],
        y=line.y[::every],
        mode="lines",
        line={"color": BLUE, "width": 2, "shape": "hv"},
        hovertemplate="trial %{x}: %{y:.5g}<extra></extra>",
    )
    apply_style(figure)
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text="hypervolume")
    caption = (
        "What lies between the Pareto front and the worst values of all trials. A line that still "
        "rises at the end asks for more trials."
    )
    return Figure("hypervolume", title, caption, (Panel(figure),))
