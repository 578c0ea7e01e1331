"""Figures as files: what is drawn is what the page shows, and always the same bytes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import matplotlib
import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib.image import imread

from hpo.analysis.best_model import Predictions
from hpo.objectives.metrics import score_all
from hpo.report.figures.base import Figure, Panel, apply_style, parity
from hpo.report.figures.files import DPI, SIZES, draw, write_figures
from hpo.report.study_page import write_report


@pytest.fixture(autouse=True)
def figures_in_one_format() -> None:
    """Here figures are drawn in all their formats."""


def predictions(n_rows, folds, seed=0) -> Predictions:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n_rows)
    predicted = y + 0.3 * rng.normal(size=n_rows)
    ids = np.array([f"<i>{row}" for row in range(n_rows)])
    fold = np.arange(n_rows) % folds if folds else np.full(n_rows, -1)
    scores = score_all(y, predicted)
    return Predictions(ids, y, predicted, ids, fold, scores, {}, {})


def one(trace, name="", **layout) -> Figure:
    figure = go.Figure(trace)
    apply_style(figure)
    figure.update_layout(layout)
    return Figure("one", "One", "", (Panel(figure, name=name),))


def axes_of(figure: Figure):
    (axes,) = draw(figure.panels, figure.shape).axes
    return axes


@pytest.fixture
def both() -> Figure:
    return parity(predictions(60, 3), predictions(20, 0, seed=1), "log₁₀ $σ_1$ & <x> (S/cm)")


def test_every_panel_is_a_pdf_a_png_and_an_svg_of_its_own(both, tmp_path):
    before = dict(matplotlib.rcParams)
    (tmp_path / "parity_gone.png").touch()
    (tmp_path / "mine.txt").touch()
    written = write_figures([both, Figure("absent", "Absent", "too few")], tmp_path)
    names = [f"parity_{panel}.{kind}" for panel in ("cv", "test") for kind in ("pdf", "png", "svg")]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", *names]
    height, width, _ = imread(tmp_path / "parity_cv.png").shape
    assert (width, height) == tuple(round(DPI * inches) for inches in SIZES["square"])
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_a_report_has_its_figures_in_every_format(run, tmp_path):
    page = write_report(run(), tmp_path)
    begin = {".pdf": b"%PDF-", ".png": b"\x89PNG", ".svg": b"<?xml"}
    files = [*(page.parent / "figures").iterdir()]
    assert Counter(path.suffix for path in files) == dict.fromkeys(begin, len(files) // 3)
    assert len(files) > 3
    for path in files:
        assert path.read_bytes().startswith(begin[path.suffix])


def test_the_same_figure_is_the_same_bytes(both, tmp_path):
    first, again = (write_figures([both], tmp_path / name) for name in ("first", "again"))
    for path, other in zip(first, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
    pdf, _, svg = first[:3]
    assert "dc:date" not in svg.read_text()
    assert b"/Subtype /Type0" in pdf.read_bytes()
    assert b"Date" not in pdf.read_bytes()


def test_panels_with_identical_axes_are_identical_in_their_files(both):
    places, limits, ticks = [], [], []
    for panel in both.panels:
        canvas = draw((panel,), both.shape)
        canvas.canvas.draw()
        (axes,) = canvas.axes
        places.append(axes.get_position().bounds)
        limits.append((axes.get_xlim(), axes.get_ylim()))
        ticks.append([*axes.get_xticks(), *axes.get_yticks()])
    assert places[0] == pytest.approx(places[1])
    assert limits[0] == limits[1] == (tuple(both.panels[0].figure.layout.xaxis.range),) * 2
    assert ticks[0] == ticks[1]


def test_panels_can_share_a_file(both, tmp_path):
    names = [path.name for path in write_figures([both], tmp_path, together=True)]
    assert names == ["parity.pdf", "parity.png", "parity.svg"]
    titles = [axes.get_title() for axes in draw(both.panels, both.shape).axes]
    assert titles == ["Cross-validation, out of fold: 60 rows", "Held-out test set: 20 rows"]


def test_long_titles_and_long_legends_stay_beside_one_another():
    figure = go.Figure([go.Scatter(x=[0, 1], y=[0, k], name=f"study {k}") for k in range(12)])
    title = "a_study_with_quite_a_long_name (blue) and another_one_of_them (orange)"
    canvas = draw((Panel(figure, title), Panel(figure, "short")))
    canvas.canvas.draw()
    (legend,) = canvas.legends
    assert len(legend.get_texts()) == 12
    boxes = [box for axes in canvas.axes if (box := axes.get_tightbbox())]
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[1].x1 < legend.get_window_extent().x0
    assert legend.get_window_extent().y0 > 0
    assert canvas.axes[0].get_title().replace("\n", "").replace(" ", "") == title.replace(" ", "")


def test_texts_lose_their_html_and_nothing_else(both, tmp_path):
    axes = axes_of(Figure("one", "", "", both.panels[:1]))
    assert axes.get_xlabel() == "actual log₁₀ $σ_1$ & <x> (S/cm)"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["fold 0", "fold 1", "fold 2"]
    # Neither a formula nor a script that the font lacks is a reason to fail or to warn.
    titled = {"xaxis_title_text": "a $ b<br>電 10<sup>3</sup>", "yaxis_title_text": r"$\frac{"}
    figure = one(go.Scatter(x=[1, 2], y=[1, 2]), **titled)
    assert axes_of(figure).get_xlabel() == "a $ b\n電 103"
    assert len(write_figures([figure], tmp_path)) == 3


def test_points_lines_and_bands_keep_their_numbers():
    dots = axes_of(one(go.Scatter(x=[1, 2], y=[3, 5], mode="markers", marker_color="#0072b2")))
    assert dots.collections[0].get_offsets().tolist() == [[1, 3], [2, 5]]
    style = {"shape": "hv", "dash": "dash", "width": 4}
    (line,) = axes_of(one(go.Scatter(x=[1, 2], y=[3, 5], mode="lines", line=style))).lines
    assert line.get_xydata().tolist() == [[1, 3], [2, 5]]
    assert (line.get_drawstyle(), line.get_linewidth()) == ("steps-post", 3.0)
    assert line.is_dashed()
    fill = {"fill": "toself", "fillcolor": "rgba(255,0,0,0.5)"}
    (patch,) = axes_of(one(go.Scatter(x=[0, 1, 1], y=[0, 0, 2], **fill))).patches
    assert patch.get_xy()[:3].tolist() == [[0, 0], [1, 0], [1, 2]]
    assert patch.get_facecolor() == (1.0, 0.0, 0.0, 0.5)


def test_bars_and_error_bars_keep_their_numbers():
    reach = {"type": "data", "array": [0.5, 1.0]}
    bars = go.Bar(x=[2.0, 3.0], y=[0, 1], orientation="h", error_x=reach)
    named = {"yaxis_tickvals": [0, 1], "yaxis_ticktext": ["a<br>b", "c &amp; d"]}
    axes = axes_of(one(bars, **named))
    assert [patch.get_width() for patch in axes.patches] == [2.0, 3.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a\nb", "c & d"]
    segments = [segment.tolist() for segment in axes.collections[0].get_segments()]
    assert segments == [[[1.5, 0.0], [2.5, 0.0]], [[2.0, 1.0], [4.0, 1.0]]]
    skew = {"type": "data", "symmetric": False, "array": [0.5], "arrayminus": [0.25]}
    axes = axes_of(one(go.Scatter(x=[1.0], y=[2.0], mode="markers", error_x=skew)))
    assert axes.collections[0].get_segments()[0].tolist() == [[0.75, 2.0], [1.5, 2.0]]


def test_ranges_and_log_axes_are_plotlys():
    figure = one(go.Scatter(x=[1, 100], y=[0, 1]), xaxis_type="log", xaxis_range=[-1, 2])
    axes = axes_of(figure)
    assert (axes.get_xscale(), axes.get_xlim()) == ("log", (0.1, 100.0))
    figure = one(go.Scatter(x=[0, 1], y=[0, 1]), yaxis_range=[1, 0], yaxis_tickformat=".0%")
    axes = axes_of(figure)
    assert axes.get_ylim() == (1.0, 0.0)
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"


def test_what_is_not_understood_is_refused():
    with pytest.raises(ValueError, match="a contour trace cannot be drawn"):
        draw(one(go.Contour(z=[[1, 2], [3, 4]])).panels)


def test_matplotlib_waits_until_figures_are_written():
    code = "import sys, hpo.report.figures.files, hpo.cli; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
