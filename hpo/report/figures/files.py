"""The engine's own figures as files for a paper: PDF, PNG and SVG, drawn by matplotlib.

A file is drawn from the very Plotly figure that a page shows, so that both say the same. What is
understood is what our figures use (scatter with markers, lines and filled bands, bars, error bars,
the ranges, ticks and titles of two axes); Optuna's figures of the search are not drawn. The same
figure gives the same bytes, with the same version of matplotlib, which is imported only to draw:
it takes a third of a second.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.report.figures.base import BLUE, GRID, INK, MUTED, Figure, Panel
from hpo.system.atomic_files import replace_file
from hpo.system.beside import Beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FOLDER_NAME = "figures"
# What each would say of when and by what it was made, left out: the same figure is the same file.
NO_METADATA: dict[str, dict[str, None]] = {
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
    ".svg": {"Date": None},
}
SUFFIXES = tuple(NO_METADATA)
DPI = 200
# Width and height of a panel, in inches: one column of a journal is 3.4.
SIZES = {"square": (3.4, 3.35), "trio": (2.9, 3.1), "wide": (6.9, 3.6)}
PLAIN_SIZE = (4.4, 3.2)
BAR_INCH = 0.19  # height of a horizontal bar with its gap
MAX_COLUMNS = 3
TITLE_SIZE, TITLE_SIGNS_PER_INCH = 7.0, 14
MAX_INSIDE = 8  # a legend with more entries stands beside the plots
BESIDE_INCH, ENTRY_INCH = 2.6, 0.135

_DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 3)),
    "dot": (0, (1, 2)),
    "dashdot": (0, (5, 2, 1, 2)),
}
_DASHES["longdash"] = (0, (9, 3))
_STEPS = {"hv": "steps-post", "vh": "steps-pre"}
_SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-left": "<",
    "triangle-right": ">",
}
_OPEN = "-open"  # behind the name of a symbol that is not filled
_POINTS_PER_PIXEL = 0.75
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "pdf.fonttype": 42,  # journals refuse fonts of type 3
    "svg.hashsalt": "hpo",
    "svg.fonttype": "path",
    "text.parse_math": False,
}


def write_figures(figures: Sequence[Figure], folder: Path, *, together: bool = False) -> list[Path]:
    """Write figures as PDF, PNG and SVG, and remove the files of figures that have gone.

    Parameters
    ----------
    figures
        Those of the engine; one without panels is left out.
    folder
        Made if absent, and nobody else's.
    together
        Whether the panels of a figure share a file, rather than having one each.

    Returns
    -------
    list of Path
        `<key>.pdf`, `<key>.png` and `<key>.svg`, or `<key>_<panel>.pdf` and so on.

    Raises
    ------
    OSError
        If the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [file for figure in figures for file in _files_of(figure, folder, together=together)]
    with Beside(lambda: _write(files[1::2])) as others:
        _write(files[::2])
        others.result()
    written = [path for file in files for path in file.paths]
    for path in folder.iterdir():
        if path.suffix in SUFFIXES and path not in written:
            path.unlink()
    return written


@dataclass(frozen=True)
class _File:
    """What is drawn into one file of each kind, without its suffix, and the shape of a panel."""

    stem: Path
    panels: Sequence[Panel]
    shape: str

    @property
    def paths(self) -> list[Path]:
        return [self.stem.with_name(f"{self.stem.name}{suffix}") for suffix in SUFFIXES]


def _files_of(figure: Figure, folder: Path, *, together: bool) -> Iterator[_File]:
    if together and figure.panels:
        yield _File(folder / figure.key, figure.panels, figure.shape)
        return
    for panel in figure.panels:
        name = f"{figure.key}_{panel.name}" if panel.name else figure.key
        yield _File(folder / name, (panel,), figure.shape)


def _write(files: Sequence[_File]) -> None:
    for file in files:
        with _our_style():
            canvas = draw(file.panels, file.shape)
            _lay_out(canvas)
            for path in file.paths:
                replace_file(path, _encode(canvas, path.suffix))


@contextmanager
def _our_style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the page has it in full.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def _lay_out(canvas: Canvas) -> None:
    """Find the places of all parts once; else each format is drawn twice, the first time for them.

    That is by the resolution of PNG: the three files of a figure are alike.
    """
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")


def _encode(canvas: Canvas, suffix: str) -> bytes:
    stream = io.BytesIO()
    metadata: Any = NO_METADATA[suffix]
    canvas.savefig(stream, format=suffix[1:], dpi=DPI, metadata=metadata)
    return stream.getvalue()


