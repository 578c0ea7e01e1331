"""The figure of a validation."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from hpo.report.figures.base import BLUE, MUTED, Figure, Panel, apply_style
from studies.saddle.validation import Comparison


def draw_rates(comparisons: Sequence[Comparison]) -> Figure:
    """Draw convergence rates of default and best settings, with their 95 % intervals."""
    figure, shift = go.Figure(), 0.12
    for name, colour, side in (("default", MUTED, -1.0), ("best", BLUE, 1.0)):
        rates = [one.default if name == "default" else one.best for one in comparisons]
        figure.add_scatter(
            x=[100.0 * rate.value for rate in rates],
            y=[k + side * shift for k in range(len(rates))],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100.0 * (rate.interval[1] - rate.value) for rate in rates],
                "arrayminus": [100.0 * (rate.value - rate.interval[0]) for rate in rates],
            },
        )
    apply_style(figure, legend=True)
    figure.update_xaxes(title_text="searches that converge (%)", range=[-2, 102])
    figure.update_yaxes(
        tickmode="array",
        tickvals=[*range(len(comparisons))],
        ticktext=[f"{one.name}<br>{one.default.n_samples} starts" for one in comparisons],
        range=[len(comparisons) - 0.5, -0.5],
        ticks="",
    )
    caption = (
        "Bars are 95 % Wilson intervals, as if searches of one molecule had nothing in common."
    )
    return Figure("rates", "Best and default settings from new starts", caption, (Panel(figure),))
