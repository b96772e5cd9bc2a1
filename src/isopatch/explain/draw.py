"""Heat maps on pictures, as PNG: what was given, and each map over it, with what its checks say.

The picture is drawn in grey and the map in colour, so that the picture's own colours are not taken for the
map's. A cell is drawn as a rectangle, as large as the part of the picture it stands for: between two cells
the map knows nothing, and smoothing would pretend it did.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.explain.contract import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 320  # pixels of a drawn picture's longer side
LEAST_COLUMN = 2.4  # inches, for the scores below a map
MOST_ELONGATED = 4.0  # a longer strip is drawn as the square that the model sees
WARNING = "#c0392b"
STYLE: Any = {"font.size": 9.0, "text.parse_math": False}


@dataclass(frozen=True)
class Panel:
    """One map of one picture: its name, values (rows, cols), lines of scores below it, and what it fails."""

    name: str
    values: NDArray[np.float32]
    signed: bool = False
    lines: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()


def canvas_of(shown: Shown) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Return the picture to draw on, and the box (left, top, right, bottom) of it that the model sees."""
    picture, box = shown.image, (0.0, 0.0, 1.0, 1.0)
    if shown.original is not None and shown.box is not None:
        height, width = shown.original.shape[:2]
        if max(height, width) <= MOST_ELONGATED * min(height, width):
            picture, box = shown.original, shown.box
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    filter = Image.Resampling.NEAREST if max(height, width) <= 64 else Image.Resampling.LANCZOS
    canvas = np.asarray(Image.fromarray(picture).resize(size, filter))
    left, right = (round(share * size[0]) for share in (box[0], box[2]))
    top, bottom = (round(share * size[1]) for share in (box[1], box[3]))
    return canvas, (left, top, max(right, left + 1), max(bottom, top + 1))


def overlay(
    canvas: NDArray[np.uint8], box: tuple[int, int, int, int], values: NDArray[np.float32], *, signed: bool
) -> NDArray[np.uint8]:
    """Return the canvas in grey, the map in colour on the box, and what the model does not see faded."""
    from matplotlib import colormaps

    left, top, right, bottom = box
    grey = canvas.astype(np.float32).mean(2, keepdims=True).repeat(3, axis=2)
    drawn = 0.25 * grey + 0.75 * 235  # faded
    size = (right - left, bottom - top)
    shares = np.asarray(Image.fromarray(scaled(values, signed=signed)).resize(size, Image.Resampling.NEAREST))
    colours = 255 * colormaps["RdBu_r" if signed else "inferno"](shares)[..., :3]
    # Where an unsigned map says little the picture stays visible.
    weight = 0.55 if signed else 0.3 + 0.4 * shares[..., None]
    drawn[top:bottom, left:right] = (1 - weight) * grey[top:bottom, left:right] + weight * colours
    result: NDArray[np.uint8] = drawn.clip(0, 255).astype(np.uint8)
    return result


def scaled(values: NDArray[np.float32], *, signed: bool) -> NDArray[np.float32]:
    """Scale a map to 0..1: from its least to its greatest value; around zero where signs mean something."""
    values = np.nan_to_num(values.astype(np.float32))
    if signed:
        most = float(np.abs(values).max())
        return values / (2 * most) + 0.5 if most else np.full_like(values, 0.5)
    least, most = float(values.min()), float(values.max())
    return (values - least) / (most - least) if most > least else np.zeros_like(values)


def draw_maps(shown: Shown, heading: str, panels: Sequence[Panel]) -> bytes:
    """Return the PNG of one picture and its maps side by side."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas, box = canvas_of(shown)
    aspect = canvas.shape[0] / canvas.shape[1]
    width = 2.5 if aspect <= 1 else max(1.7, 2.5 / aspect)
    height = width * aspect
    column = max(width, LEAST_COLUMN) + 0.3
    above, below = 0.3, 0.22 + 0.16 * max((len(panel.lines) for panel in panels), default=0)
    total = column * (1 + len(panels)) + 0.1, above + height + below
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=total, dpi=144)
        FigureCanvasAgg(figure)
        for place in range(1 + len(panels)):
            left = (0.2 + place * column) / total[0]
            axes = figure.add_axes((left, below / total[1], width / total[0], height / total[1]))
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if place == 0:
                axes.imshow(canvas, aspect="auto")
                axes.set_title(_short(heading), fontsize=9.0, pad=5)
                _outline(axes, box, canvas)
            else:
                panel = panels[place - 1]
                axes.imshow(overlay(canvas, box, panel.values, signed=panel.signed), aspect="auto")
                axes.set_title(_short(panel.name), fontsize=9.0, pad=5)
                _write(axes, panel, height)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _outline(axes: Axes, box: tuple[int, int, int, int], canvas: NDArray[np.uint8]) -> None:
    """Show which part the model sees, where that is not all."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    if (left, top, right, bottom) == (0, 0, canvas.shape[1], canvas.shape[0]):
        return
    for colour, width in (("white", 2.4), ("black", 1.0)):
        corner = (left - 0.5, top - 0.5)
        axes.add_patch(
            Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width)
        )


def _write(axes: Axes, panel: Panel, height: float) -> None:
    """Write the scores below a map, and what it fails on it."""
    for number, line in enumerate(panel.lines):
        axes.text(
            0.0, -(0.09 + 0.16 * number) / height, line, transform=axes.transAxes, fontsize=7.5, va="top"
        )
    if panel.fails:
        axes.text(
            0.5,
            0.02,
            "NOT RELIABLE HERE\n" + "\n".join(panel.fails),
            transform=axes.transAxes,
            ha="center",
            va="bottom",
            fontsize=7.0,
            color="white",
            linespacing=1.15,
            bbox={"facecolor": WARNING, "edgecolor": "none", "pad": 2.5, "alpha": 0.92},
        )


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
