"""Figures of uncertainty and of the alloy, in the looks of the engine's own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from hpo.report.figures.base import (
    BEST,
    BLUE,
    FOLD_COLOURS,
    INK,
    MUTED,
    SCALE,
    Figure,
    Panel,
    apply_style,
    pick_rows,
)
from hpo.report.figures.model import BANDS, add_band, calibration_figure
from studies.bandgap.silicon_germanium import CROSSOVER, measured_gap
from studies.bandgap.uncertainty import Judged, Sure, bins_of, curves_of

Floats = NDArray[np.float64]

COLOURS = {"trained on": FOLD_COLOURS[2], "held out": FOLD_COLOURS[5], "variants": SCALE[1]}
GAP_RANGE = (-0.1, 2.5)  # eV; what alloys of silicon and germanium can have


@dataclass(frozen=True, eq=False)
class Curve:
    """A predicted gap over composition.

    Attributes
    ----------
    title
        Of its panel.
    x, gap, deviation
        Arrays of shape (n,): atomic fraction of germanium; gap and its standard deviation in eV.
    points
        What stands beside it.
    """

    title: str
    x: Floats
    gap: Floats
    deviation: Floats
    points: tuple[Points, ...] = ()


@dataclass(frozen=True, eq=False)
class Points:
    """Gaps in eV over atomic fractions of germanium; arrays of shape (n,)."""

    name: str
    x: Floats
    gap: Floats
    colour: str


# Uncertainty ----------------------------------------------------------------------------------


def uncertainty_figures(judged: Judged) -> list[Figure]:
    """Draw coverage, error by deviation, and every row's error over its deviation."""
    sets = {"cv": judged.cv, **({} if judged.test is None else {"test": judged.test})}
    coverage = calibration_figure(
        curves_of(judged), {name: len(sure.rows.y) for name, sure in sets.items()}
    )
    panels = (
        Panel(coverage.panels[0].figure, "Coverage of z intervals"),
        Panel(_bins(sets), "Error by deviation, ten bins"),
        Panel(_scatter(sets), "Every row"),
    )
    caption = (
        "Coverage of intervals of z deviations; root mean square error of equally many rows over "
        "their root mean square deviation, on the dashed line where the forest knows its errors; "
        "and the error of every row over its deviation."
    )
    return [Figure(f"uncertainty_{judged.name}", judged.name, caption, panels, "trio")]


NAMES = {"cv": ("cross-validation", BLUE), "test": ("held out", BEST)}


def _bins(sets: dict[str, Sure]) -> go.Figure:
    figure = go.Figure()
    reach = 0.0
    for name, sure in sets.items():
        deviation, error = bins_of(sure)
        label, colour = NAMES[name]
        figure.add_scatter(
            x=deviation.tolist(),
            y=error.tolist(),
            mode="lines+markers",
            name=label,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 6},
        )
        reach = max(reach, float(deviation.max()), float(error.max()))
    _add_diagonal(figure, reach)
    apply_style(figure, legend=True)
    figure.update_xaxes(title_text="root mean square deviation (eV)", range=[0, 1.05 * reach])
    figure.update_yaxes(title_text="root mean square error (eV)", range=[0, 1.05 * reach])
    return figure


def _scatter(sets: dict[str, Sure]) -> go.Figure:
    figure = go.Figure()
    reach = 0.0
    for name, sure in sets.items():
        rows = pick_rows(len(sure.errors))
        label, colour = NAMES[name]
        figure.add_scatter(
            x=sure.deviation[rows].tolist(),
            y=sure.errors[rows].tolist(),
            mode="markers",
            name=label,
            marker={"color": colour, "size": 4, "opacity": 0.4},
        )
        reach = max(reach, float(np.quantile(np.concatenate((sure.errors, sure.deviation)), 0.995)))
    _add_diagonal(figure, reach)
    apply_style(figure, legend=True)
    figure.update_xaxes(title_text="deviation (eV)", range=[0, 1.05 * reach])
    figure.update_yaxes(title_text="absolute error (eV)", range=[0, 1.05 * reach])
    return figure


def _add_diagonal(figure: go.Figure, reach: float) -> None:
    figure.add_scatter(
        x=[0.0, 1.05 * reach],
        y=[0.0, 1.05 * reach],
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dash"},
        showlegend=False,
    )


# The alloy ------------------------------------------------------------------------------------


def alloy_figure(key: str, title: str, curves: Sequence[Curve]) -> Figure:
    """Draw predicted gaps over composition beside the measured relation.

    A panel for each curve; the band is one standard deviation to either side.
    """
    panels = tuple(Panel(_over_composition(curve), curve.title) for curve in curves)
    caption = (
        "Gap over composition: predicted with one standard deviation of the forest, and measured "
        "at 4.2 K (Weber & Alonso 1989), with its crossover at the dotted line."
    )
    return Figure(key, title, caption, panels, "trio")


def _over_composition(curve: Curve) -> go.Figure:
    figure = go.Figure()
    low, high = curve.gap - curve.deviation, curve.gap + curve.deviation
    add_band(figure, curve.x, low, high, BANDS["cv"])
    for shown in curve.points:
        figure.add_scatter(
            x=shown.x.tolist(),
            y=shown.gap.tolist(),
            mode="markers",
            name=html.escape(shown.name),
            marker={"color": shown.colour, "size": 6, "opacity": 0.8},
        )
    figure.add_scatter(
        x=curve.x.tolist(),
        y=curve.gap.tolist(),
        mode="lines",
        name="predicted",
        line={"color": BLUE, "width": 2},
    )
    x = np.linspace(0.0, 1.0, 201)
    figure.add_scatter(
        x=x.tolist(),
        y=measured_gap(x).tolist(),
        mode="lines",
        name="measured relation",
        line={"color": INK, "width": 1.5, "dash": "dash"},
    )
    figure.add_scatter(
        x=[CROSSOVER] * 2,
        y=list(GAP_RANGE),
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        showlegend=False,
    )
    apply_style(figure, legend=True)
    figure.update_xaxes(title_text="x in Si(1-x)Ge(x)", range=[0, 1])
    figure.update_yaxes(title_text="band gap (eV)", range=list(GAP_RANGE))
    return figure
