"""Figures of predicted classes: ROC, precision and recall, confusion, calibration."""

from __future__ import annotations

import html
from collections.abc import Callable

import plotly.graph_objects as go

from hpo.analysis.best_model import Predictions
from hpo.analysis.classification.curves import (
    GRID,
    RateCurve,
    confusion,
    precision_recall_curve,
    reliability,
    roc_curve,
    shares,
)
from hpo.objectives.class_metrics import CLASS_METRICS
from hpo.report.figures.base import (
    FOLD_COLOURS,
    MUTED,
    SCALE,
    Figure,
    Panel,
    RowSet,
    apply_style,
    name_sets,
)
from hpo.report.figures.model import BANDS, add_band
from hpo.wording import count_of

_UNIT = {"range": [-0.01, 1.01], "tickformat": ".0%"}
_DIAGONAL = {"color": MUTED, "width": 1, "dash": "dash"}
# What a band is, for captions.
_BAND = "the band holds 95 % of curves over resampled groups"
MAX_LABEL = 14


def class_figures(cv: Predictions, test: Predictions | None) -> tuple[Figure, ...]:
    """Return every figure of predicted classes, those without probabilities with the reason."""
    sets = name_sets(cv, test)
    if "roc_auc" not in cv.scores:
        why = "not drawn; the estimator predicts classes without probabilities."
        named = {"roc": "ROC curve", "precision_recall": "Precision and recall"}
        missing = [Figure(key, title, why) for key, title in named.items()]
        return (*missing, _confusion(sets), Figure("reliability", "Calibration", why))
    return (_roc(sets), _precision_recall(sets), _confusion(sets), _reliability(sets))


def _lines(rows: Predictions) -> list[tuple[int, str]]:
    """Return the classes that are drawn: of two the last one, else each against all others."""
    if len(rows.classes) == 2:
        return [(1, rows.classes[1])]
    return list(enumerate(rows.classes))


def _of_class(rows: Predictions) -> str:
    if len(rows.classes) == 2:
        return f"'{rows.classes[1]}'"
    return "each class against all others"


def _colour(k: int, rows: RowSet) -> str:
    return rows.colour if len(rows.rows.classes) == 2 else FOLD_COLOURS[k % len(FOLD_COLOURS)]


def _roc(sets: list[RowSet]) -> Figure:
    panels = []
    for one in sets:
        figure = _square("false positive rate", "true positive rate")
        figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=_DIAGONAL, hoverinfo="skip")
        _add_curves(figure, one, roc_curve, "%{y:.0%} found, %{x:.0%} of the others with them")
        panels.append(Panel(figure, _titled(one, "roc_auc", "AUC"), one.name))
    caption = (
        f"As the threshold falls, the share of rows that is found against the share of the others "
        f"that is taken with them, of {_of_class(sets[0].rows)}; {_BAND}. On the dashed line, "
        "nothing is known."
    )
    return Figure("roc", "ROC curve", caption, tuple(panels), "square")


def _precision_recall(sets: list[RowSet]) -> Figure:
    panels = []
    for one in sets:
        figure = _square("recall", "precision")
        if len(one.rows.classes) == 2:
            level = [shares(one.rows)[1] / len(one.rows.y)] * 2
            figure.add_scatter(x=[0, 1], y=level, mode="lines", line=_DIAGONAL, hoverinfo="skip")
        hover = "%{x:.0%} found, %{y:.0%} of what is taken are right"
        _add_curves(figure, one, precision_recall_curve, hover)
        title = _titled(one, "average_precision", "average precision")
        panels.append(Panel(figure, title, one.name))
    dashed = ", the dashed line what a blind choice has" if len(sets[0].rows.classes) == 2 else ""
    caption = (
        f"As the threshold falls, the share of what is taken that is right against the share that "
        f"is found, of {_of_class(sets[0].rows)}; {_BAND}{dashed}. It tells more than the ROC "
        "curve where a class is rare."
    )
    return Figure("precision_recall", "Precision and recall", caption, tuple(panels), "square")


