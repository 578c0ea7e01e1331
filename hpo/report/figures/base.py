"""Common parts of figures: size, colours, captions; and the folds' names."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from numpy.typing import NDArray

from hpo.analysis.best_model import Predictions
from hpo.wording import count_of

Floats = NDArray[np.float64]
Ends = tuple[float, float]

MAX_POINTS = 2000  # what a browser draws without a pause
MAX_AXIS_NAME = 34

INK, MUTED, GRID = "#1d2329", "#5c6670", "#e3e7eb"
BLUE, BEST, BROKEN = "#0b5394", "#d55e00", "#a9b1b8"
# Of rows that were measured, and of those that are known to be below, above, or between two values.
SYMBOLS = ("", "triangle-left-open", "triangle-right-open", "diamond-open")
# Okabe & Ito's palette, without its yellow, which white paper swallows.
FOLD_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5c6670")
# Light to dark blue: ordered in grey, too, and its light end is still seen on white.
SCALE = ("#bcd7ee", "#85b6dd", "#4a90c8", "#1c68a8", "#08306b")
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes
    ----------
    figure
        What is drawn, without a title of its own.
    title
        The name that stands above it.
    name
        What tells its file from those of the other panels.
    """

    figure: go.Figure
    title: str = ""
    name: str = ""

    @property
    def json(self) -> Markup:
        """Plotly's JSON, safe within a script element."""
        return pack(self.figure)


@dataclass(frozen=True, eq=False)
class RowSet:
    """Rows that are drawn alike wherever they are: their name, title, predictions and colour."""

    name: str
    title: str
    rows: Predictions
    colour: str


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes
    ----------
    key
        Its name within the page.
    caption
        What is drawn and what to look for; where there are no panels, why there are none.
    shape
        plain, square, pair (two in a row), trio (three, square), small (several in a row), tall or
        wide (scrolls on a narrow screen).
    height_rem
        Height of a panel where that of the shape does not do.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    shape: str = "plain"
    height_rem: float = 0.0


def shown(figure: Figure) -> dict[str, Any]:
    """Return what a page shows of a figure, by its names, without objects of Plotly's.

    These take long to be sent from one process to another.
    """
    panels = [{"title": panel.title, "json": panel.json} for panel in figure.panels]
    return {**vars(figure), "panels": panels}


def parity(
    cv: Predictions, test: Predictions | None, target: str, *, level: float | None = None
) -> Figure:
    """Draw predicted against actual values, cross-validation beside the held-out rows.

    Parameters
    ----------
    cv, test
        Predictions of the best trial; `test` is None before the budget is finished.
    target
        The target with its unit.
    level
        Level of the quantile that is predicted; None if the value itself is.
    """
    # A ranker's scores have no unit: neither a common scale nor a distance from the value.
    has_unit = "rmse" in cv.scores
    sets = name_sets(cv, test)
    actual, predicted = (
        np.concatenate(both)
        for both in zip(*((s.rows.y, s.rows.predicted) for s in sets), strict=True)
    )
    if has_unit:
        actual = predicted = np.concatenate((actual, predicted))
    ends = (find_ends(actual), find_ends(predicted))
    on_axes = name_axis(target)
    panels = tuple(
        Panel(
            _parity_panel(s.rows, ends, on_axes, level),
            f"{s.title}: {count_of(s.rows.n_rows, 'row')}",
            s.name,
        )
        for s in sets
    )
    caption = _parity_caption(has_unit=has_unit, level=level, two=test is not None)
    if any(s.rows.bounds is not None for s in sets):
        caption += (
            " Open symbols are rows whose target is known as an interval: a triangle stands at the "
            "limit and points to where the target may lie, a diamond in the middle of a range."
        )
    if max(len(s.rows.y) for s in sets) > MAX_POINTS:
        caption += (
            f" At most {MAX_POINTS} rows of a set are drawn, picked at random; "
            "predictions.csv has all of them."
        )
    title = (
        f"{_predicted_name(has_unit=has_unit, level=level).capitalize()} against actual {target}"
    )
    return Figure("parity", title, caption, panels, "square")