def refuse_drawing(figure: Figure) -> str:
    """Return why a figure that is not the engine's cannot be drawn into a file; "" if it can."""
    try:
        with _our_style():
            draw(figure.panels, figure.shape)
    except Exception as exc:  # what Plotly draws and this does not has no end
        return str(exc) or type(exc).__name__
    return ""


def draw(panels: Sequence[Panel], shape: str = "plain") -> Canvas:
    """Draw panels side by side, at most three in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = 2 if len(panels) == 4 else min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    width, height = _size(panels, shape)
    named = max((_legend_traces(panel) for panel in panels), key=len)
    beside = len(named) > MAX_INSIDE
    size = columns * width, rows * height
    if beside:
        size = size[0] + BESIDE_INCH, max(size[1], 0.4 + ENTRY_INCH * len(named))
    canvas = Canvas(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    for position, panel in enumerate(panels, start=1):
        axes = canvas.add_subplot(rows, columns, position)
        _draw_panel(axes, panel)
        if len(panels) > 1:
            axes.set_title(_wrap(_plain(panel.title), width), color=INK, fontsize=TITLE_SIZE)
        if not beside:
            _add_legend(axes, _legend_traces(panel), "best")
    if beside:
        _add_legend(canvas, named, "outside right upper")
    return canvas


def _wrap(title: str, width_inch: float) -> str:
    """Return a title in lines that are no wider than its panel, broken behind underscores, too."""
    lines = [""]
    for piece in re.findall(r"[^\s_-]+[\s_-]*|[\s_-]+", title):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > TITLE_SIGNS_PER_INCH * width_inch:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _size(panels: Sequence[Panel], shape: str) -> tuple[float, float]:
    width, height = SIZES.get(shape, PLAIN_SIZE)
    ticks = [panel.figure.layout.yaxis.ticktext or () for panel in panels]
    named = max(sum(_lines_of(text) for text in texts) for texts in ticks)
    if named:
        height = max(1.8, 0.9 + BAR_INCH * named)
    return width, height


def _lines_of(label: str) -> float:
    """Return the height that a label takes, in bars."""
    return 1.0 + 0.7 * label.count("<br>")


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for trace in panel.figure.data:
        draw_trace = _TRACES.get(trace.type)
        if draw_trace is None:
            raise ValueError(f"a {trace.type} trace cannot be drawn into a file")
        draw_trace(axes, trace)
    layout = panel.figure.layout
    _set_axis(axes, "x", layout.xaxis)
    _set_axis(axes, "y", layout.yaxis)
    if layout.yaxis.scaleanchor:
        axes.set_aspect("equal", adjustable="box")
        _tick_alike(axes)
    axes.set_axisbelow(True)
    axes.tick_params(color=MUTED, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)


def _plain(text: str | None) -> str:
    """Return a text without Plotly's little HTML."""
    lines = re.sub(r"<br\s*/?>", "\n", text or "")
    return html.unescape(re.sub(r"<[^>]*>", "", lines))


# Traces ---------------------------------------------------------------------------------------


def _draw_scatter(axes: Axes, trace: Any) -> None:
    x, y = np.asarray(trace.x, dtype=np.float64), np.asarray(trace.y, dtype=np.float64)
    if trace.fill == "toself":
        axes.fill(x, y, color=_colour(trace.fillcolor), linewidth=0)
        return
    mode = trace.mode or "lines"
    line_colour = _colour(trace.line.color or trace.marker.color or BLUE)
    bars = {
        name: _reach(reach)
        for name, reach in (("xerr", trace.error_x), ("yerr", trace.error_y))
        if reach.array is not None
    }
    if bars:
        width = _POINTS_PER_PIXEL * (trace.error_x.thickness or trace.error_y.thickness or 1.5)
        axes.errorbar(x, y, **bars, fmt="none", ecolor=line_colour, elinewidth=width, capsize=1.5)
    if "lines" in mode:
        axes.plot(
            x,
            y,
            color=line_colour,
            linewidth=_POINTS_PER_PIXEL * (trace.line.width or 2),
            linestyle=_DASHES[trace.line.dash or "solid"],
            drawstyle=_STEPS.get(trace.line.shape or "", "default"),
        )
    if "markers" in mode:
        symbol, is_open = _symbol(trace)
        colour = _colour(trace.marker.color or line_colour)
        axes.scatter(
            x,
            y,
            s=(0.6 * (trace.marker.size or 6)) ** 2,
            facecolors="none" if is_open else colour,
            edgecolors=colour,
            alpha=trace.marker.opacity,
            marker=symbol,
            linewidths=0.6 if is_open else 0,
            zorder=2.5,
        )


def _symbol(trace: Any) -> tuple[str, bool]:
    """Return matplotlib's marker for the one of a trace, and whether it is open."""
    name = trace.marker.symbol or "circle"
    return _SYMBOLS[name.removesuffix(_OPEN)], name.endswith(_OPEN)


