"""The figures of a search: Optuna's own plots, in the style of the report.

A figure that the study has no data for says so in words; it is never drawn empty.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import optuna
import optuna.visualization as plots
import plotly.colors
import plotly.graph_objects as go
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from hpo.report.figures.base import (
    BEST,
    BLUE,
    BROKEN,
    INK,
    MAX_POINTS,
    SCALE,
    Figure,
    Panel,
    apply_style,
    format_power,
    log_ticks,
)
from hpo.study.trials import Search, score, slim
from hpo.wording import count_of

MAX_CURVES = 200  # where every trial is a curve of its own
MAX_DOTS = 1000  # where every trial is a dot in several plots
FEW_DOTS = 300
MAX_SLICES = 12
MAX_AXES = 8
MAX_NAMED_PARTS = 12
CONTOUR_STEPS = 24

MIN_TRIALS_FOR_IMPORTANCE = 10
GOOD_TRIALS_FOR_IMPORTANCE = 50  # Optuna asks for 5 trials in the best tenth

# How Optuna calls the end of a trial, and how a page does.
ENDS = {
    "COMPLETE": ("finished", SCALE[2]),
    "INFEASIBLE": ("breaks a constraint", BROKEN),
    "PRUNED": ("ended early", SCALE[1]),
    "FAIL": ("failed", BEST),
}
RING = {"symbol": "circle-open", "size": 13, "color": BEST, "line": {"width": 2.5}}


def score_figures(search: Search) -> list[Figure]:
    """Return Optuna's plots of a study by its score, in the order of the page."""
    ranked = rank_params(search)
    return [
        history(search),
        importance(search),
        _slices(search, ranked),
        _contour(search, ranked[:2]),
        _parts(search),
        _parallel(search, ranked),
        _distribution(search),
        _timeline(search),
    ]


def rank_params(search: Search) -> list[str]:
    """Return the parameters of a search, the most important first; by name where none is."""
    if _no_importance(search):
        return search.params
    with _rough_importance_allowed():
        found = optuna.importance.get_param_importances(search.view(search.finished))
    return sorted(found, key=lambda name: (-found[name], name))