def name_sets(cv: Predictions, test: Predictions | None) -> list[RowSet]:
    """Return the sets of rows that there are, in the order in which they are drawn."""
    sets = [RowSet("cv", "Cross-validation, out of fold", cv, BLUE)]
    if test is not None:
        sets.append(RowSet("test", "Held-out test set", test, BEST))
    return sets


def name_axis(target: str) -> str:
    """Return the target as an axis names it: nothing where it would be cut on a narrow screen."""
    return html.escape(target) if len(target) <= MAX_AXIS_NAME else ""


def pick_rows(n_rows: int) -> NDArray[np.int64]:
    """Return the rows that are drawn, ascending: all, or `MAX_POINTS` picked at random."""
    rows = np.arange(n_rows)
    if n_rows <= MAX_POINTS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False))


def find_ends(values: Floats) -> Ends:
    """Return the ends of an axis that holds all values."""
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad


def _predicted_name(*, has_unit: bool, level: float | None) -> str:
    if level is not None:
        return f"predicted {level:g} quantile"
    return "predicted" if has_unit else "ranking score"


def _parity_caption(*, has_unit: bool, level: float | None, two: bool) -> str:
    scale = "Both plots have one scale. " if two else ""
    point = "Point at a dot for its row."
    if not has_unit:
        return (
            "The model predicts scores that have no unit and only rank rows, so that no line is "
            f"that of perfect prediction. {scale}Look for a cloud that rises. {point}"
        )
    if level is not None:
        return (
            "On the line, the predicted quantile is the actual value; rows above the line are "
            f"covered, which a share of {level:g} should be. Distances from the line are no "
            f"errors. {scale}{point}"
        )
    return (
        "The solid line is perfect prediction, the dashed lines are one RMSE away from it. "
        f"{scale}Look for a cloud that lies flatter than the line (the model shrinks towards the "
        f"mean), and for points of one group that are off it together. {point}"
    )


def add_lines(figure: go.Figure, ends: Ends, rmse: float | None) -> None:
    """Add the line of perfect prediction, and dashed ones an RMSE from it where one is given."""
    shifts = [(0.0, "solid")] + ([] if rmse is None else [(rmse, "dash"), (-rmse, "dash")])
    for shift, dash in shifts:
        figure.add_scatter(
            x=ends,
            y=[end + shift for end in ends],
            mode="lines",
            line={"color": MUTED, "width": 1, "dash": dash},
            hoverinfo="skip",
        )


def parity_panel(predictions: Predictions, target: str) -> go.Figure:
    """Draw predicted against actual values of one target, both axes of one scale."""
    both = find_ends(np.concatenate((predictions.y, predictions.predicted)))
    return _parity_panel(predictions, (both, both), name_axis(target), None)


def _parity_panel(
    predictions: Predictions, ends: tuple[Ends, Ends], target: str, level: float | None
) -> go.Figure:
    figure = go.Figure()
    has_unit = "rmse" in predictions.scores
    if has_unit:
        add_lines(figure, ends[0], predictions.scores["rmse"] if level is None else None)
    rows = pick_rows(len(predictions.y))
    for fold, (name, colour) in name_folds(predictions).items():
        of_fold = rows[predictions.fold[rows] == fold]
        marker = {"color": colour, "size": 6, "opacity": 0.65}
        add_rows(figure, predictions, of_fold, name, marker, shows_group=True)
    apply_style(figure)
    figure.update_layout(margin={"l": 64, "r": 14, "t": 12, "b": 52})
    what = _predicted_name(has_unit=has_unit, level=level)
    figure.update_xaxes(title_text=f"actual {target}", range=ends[0], constrain="domain")
    figure.update_yaxes(
        title_text=f"{what} {target}" if has_unit else what,
        range=ends[1],
        scaleanchor="x" if has_unit else None,
        constrain="domain",
        automargin=False,
    )
    return figure