def _draw_cells(axes: Axes, trace: Any) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares = np.asarray(trace.z, dtype=np.float64)
    colours = LinearSegmentedColormap.from_list("ours", [tuple(one) for one in trace.colorscale])
    places = np.arange(len(shares))
    axes.pcolormesh(places, places, shares, cmap=colours, vmin=trace.zmin, vmax=trace.zmax)
    for row, texts in enumerate(trace.text):
        for column, text in enumerate(texts):
            ink = "white" if shares[row, column] > 0.6 else INK
            axes.text(column, row, _plain(text), ha="center", va="center", color=ink, fontsize=7.0)


def _reach(reach: Any) -> Any:
    """Return how far an error bar reaches, down and up."""
    up = np.asarray(reach.array, dtype=np.float64)
    down = up if reach.arrayminus is None else np.asarray(reach.arrayminus, dtype=np.float64)
    return np.array([down, up])


def _draw_bars(axes: Axes, trace: Any) -> None:
    x, y = np.asarray(trace.x, dtype=np.float64), np.asarray(trace.y, dtype=np.float64)
    across = trace.orientation == "h"
    length, places = (x, y) if across else (y, x)
    reach = trace.error_x if across else trace.error_y
    style: dict[str, Any] = {"color": _colour(trace.marker.color or BLUE), "linewidth": 0}
    if reach.array is not None:
        style["xerr" if across else "yerr"] = _reach(reach)
        style["error_kw"] = {"ecolor": _colour(reach.color or INK), "elinewidth": 1, "capsize": 1.5}
    thickness = trace.width or 0.7
    if across:
        axes.barh(places, length, height=thickness, **style)
    else:
        axes.bar(places, length, width=thickness, **style)


_TRACES = {"scatter": _draw_scatter, "bar": _draw_bars, "heatmap": _draw_cells}


def _colour(text: str) -> Any:
    """Return a colour of Plotly's as matplotlib takes it."""
    found = re.fullmatch(r"rgba\((\d+), ?(\d+), ?(\d+), ?([\d.]+)\)", text)
    if found is None:
        return text
    red, green, blue, alpha = found.groups()
    return int(red) / 255, int(green) / 255, int(blue) / 255, float(alpha)


# Axes -----------------------------------------------------------------------------------------


def _set_axis(axes: Axes, name: str, axis: Any) -> None:
    from matplotlib.ticker import LogFormatter, PercentFormatter

    of_axes: Any = axes
    ends = axis.range
    if axis.type == "log":
        getattr(of_axes, f"set_{name}scale")("log")
        getattr(of_axes, f"{name}axis").set_major_formatter(LogFormatter())
        ends = None if ends is None else [10.0**end for end in ends]
    if ends is not None:
        getattr(of_axes, f"set_{name}lim")(*ends)
    getattr(of_axes, f"set_{name}label")(_plain(axis.title.text), color=INK)
    if axis.tickvals is not None:
        texts = None if axis.ticktext is None else [_plain(text) for text in axis.ticktext]
        getattr(of_axes, f"set_{name}ticks")(list(axis.tickvals), texts)
    elif (axis.tickformat or "").endswith("%"):
        getattr(of_axes, f"{name}axis").set_major_formatter(PercentFormatter(1.0, decimals=0))
    if axis.showgrid is not False:
        of_axes.grid(visible=True, axis=name, color=GRID, linewidth=0.6)


def _tick_alike(axes: Axes) -> None:
    """Give two axes of one scale the same ticks."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    if axes.get_ylim() == (low, high):
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)


def _legend_traces(panel: Panel) -> list[Any]:
    """Return the traces that a legend names, each name once."""
    named = {trace.name: trace for trace in panel.figure.data if trace.name}
    shown = [trace for trace in named.values() if trace.showlegend is not False]
    return shown if len(shown) > 1 else []


def _add_legend(to: Axes | Canvas, traces: Sequence[Any], place: Any) -> None:
    from matplotlib.lines import Line2D

    if not traces:
        return
    handles = [
        Line2D(
            [],
            [],
            color=_colour(trace.line.color or trace.marker.color or BLUE),
            linestyle=_DASHES[trace.line.dash or "solid"] if "lines" in (trace.mode or "") else "",
            marker="" if trace.mode == "lines" else _symbol(trace)[0],
            markersize=4,
        )
        for trace in traces
    ]
    to.legend(
        handles=handles,
        labels=[_plain(trace.name) for trace in traces],
        loc=place,
        fontsize=6.0,
        framealpha=0.85,
        edgecolor=GRID,
        handlelength=2.6,
        borderaxespad=0.3,
    )