def history(search: Search) -> Figure:
    """Draw the score of every trial, and the best so far."""
    title = "Score of every trial"
    if absent := _too_few(search, 2):
        return Figure("history", title, absent)
    figure = plots.plot_optimization_history(
        search.view(search.trials), target_name=escape(search.score_name)
    )
    dots, best, broken = figure.data
    figure.data = (dots, best, broken) if search.infeasible else (dots, best)
    broken.update(name="breaks a constraint", marker={"color": BROKEN}, showlegend=True)
    every = math.ceil(len(dots.x) / MAX_POINTS)
    dots.update(x=dots.x[::every], y=dots.y[::every], name="trial")
    dots.update(marker={"color": SCALE[2], **_dots(len(dots.x))})
    dots.update(hovertemplate="trial %{x}: %{y:.5g}<extra></extra>")
    # The best so far is a step function: its corners are enough.
    so_far = np.array(best.y)
    corners = [0, *(np.flatnonzero(so_far[1:] != so_far[:-1]) + 1), len(so_far) - 1]
    best.update(
        x=[best.x[corner] for corner in corners],
        y=[float(so_far[c]) if math.isfinite(so_far[c]) else None for c in corners],
        name="best so far",
        line={"color": BEST, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    apply_style(figure, legend=True)
    figure.update_xaxes(title_text="trial", **_whole_numbers(search.trials))
    direction = "falls" if search.minimises else "rises"
    caption = (
        f"Dots are trials, the line is the best score so far. A line that still {direction} at the "
        "end asks for more trials; one that has long been flat says that more will hardly help."
    )
    if every > 1:
        caption += f" One trial in {every} is drawn; the line counts all of them."
    caption += _clip(search, figure.update_yaxes)
    return Figure("history", title, caption, (Panel(figure),))


def importance(search: Search) -> Figure:
    """Draw how much each parameter decides."""
    title = "Importance of the parameters"
    if absent := _no_importance(search):
        return Figure("importance", title, absent)
    with _rough_importance_allowed():
        figure = plots.plot_param_importances(
            search.view(search.finished), target_name=escape(search.score_name)
        )
    figure.update_traces(marker={"color": BLUE}, width=0.55, hoverinfo="skip", hovertemplate=None)
    apply_style(figure)
    largest = max(figure.data[0].x)
    figure.update_xaxes(title_text="share of the importance", range=[0, 1.12 * largest])
    figure.update_yaxes(title_text="", showgrid=False, ticks="")
    caption = (
        "Which parameters decide whether a trial is among the best tenth (PED-ANOVA). It speaks of "
        "what was searched: a parameter with a narrow range looks unimportant."
    )
    if len(search.finished) < GOOD_TRIALS_FOR_IMPORTANCE:
        caption += f" With {len(search.finished)} finished trials this is a rough guess."
    return Figure("importance", title, caption, (Panel(figure),))


def _slices(search: Search, params: Sequence[str]) -> Figure:
    title = "Score along each parameter"
    if absent := _too_few(search, 2) or _too_few_params(params, 1):
        return Figure("slices", title, absent)
    shown = _spread(search.finished, MAX_DOTS)
    panels, remark = [], ""
    for name in params[:MAX_SLICES]:
        figure = plots.plot_slice(
            search.view(shown), params=[name], target_name=escape(search.score_name)
        )
        figure.update_traces(
            marker={"colorscale": SCALE, "showscale": False, "line": {"width": 0}},
            hovertemplate="trial %{marker.color}<br>%{x}: %{y:.5g}<extra></extra>",
        )
        figure.update_traces(marker=_dots(len(shown)))
        best = search.best
        if best is not None and name in best.params:
            _ring(figure, _place(best, name, choice=repr), score(best))
        apply_style(figure)
        figure.update_layout(margin={"l": 44, "r": 12, "t": 8, "b": 46})
        figure.update_xaxes(**_param_axis(shown, name, choice=repr))
        figure.update_yaxes(title_text="")
        remark = _clip(search, figure.update_yaxes)
        panels.append(Panel(figure))
    caption = (
        f"Up the side is the score ({search.score_name}), alike in all plots. Dark dots are late "
        "trials; the best trial is ringed. Good scores that crowd at an end of an axis say that "
        "the range is too narrow; an even spread says that the parameter matters "
        f"little.{remark}{_sampled(search, len(shown))}"
    )
    if len(params) > MAX_SLICES:
        caption += f" The {MAX_SLICES} most important of {len(params)} parameters are drawn."
    return Figure("slices", title, caption, tuple(panels), "small")


def _contour(search: Search, params: Sequence[str]) -> Figure:
    title = "The two most important parameters together"
    have_both = [trial for trial in search.finished if {*params} <= {*trial.params}]
    scored, shown = _spread(have_both, MAX_POINTS), _spread(have_both, MAX_CURVES)
    absent = _too_few(search, MIN_TRIALS_FOR_IMPORTANCE) or _too_few_params(params, 2)
    if not absent and any(len({t.params[name] for t in scored}) < 2 for name in params):
        absent = f"not drawn; the trials do not differ in both {params[0]} and {params[1]}."
    if absent:
        return Figure("contour", title, absent)
    x, y = sorted(params)  # as Optuna orders them
    low, high = _score_window(search)
    figure = plots.plot_contour(
        search.view(_in_steps(scored, params)), params=[x, y], target_name=escape(search.score_name)
    )
    figure.data = figure.data[:1]
    colorbar = {"title": {"text": escape(search.score_name), "side": "right"}, "thickness": 12}
    figure.update_traces(colorscale=SCALE, zmin=low, zmax=high, colorbar=colorbar)
    figure.update_traces(line={"width": 0.5, "color": "white"})
    figure.add_scatter(
        x=[_place(trial, x) for trial in shown],
        y=[_place(trial, y) for trial in shown],
        mode="markers",
        marker={**_dots(len(shown)), "color": "white", "line": {"width": 1, "color": INK}},
        text=[f"trial {trial.number}: {score(trial):.5g}" for trial in shown],
        hovertemplate="%{text}<extra></extra>",
    )
    if search.best is not None and {x, y} <= {*search.best.params}:
        _ring(figure, _place(search.best, x), _place(search.best, y))
    apply_style(figure)
    figure.update_xaxes(**_param_axis(shown, x), showgrid=False)
    figure.update_yaxes(**_param_axis(shown, y), showgrid=False)
    caption = (
        "Dark is good; dots are trials, the best one is ringed. The colour between dots is "
        f"interpolated, from the best trial in each of {CONTOUR_STEPS} steps along an axis: trust "
        f"it where there are dots.{_sampled(search, len(shown))}"
    )
    return Figure("contour", title, caption, (Panel(figure),))


def _parts(search: Search) -> Figure:
    title = "Scores by part" if search.in_parts else "Reported values"
    steps = sorted({step for trial in search.finished for step in trial.intermediate_values})
    absent = _too_few(search, 1)
    if not absent and len(steps) < 2:
        what = "has one part" if search.in_parts else "reports no values by step"
        absent = f"not drawn; a trial of this study {what}."
    if absent:
        return Figure("parts", title, absent)
    # Optuna draws those alone that report something.
    view = search.view([t for t in search.finished if t.intermediate_values][:MAX_CURVES])
    shown = view.get_trials()
    figure = plots.plot_intermediate_values(view)
    for curve, trial in zip(figure.data, shown, strict=True):
        best = search.best is not None and trial.number == search.best.number
        curve.update(
            line={"color": BEST if best else SCALE[1], "width": 2.5 if best else 1},
            marker={"size": 5},
            opacity=1.0 if best else 0.5,
            hovertemplate=f"trial {trial.number}: %{{y:.5g}}<extra></extra>",
        )
    figure.data = tuple(sorted(figure.data, key=lambda curve: float(curve.opacity)))
    apply_style(figure)
    figure.update_xaxes(title_text="part of a trial" if search.in_parts else "step", showgrid=False)
    if search.in_parts and len(steps) <= MAX_NAMED_PARTS:
        names = [escape(search.part_name(step)) for step in steps]
        figure.update_xaxes(tickmode="array", tickvals=steps, ticktext=names)
    caption = "A line is a trial that finished, the best one is orange."
    if search.in_parts:
        figure.update_yaxes(title_text=f"{escape(search.score_name)} of the part")
        caption += (
            " Lines that move up and down together say that the parts differ in difficulty; lines "
            "that cross, that trials differ by less than the choice of a part."
        )
    caption += _limited(search, len(shown))
    return Figure("parts", title, caption, (Panel(figure),))


def _parallel(search: Search, params: Sequence[str]) -> Figure:
    title = "All parameters of the best trials"
    if absent := _too_few(search, 2) or _too_few_params(params, 2):
        return Figure("parallel", title, absent)
    low, high = _score_window(search)
    shown = [t for t in search.finished[:MAX_CURVES] if low <= score(t) <= high]
    figure = plots.plot_parallel_coordinate(
        search.view(shown), params=list(params[:MAX_AXES]), target_name=escape(search.score_name)
    )
    # Every curve begins on the axis of the score; good ones are drawn last, on top.
    sign = -1.0 if search.minimises else 1.0
    curves = sorted(figure.data[:-1], key=lambda curve: sign * float(curve.y[0]))
    for curve in curves:
        good = 1.0 - curve.y[0] if search.minimises else curve.y[0]
        colour = plotly.colors.sample_colorscale(list(SCALE), [min(1.0, max(0.0, good))])[0]
        curve.update(line={"color": colour, "width": 1.3}, opacity=0.6)
    curves[-1].update(line={"color": BEST, "width": 2.5}, opacity=1.0)
    figure.data = tuple(curves)
    apply_style(figure)
    figure.update_layout(margin={"l": 52, "r": 52, "t": 12, "b": 36})
    figure.update_xaxes(tickangle=0, ticks="", linewidth=0, showline=False, automargin=False)
    figure.update_annotations(bgcolor="rgba(255,255,255,0.75)", font={"color": INK})
    caption = (
        "A line is a trial, dark is good, the best one is orange. Where dark lines pass through "
        "one place the search has settled; where they fan out, the parameter matters little. An "
        f"axis ends at the smallest and the largest value drawn.{_limited(search, len(shown))}"
    )
    if len(params) > MAX_AXES:
        caption += f" The {MAX_AXES} most important of {len(params)} parameters are drawn."
    return Figure("parallel", title, caption, (Panel(figure),), "wide")


def _distribution(search: Search) -> Figure:
    title = "Distribution of the scores"
    if absent := _too_few(search, 2):
        return Figure("distribution", title, absent)
    figure = plots.plot_edf(search.view(search.finished), target_name=escape(search.score_name))
    figure.update_traces(
        line={"color": BLUE, "width": 2},
        hovertemplate="%{y:.0%} of the trials score at most %{x:.5g}<extra></extra>",
    )
    apply_style(figure)
    figure.update_yaxes(title_text="share of the trials", tickformat=".0%", range=[0, 1.02])
    end = "left" if search.minimises else "right"
    caption = (
        f"The share of trials that score at most so much. A steep rise at the {end} end says that "
        "many choices do about equally well; a long flat foot there, that few do."
    )
    caption += _clip(search, figure.update_xaxes)
    return Figure("distribution", title, caption, (Panel(figure),))


def _timeline(search: Search) -> Figure:
    title = "When trials ran"
    ended = sorted(
        [*search.finished, *search.infeasible, *search.pruned, *search.failed],
        key=lambda trial: trial.number,
    )
    if not ended:
        return Figure("timeline", title, "not drawn; no trial has ended yet.")
    shown = ended[-MAX_POINTS:]
    figure = plots.plot_timeline(search.view(shown))
    texts = {trial.number: f"trial {trial.number}: {_wall_s(trial):.3g} s" for trial in shown}
    for bars in figure.data:
        name, colour = ENDS[bars.name]
        bars.update(
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            text=[texts[number] for number in bars.y],
            hovertemplate="%{text}<extra></extra>",
        )
    apply_style(figure, legend=len(figure.data) > 1)
    figure.update_xaxes(title_text="local time", nticks=5, tickangle=0)
    ends = [shown[0].number - 1, shown[-1].number + 1]
    figure.update_yaxes(title_text="trial", showgrid=False, range=ends, **_whole_numbers(shown))
    caption = (
        "A bar is a trial, from its first claim to its end. Look for gaps, in which nobody worked, "
        "for bars much longer than the others, and for failures in a row."
    )
    if len(shown) < len(ended):
        caption += f" The last {len(shown)} of {len(ended)} trials are drawn."
    return Figure("timeline", title, caption, (Panel(figure),))


# Why a figure is not there --------------------------------------------------------------------


def _too_few(search: Search, least: int) -> str:
    """Return why a figure that needs `least` finished trials is not there; "" if it can be."""
    have = len(search.finished)
    if have >= least:
        return ""
    return (
        f"not drawn; it needs {count_of(least, 'finished trial')}, the study has {have or 'none'}."
    )


def _too_few_params(params: Collection[str], least: int) -> str:
    if len(params) >= least:
        return ""
    if not params:
        return "not drawn; the study searches no parameters."
    return "not drawn; it compares parameters, and the study searches one."


def _no_importance(search: Search) -> str:
    absent = _too_few(search, MIN_TRIALS_FOR_IMPORTANCE) or _too_few_params(search.params, 2)
    if not absent and score(search.finished[0]) == score(search.finished[-1]):
        absent = "not drawn; every finished trial has the same score."
    return absent


@contextlib.contextmanager
def _rough_importance_allowed() -> Iterator[None]:
    """Silence what the caption says of few trials, and of a space that changed on the way."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some regimes for parameter", UserWarning)
        warnings.filterwarnings("ignore", "Target and region quantiles select", UserWarning)
        yield


# What is drawn, and where ---------------------------------------------------------------------


def _limited(search: Search, shown: int) -> str:
    total = len(search.finished)
    return f" The best {shown} of {total} trials are drawn." if shown < total else ""


def _spread(trials: Sequence[FrozenTrial], most: int) -> Sequence[FrozenTrial]:
    """Return the best trial and others from all over the ranking."""
    return trials[:: max(1, math.ceil(len(trials) / most))]


def _sampled(search: Search, shown: int) -> str:
    total = len(search.finished)
    if shown == total:
        return ""
    return f" {shown} of {total} trials are drawn, good and bad alike."


def _whole_numbers(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Return the ticks of an axis of trial numbers: never halves of a trial."""
    if len(trials) > 10:
        return {}
    return {"tickmode": "array", "tickvals": [trial.number for trial in trials]}


def _dots(count: int) -> dict[str, Any]:
    return {"size": 6, "opacity": 0.9} if count <= FEW_DOTS else {"size": 4, "opacity": 0.5}


def _score_window(search: Search) -> tuple[float, float]:
    """Return the scores that every figure shows: all but a few that are far worse than others."""
    values = np.array([score(trial) for trial in search.finished])
    low, high = float(values.min()), float(values.max())
    first, third = (float(value) for value in np.quantile(values, [0.25, 0.75]))
    reach = 3.0 * (third - first)
    if reach > 0 and search.minimises:
        limit = max(third + reach, float(np.quantile(values, 0.95)))
        high = float(values[values <= limit].max())
    elif reach > 0:
        limit = min(first - reach, float(np.quantile(values, 0.05)))
        low = float(values[values >= limit].min())
    return low, high


def _clip(search: Search, update_axes: Callable[..., Any]) -> str:
    """Give the axis of the score its range, and return a remark on what lies outside."""
    low, high = _score_window(search)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    update_axes(range=[low - pad, high + pad])
    outside = sum(not low <= score(trial) <= high for trial in search.finished)
    if not outside:
        return ""
    verb = "trial scores" if outside == 1 else "trials score"
    return f" {outside} {verb} far worse and lie outside the plot."


def _place(trial: FrozenTrial, name: str, choice: Callable[[Any], str] = str) -> Any:
    """Return where Optuna places a trial on the axis of a parameter."""
    value = trial.params[name]
    return choice(value) if _is_choice(trial, name, choice) else value


def _is_choice(trial: FrozenTrial, name: str, choice: Callable[[Any], str]) -> bool:
    """Whether the axis of a parameter has names on it rather than numbers."""
    distribution = trial.distributions[name]
    if not isinstance(distribution, CategoricalDistribution):
        return False
    # A contour takes choices that are numbers for numbers, a slice does not.
    numbers = all(type(value) in (int, float) for value in distribution.choices)
    return choice is repr or not numbers


def _param_axis(
    trials: Sequence[FrozenTrial], name: str, choice: Callable[[Any], str] = str
) -> dict[str, Any]:
    """Return the axis of a parameter: its name, and few enough ticks for a small plot."""
    axis: dict[str, Any] = {"title_text": escape(name), "nticks": 6}
    trial = next(trial for trial in trials if name in trial.params)
    distribution = trial.distributions[name]
    if _is_choice(trial, name, choice) and isinstance(distribution, CategoricalDistribution):
        ticks: list[tuple[Any, str]] = [
            (choice(value), escape(str(value))) for value in distribution.choices
        ]
    elif getattr(distribution, "log", False):
        values = [float(t.params[name]) for t in trials if name in t.params]
        ticks = [(tick, format_power(tick)) for tick in log_ticks(min(values), max(values))]
    else:
        return axis
    places, texts = zip(*ticks, strict=True)
    return axis | {"tickmode": "array", "tickvals": places, "ticktext": texts}


def _ring(figure: go.Figure, x: Any, y: Any) -> None:
    figure.add_scatter(x=[x], y=[y], mode="markers", marker=RING, hoverinfo="skip")


def _in_steps(trials: Sequence[FrozenTrial], params: Sequence[str]) -> list[FrozenTrial]:
    """Return trials with parameters moved to the nearest of a few steps along their axes.

    Optuna's contour has a line of its grid for every value that occurs: with thousands of trials
    megabytes, nearly all of them gaps.
    """
    moved = [slim(trial) for trial in trials]
    for name in params:
        values = [trial.params[name] for trial in trials]
        distribution = trials[0].distributions[name]
        if isinstance(distribution, CategoricalDistribution) or len({*values}) <= CONTOUR_STEPS:
            continue
        spaced = np.geomspace if getattr(distribution, "log", False) else np.linspace
        steps = spaced(min(values), max(values), CONTOUR_STEPS)
        for trial in moved:
            nearest = np.argmin(np.abs(steps - trial.params[name]))
            trial.params = {**trial.params, name: float(steps[nearest])}
    return moved


def _wall_s(trial: FrozenTrial) -> float:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return math.nan
    return (trial.datetime_complete - trial.datetime_start).total_seconds()
