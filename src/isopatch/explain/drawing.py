"""Figures of explanations in the house's style: charts, heat maps and sheets of small pixel pictures, as SVG.

Text stays text and takes the page's colours (report/plots.py); pixels are drawn as they are, each value as a
square of its own, never smoothed. A value that does not exist (NaN) is left transparent.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isopatch.report.plots import _NO_METADATA, INK, STYLE, _for_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]  # (rows, cols, 4), red green blue alpha

WIDTH = 7.0  # inches of every figure, so that text has one size on the page
TILE = 0.86  # inches of the side of a small picture at most
RAMP = ("#3b6fd4", "#8e5bd0", "#d1495b", "#e07b39")  # first block to last; readable on light and dark


def plain(values: Values) -> list[Any]:
    """Return numbers as JSON holds them, rounded to 6 digits; what is not finite becomes None."""
    if values.ndim > 1:
        return [plain(row) for row in values]
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def chart(
    draw: Callable[[Axes], None], *, title: str, height: float = 3.0, legend: int = 0, left: float = 0.09
) -> str:
    """Return a chart of one pair of axes. legend: its rows, room above. left: room for the y axis, of 1."""

    def on(figure: Figure) -> None:
        top = 1 - (0.12 + 0.22 * legend) / height
        figure.subplots_adjust(left=left, right=0.985, bottom=0.5 / height, top=top)
        draw(figure.add_subplot())

    return _drawn(on, title, height)


def heat_map(
    values: Values,
    *,
    title: str,
    x_label: str,
    y_label: str,
    low: float = 0.0,
    high: float = 1.0,
    value_label: str = "",
    numbers: bool = False,
) -> str:
    """Return a matrix with a colour bar; the first row stands at the bottom. numbers: write every value."""
    rows, cols = values.shape
    cell = min(0.5, 5.0 / max(rows, cols))
    height = max(rows * cell, 1.2) + 0.75

    def on(figure: Figure) -> None:
        wide = cols * cell / WIDTH
        axes = figure.add_axes((0.1, 0.5 / height, wide, rows * cell / height))
        shown = axes.imshow(np.ma.masked_invalid(values), origin="lower", cmap="viridis", vmin=low, vmax=high,
                            interpolation="none", aspect="auto")  # fmt: skip
        axes.grid(False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.locator_params(axis="both", integer=True, min_n_ticks=1)
        if numbers and max(rows, cols) <= 13:
            for (row, col), value in np.ndenumerate(values):
                if math.isfinite(value):
                    light = value < low + 0.6 * (high - low)
                    axes.text(col, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5,
                              color="#ffffff" if light else "#17191e")  # fmt: skip
        bar = figure.add_axes((0.1 + wide + 0.025, 0.5 / height, 0.018, rows * cell / height))
        figure.colorbar(shown, cax=bar, label=value_label)
        bar.grid(False)

    return _drawn(on, title, height)


def sheet(
    rows: Sequence[tuple[str, Sequence[Pixels]]],
    *,
    title: str,
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    gap: float = 0.06,
    tile: float = TILE,
    colour_bar: tuple[str, float, float, str] | None = None,
) -> str:
    """Return rows of small pictures with a label before each row.

    rows: (label, pictures (h, w, 4)). columns: a label above each column. captions: a text below each
    picture. gap: between pictures, as a part of a picture. colour_bar: (colour map, low, high, label).
    """
    count = max(len(pictures) for _, pictures in rows)
    before = 0.095 * max((len(label) for label, _ in rows), default=0) + 0.05
    above = 0.22 if columns or colour_bar else 0.04
    below = 0.19 if captions else 0.0
    right = 0.75 if colour_bar else 0.02
    side = min(tile, (WIDTH - before - right) / (count * (1 + gap)))
    shapes = [picture.shape for _, pictures in rows for picture in pictures]
    largest = max(max(shape[:2]) for shape in shapes)
    tallest = max(shape[0] for shape in shapes) / largest
    pitch = side * tallest + side * gap + below
    height = above + pitch * len(rows) + 0.04

    def on(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))  # in inches, from the upper left corner
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.axis("off")
        for index, (label, pictures) in enumerate(rows):
            top = above + index * pitch
            axes.text(before - 0.08, top + side * tallest / 2, label, ha="right", va="center", fontsize=8.5)
            for place, picture in enumerate(pictures):
                x = before + place * side * (1 + gap)
                tall, wide = (side * extent / largest for extent in picture.shape[:2])
                axes.imshow(
                    _enlarged(picture),
                    extent=(x, x + wide, top + tall, top),
                    interpolation="none",
                    aspect="auto",
                )
                if index == 0 and place < len(columns):
                    axes.text(x + wide / 2, 0.14, columns[place], ha="center", fontsize=8.0)
                if captions:
                    below_it = top + side * tallest + 0.13
                    axes.text(x + wide / 2, below_it, captions[index][place], ha="center", fontsize=7.0)
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))  # each picture has moved them
        if colour_bar is not None:
            x = before + count * side * (1 + gap) + 0.05
            tall = min(pitch * len(rows) - gap * side - below, 2.4)
            rectangle = (x / WIDTH, 1 - (above + tall) / height, 0.11 / WIDTH, tall / height)
            _colour_bar(figure, rectangle, *colour_bar)

    return _drawn(on, title, height)


def coloured(values: Values, *, low: float, high: float, cmap: str = "viridis") -> Pixels:
    """Return values (rows, cols) as pixels of a matplotlib colour map; NaN becomes transparent."""
    from matplotlib import colormaps

    span = high - low
    scaled = (values - low) / span if span > 0 else np.zeros_like(values, dtype=np.float64)
    # A value that never varies lies in the middle of its range, not at its bottom.
    scaled = np.where(np.isnan(values), np.nan, scaled if span > 0 else 0.5)
    pixels: Pixels = colormaps[cmap](np.ma.masked_invalid(scaled), bytes=True)
    pixels[np.isnan(values), 3] = 0
    return pixels


def signed(values: Values, *, cmap: str = "RdBu_r") -> Pixels:
    """Return values as pixels with 0 in the middle of the colours, scaled to their own largest size."""
    finite = values[np.isfinite(values)]
    most = float(np.abs(finite).max()) if finite.size else 0.0
    return coloured(values, low=-most, high=most, cmap=cmap)


def as_colours(values: Values) -> Pixels:
    """Return (channels, rows, cols) as pixels: scaled to 0-1 over all values; three channels are a colour.

    One channel is grey, and so is the mean of another number of channels.
    """
    if values.shape[0] != 3:
        values = np.repeat(values.mean(axis=0, keepdims=True), 3, axis=0)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
    rgb = np.moveaxis(scaled, 0, -1)
    return np.dstack((np.rint(rgb * 255), np.full(rgb.shape[:2], 255))).astype(np.uint8)


def mosaic(tiles: NDArray[np.uint8], gap: int = 1) -> Pixels:
    """Return pictures (rows, cols, h, w, 4) side by side with transparent lines between them."""
    rows, cols, high, wide, _ = tiles.shape
    sheet_of = np.zeros((rows * (high + gap) - gap, cols * (wide + gap) - gap, 4), np.uint8)
    for row in range(rows):
        for col in range(cols):
            y, x = row * (high + gap), col * (wide + gap)
            sheet_of[y : y + high, x : x + wide] = tiles[row, col]
    return sheet_of


def key_of(name: str) -> str:
    """Return a name as a legend shows it: matplotlib leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def ramp(count: int) -> list[str]:
    """Return colours from the first block to the last."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    colours = LinearSegmentedColormap.from_list("depth", RAMP)
    return [to_hex(colours(index / max(count - 1, 1))) for index in range(count)]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` indices of `count`, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(float(index)) for index in np.linspace(0, count - 1, most)})


def _enlarged(picture: Pixels, least: int = 96) -> Pixels:
    """Repeat pixels, so that a viewer that smooths pictures does not blur one value into the next."""
    times = max(1, math.ceil(least / max(picture.shape[:2])))
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1)


def _colour_bar(
    figure: Figure, rectangle: tuple[float, ...], cmap: str, low: float, high: float, label: str
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.add_axes(rectangle)  # type: ignore[arg-type]
    figure.colorbar(ScalarMappable(Normalize(low, high), cmap), cax=bar)
    bar.set_title(label, fontsize=8.0, color=INK, loc="left")
    bar.tick_params(labelsize=8.0)
    bar.grid(False)


def _drawn(on: Callable[[Figure], None], title: str, height: float) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "image.composite_image": False}):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        on(figure)
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return str(_for_page(buffer.getvalue(), title)).replace(
        "<image ", '<image style="image-rendering:pixelated" '
    )
