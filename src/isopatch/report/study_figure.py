"""One plot of a study, drawn once and written three ways: into the page, as SVG and as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isopatch.report import png
from isopatch.report.plots import GRID, STYLE, _for_page

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Plot:
    """A plot before it is drawn. name: the stem of its file; size in inches; legend: its number of lines.

    left: the share of the width left of the axes; grid: the axes with grid lines.
    """

    name: str
    title: str
    note: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = (5.4, 2.9)
    left: float = 0.115
    legend_rows: int = 0
    grid: str = "y"


def to_page(plot: Plot) -> Markup:
    """Return inline SVG in the page's colours."""
    return _for_page(_svg(plot, titled=False), plot.title)


def to_svg(plot: Plot) -> bytes:
    """Return an SVG file of its own, with its title, the same bytes for the same plot."""
    return _svg(plot, titled=True).encode()


def to_png(plot: Plot) -> bytes:
    """Return a PNG file on white."""
    import matplotlib as mpl

    with mpl.rc_context({**STYLE, "axes.grid.axis": plot.grid}):
        return png.to_png(_figure(plot, titled=True))


def _svg(plot: Plot, *, titled: bool) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with mpl.rc_context({**STYLE, "axes.grid.axis": plot.grid}):
        figure = _figure(plot, titled=titled)
        FigureCanvasSVG(figure)
        if not titled:
            figure.patch.set_visible(False)
            figure.axes[0].patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return buffer.getvalue()


def _figure(plot: Plot, *, titled: bool) -> Figure:
    """Draw the plot with fixed margins, so that those side by side align."""
    from matplotlib.figure import Figure

    width, height = plot.size
    above = 0.09 + 0.19 * plot.legend_rows + (0.3 if titled else 0.0)  # inches
    figure = Figure(figsize=(width, height + (0.3 if titled else 0.0)), facecolor="white")
    full = figure.get_figheight()
    figure.subplots_adjust(left=plot.left, right=0.985, bottom=0.46 / full, top=1 - above / full)
    axes = figure.add_subplot()
    axes.spines["bottom"].set_color(GRID)
    plot.draw(axes)
    if titled:
        figure.text(0.02, 1 - 0.07 / full, plot.title, fontsize=11, fontweight="bold", va="top")
    return figure