def add_rows(
    figure: go.Figure,
    predictions: Predictions,
    rows: NDArray[np.int64],
    name: str,
    marker: dict[str, Any],
    *,
    shows_group: bool = False,
    showlegend: bool | None = None,
) -> None:
    """Add predicted against actual values of some rows; pointing at one says which it is."""
    for symbol, drawn in _by_symbol(predictions, rows):
        # Plotly reads a little HTML in texts; an id is to be shown as it is.
        texts = map(html.escape, predictions.ids[drawn])
        if shows_group:
            groups = map(html.escape, predictions.groups[drawn])
            texts = map("{}<br>group {}".format, texts, groups)
        figure.add_scatter(
            x=predictions.y[drawn].tolist(),
            y=predictions.predicted[drawn].tolist(),
            mode="markers",
            name=name,
            showlegend=showlegend,
            marker={**marker, **symbol},
            text=[*texts],
            hovertemplate="%{text}<br>actual %{x:.3g}, predicted %{y:.3g}"
            f"<extra>{html.escape(name)}</extra>",
        )


def _by_symbol(
    predictions: Predictions, rows: NDArray[np.int64]
) -> Iterator[tuple[dict[str, str], NDArray[np.int64]]]:
    """Yield rows by the symbol that a marker has for them.

    Open ones are for intervals; those that were measured have the usual one, and come last, on top.
    """
    lower, upper = predictions.ends[rows].T
    kinds = np.select([lower == upper, np.isinf(lower), np.isinf(upper)], [0, 1, 2], default=3)
    for kind, symbol in reversed([*enumerate(SYMBOLS)]):
        if (kinds == kind).any() or (kind == 0 and predictions.bounds is None):
            yield ({"symbol": symbol} if symbol else {}), rows[kinds == kind]


def name_folds(predictions: Predictions) -> dict[int, tuple[str, str]]:
    """Return name and colour of every fold; one colour where there are too many to tell apart."""
    folds = [int(fold) for fold in np.unique(predictions.fold)]
    if folds == [-1]:
        return {-1: ("held out", BLUE)}
    colours = FOLD_COLOURS if len(folds) <= len(FOLD_COLOURS) else (BLUE,) * len(folds)
    return {fold: (f"fold {fold}", colour) for fold, colour in zip(folds, colours, strict=False)}


def apply_style(figure: go.Figure, *, legend: bool = False) -> None:
    """Give a figure the looks that all of them share."""
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": MUTED,
        "tickcolor": MUTED,
        "ticks": "outside",
        "ticklen": 4,
        "title": {"standoff": 8},
        "automargin": True,
    }
    figure.update_layout(
        template="none",
        title=None,
        autosize=True,
        width=None,
        height=None,
        font={"family": FONT, "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 64, "r": 18, "t": 14, "b": 52},
        hoverlabel={"bgcolor": "white", "bordercolor": MUTED, "font": {"color": INK}},
        modebar={"bgcolor": "rgba(255,255,255,0.85)", "color": MUTED, "activecolor": BLUE},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def pack(figure: go.Figure) -> Markup:
    """Return Plotly's JSON with short numbers, safe within a script element."""
    plain = json.loads(figure.to_json())
    text = json.dumps(_shorten(plain), separators=(",", ":"), allow_nan=False)
    for sign in "&<>":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _shorten(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_shorten(item) for item in value]
    if isinstance(value, dict):
        return {key: _shorten(item) for key, item in value.items()}
    return value


def log_ticks(low: float, high: float) -> list[float]:
    """Return a few round numbers for a logarithmic axis."""
    decades = math.log10(high / low) if high > low else 0.0
    digits = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    every = max(1, math.ceil(decades / 4))
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**e for e in exponents if e % every == 0 for digit in digits]


def format_power(value: float) -> str:
    """Return a tick: a plain number as long as that is short, else a power of ten."""
    if 0.001 <= value <= 1000:
        return f"{value:g}"
    digit, exponent = f"{value:.0e}".split("e")
    factor = "" if digit == "1" else f"{digit}·"
    return f"{factor}10<sup>{int(exponent)}</sup>".replace("-", "−")