def _add_curves(
    figure: go.Figure,
    one: RowSet,
    curve_of: Callable[[Predictions, int], RateCurve | None],
    hover: str,
) -> None:
    for k, label in _lines(one.rows):
        curve = curve_of(one.rows, k)
        if curve is None:
            continue
        if len(one.rows.classes) == 2:
            add_band(figure, GRID, curve.low, curve.high, BANDS[one.name])
        figure.add_scatter(
            x=curve.x.tolist(),
            y=curve.y.tolist(),
            mode="lines",
            name=html.escape(label),
            line={"color": _colour(k, one), "width": 2},
            hovertemplate=f"{hover}<extra>{html.escape(label)}</extra>",
        )
    figure.update_layout(showlegend=len(one.rows.classes) > 2)


def _confusion(sets: list[RowSet]) -> Figure:
    panels = []
    for one in sets:
        counts = confusion(one.rows)
        of_class = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        texts = [
            [f"{n}<br>{share:.0%}" for n, share in zip(*row, strict=True)]
            for row in zip(counts.tolist(), of_class.tolist(), strict=True)
        ]
        figure = go.Figure(
            go.Heatmap(
                z=of_class.tolist(),
                text=texts,
                texttemplate="%{text}",
                hoverinfo="skip",
                zmin=0.0,
                zmax=1.0,
                colorscale=[[0.0, "#f4f8fb"], [0.5, SCALE[1]], [1.0, SCALE[3]]],
                showscale=False,
            )
        )
        apply_style(figure)
        places = list(range(len(counts)))
        ticks = {
            "tickvals": places,
            "ticktext": [*map(_short, one.rows.classes)],
            "showgrid": False,
        }
        ends = [-0.5, len(counts) - 0.5]
        figure.update_xaxes(title_text="predicted", range=ends, **ticks)
        figure.update_yaxes(title_text="actual", range=ends[::-1], **ticks)
        title = f"{one.title}: {count_of(len(one.rows.y), 'row')}"
        panels.append(Panel(figure, title, one.name))
    rule = "the most probable class"
    if len(sets[0].rows.classes) == 2:
        rule = f"'{sets[0].rows.classes[1]}' where its probability is above 0.5, the threshold"
    caption = (
        f"Rows by their actual and their predicted class, which is {rule}; shares are of the rows "
        "of an actual class."
    )
    return Figure("confusion", "Confusion of classes", caption, tuple(panels), "square")


def _reliability(sets: list[RowSet]) -> Figure:
    panels = []
    for one in sets:
        figure = _square("predicted probability", "share of the rows")
        figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=_DIAGONAL, hoverinfo="skip")
        for k, label in _lines(one.rows):
            found = reliability(one.rows, k)
            figure.add_scatter(
                x=found.predicted.tolist(),
                y=found.observed.tolist(),
                error_y={
                    "type": "data",
                    "array": (found.high - found.observed).tolist(),
                    "arrayminus": (found.observed - found.low).tolist(),
                    "thickness": 1,
                    "width": 2,
                },
                mode="lines+markers",
                name=html.escape(label),
                line={"color": _colour(k, one), "width": 1.5},
                marker={"color": _colour(k, one), "size": 6},
                hovertemplate="predicted %{x:.0%}, there %{y:.1%}"
                f"<extra>{html.escape(label)}</extra>",
            )
        figure.update_layout(showlegend=len(one.rows.classes) > 2)
        panels.append(Panel(figure, _titled(one, "brier_score", "Brier score"), one.name))
    errors = " and ".join(
        f"{max(reliability(one.rows, k).error for k, _ in _lines(one.rows)):.3f} ({one.title})"
        for one in sets
    )
    caption = (
        "How often a class is there where a probability is predicted, of "
        f"{_of_class(sets[0].rows)}, in bins with equally many rows. Above the dashed line "
        "probabilities are too low, below it "
        f"too high. Expected calibration error: {errors}. Bars are 95 % binomial intervals "
        "(Wilson), which take rows for independent of one another."
    )
    return Figure("reliability", "Calibration of probabilities", caption, tuple(panels), "square")


def _square(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    apply_style(figure)
    figure.update_xaxes(title_text=x, **_UNIT)
    figure.update_yaxes(title_text=y, **_UNIT)
    return figure


def _titled(one: RowSet, metric: str, name: str) -> str:
    value = CLASS_METRICS[metric](one.rows.y, one.rows.predicted)
    ends = one.rows.group_intervals.get(metric)
    interval = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"{one.title}: {name} {value:.3f}{interval}"


def _short(label: str) -> str:
    text = label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
    return html.escape(text)
