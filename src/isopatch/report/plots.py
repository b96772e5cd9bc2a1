"""Charts as inline SVG: text stays text, ink and grid take the page's colours, nothing is loaded.

matplotlib draws; its SVG is then made fit for a page: headers and metadata dropped, the stand-in colours
replaced by CSS variables, so one chart serves the light and the dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = ("#3b6fd4", "#e07b39", "#2f9e77", "#8e5bd0", "#d1495b", "#1b9aaa", "#b8912a", "#7a869a")
MAX_POINTS = 360  # about one per two pixels of a chart
INK, GRID = "#0a0b0c", "#d0d1d2"  # stand-ins, replaced by var(--muted) and var(--line)
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "isopatch",
    "text.parse_math": False,  # a "$" in a name is a dollar
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.fontsize": 9.0,
}


@dataclass(frozen=True)
class Line:
    """One curve: x and y of equal length; NaN in y is a gap.

    A curve of more than max_points is averaged over runs of points. band: draw the range of what was
    averaged. points: mark each value of a short curve.
    """

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    color: str = SERIES[0]
    dashed: bool = False
    points: bool = False
    band: bool = False
    max_points: int = MAX_POINTS


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    y_format: Callable[[float], str] = "{:g}".format,
    legend: bool = True,
    zero: bool = False,
    whole_x: bool = False,
) -> Markup | None:
    """Return the chart, or None where no line has a finite point.

    zero: the y axis starts at 0. whole_x: only whole numbers are marked on the x axis.
    """
    drawn = [line for line in lines if np.isfinite(line.x + line.y).any()]
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for line in drawn:
            _draw_line(axes, line)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_formatter(lambda value, _position: y_format(value))
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        axes.margins(x=0.02, y=0.08)
        if whole_x:
            axes.locator_params(axis="x", integer=True)
        if zero:
            axes.set_ylim(bottom=0)
        if legend and len(drawn) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=4, borderaxespad=0.1)

    return _svg(draw, title, room_for_legend=legend and len(drawn) > 1)


def calibration_chart(bins: Sequence[tuple[float, float, int]], *, title: str) -> Markup | None:
    """Return the reliability diagram of (mean confidence, accuracy, pictures) bins, or None without any."""
    if not bins:
        return None

    def draw(axes: Axes) -> None:
        confidence, accuracy, images = np.array(bins, dtype=np.float64).T
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(confidence, accuracy, color=SERIES[0], linewidth=1.4, alpha=0.6)
        sizes = 14 + 180 * images / images.max()
        axes.scatter(confidence, accuracy, s=sizes, color=SERIES[0], alpha=0.85, linewidths=0)
        axes.xaxis.set_major_formatter(lambda value, _position: f"{100 * value:.0f} %")
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:.0f} %")
        axes.set_xlim(-0.03, 1.05)
        axes.set_ylim(-0.03, 1.08)
        axes.set_xlabel("confidence; upwards: share right; area: number of pictures")

    return _svg(draw, title)


def downsample(
    x: NDArray[np.float64], y: NDArray[np.float64], limit: int = MAX_POINTS
) -> tuple[NDArray[np.float64], ...]:
    """Return x, mean, lowest and highest y of at most `limit` equal runs of points; NaN where all are."""
    if len(x) <= limit:
        return x, y, y, y
    edges = np.linspace(0, len(x), limit + 1).astype(np.int64)[:-1]
    finite = np.isfinite(y)
    counts = np.add.reduceat(finite.astype(np.int64), edges)
    sums = np.add.reduceat(np.where(finite, y, 0.0), edges)
    lowest = np.minimum.reduceat(np.where(finite, y, np.inf), edges)
    highest = np.maximum.reduceat(np.where(finite, y, -np.inf), edges)
    empty = counts == 0
    mean = np.divide(sums, counts, out=np.full(len(edges), np.nan), where=~empty)
    lengths = np.diff(np.append(edges, len(x)))
    middle = np.add.reduceat(x, edges) / lengths
    return middle, mean, np.where(empty, np.nan, lowest), np.where(empty, np.nan, highest)


def _draw_line(axes: Axes, line: Line) -> None:
    x, mean, lowest, highest = downsample(line.x, line.y, line.max_points)
    if line.band and len(line.x) > line.max_points:
        axes.fill_between(x, lowest, highest, color=line.color, alpha=0.16, linewidth=0)
    alone = np.isfinite(line.y).sum() == 1
    marker = "o" if alone or (line.points and len(x) <= 40) else ""
    style = (0, (4, 2)) if line.dashed else "solid"
    axes.plot(x, mean, label=line.label, color=line.color, linewidth=1.8, marker=marker, markersize=3.6,
              linestyle=style, solid_capstyle="round", clip_on=False)  # fmt: skip


def _svg(draw: Callable[[Axes], None], title: str, *, room_for_legend: bool = False) -> Markup:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 2.7))
        FigureCanvasSVG(figure)
        # Fixed margins, so that charts side by side align.
        figure.subplots_adjust(left=0.115, right=0.985, bottom=0.16, top=0.91 if room_for_legend else 0.965)
        axes = figure.add_subplot()
        draw(axes)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return _for_page(buffer.getvalue(), title)


_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _for_page(svg: str, title: str) -> Markup:
    """Drop what only a file of its own needs, and let the page's colours in."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href").replace(INK, "var(--muted)").replace(GRID, "var(--line)")
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    name = escape(title)
    return Markup(f'{head} role="img" aria-label="{name}">{rest}')
