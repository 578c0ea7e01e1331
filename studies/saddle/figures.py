"""What a study of saddle searches draws of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from hpo.report.figures.base import BEST, BLUE, MUTED, apply_style
from studies.saddle.screening import Screened


def draw_steps(
    screened: Sequence[Screened], parts: Sequence[Mapping[str, Any]], n_hard: int, n_steps: int
) -> go.Figure:
    """Draw the steps of a trial from each start beside those of the default settings.

    A search that does not converge has all its steps, `n_steps`.
    """
    figure = go.Figure()
    names = [f"{'' if k < n_hard else 'watched: '}{row.name}" for k, row in enumerate(screened)]
    places = [*range(len(names))]
    for name, colour, steps in (
        ("default", MUTED, [_steps(row.converged, row.steps, n_steps) for row in screened]),
        ("this trial", BLUE, [_steps(p["converged"], p["steps"], n_steps) for p in parts]),
    ):
        figure.add_scatter(
            x=steps,
            y=places,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9, "opacity": 0.85},
            text=names,
            hovertemplate="%{text}: %{x:.0f} steps<extra>" + name + "</extra>",
        )
    figure.add_scatter(
        x=[n_steps, n_steps],
        y=[-0.5, len(names) - 0.5],
        mode="lines",
        name="not converged",
        line={"color": BEST, "width": 1, "dash": "dash"},
        hoverinfo="skip",
    )
    apply_style(figure, legend=True)
    figure.update_layout(height=120 + 22 * len(names))
    figure.update_xaxes(title_text="steps", rangemode="tozero")
    figure.update_yaxes(
        tickmode="array",
        tickvals=places,
        ticktext=names,
        range=[len(names) - 0.5, -0.5],
        ticks="",
    )
    return figure


def _steps(converged: object, steps: float, n_steps: int) -> float:
    return min(float(steps), n_steps) if converged else float(n_steps)
