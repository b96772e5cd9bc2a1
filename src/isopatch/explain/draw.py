"""Heat maps on pictures, as PNG: what was given, and each map over it, with what its checks say.

The picture is drawn in grey and the map in colour, so that the picture's own colours are not taken for the
map's. A cell is drawn as a rectangle, as large as the part of the picture it stands for: between two cells
the map knows nothing, and smoothing would pretend it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from isopatch.explain.contract import Shown
from isopatch.explain.lettering import INK, as_png, fitted, font, paste, sheet

SIDE = 352  # pixels of a drawn picture's longer side
LEAST_COLUMN = 340  # for the scores below a map
TITLE, LINE, GAP, MARGIN, MARK = 40, 23, 40, 16, 26
SCALE = 34  # below a map: the strip of its colours and what its ends mean
STRIP = 10
DARK, LIGHT = 50.0, 235.0  # of the picture in grey below a map
MOST_ELONGATED = 4.0  # a longer strip is drawn as the square that the model sees
WARNING = "#c0392b"


@dataclass(frozen=True)
class Panel:
    """One map of one picture: its name, values (rows, cols), and lines of scores below it.

    A line is its text and whether the map fails there; with any such line the map is marked.
    """

    name: str
    values: NDArray[np.float32]
    signed: bool = False
    lines: tuple[tuple[str, bool], ...] = ()


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
    grey = _stretched(canvas.astype(np.float32).mean(2, keepdims=True)).repeat(3, axis=2)
    drawn = 0.25 * grey + 0.75 * 235  # faded
    size = (right - left, bottom - top)
    shares = np.asarray(Image.fromarray(scaled(values, signed=signed)).resize(size, Image.Resampling.NEAREST))
    colours = 255 * colormaps[_map_name(signed)](shares)[..., :3]
    # Where an unsigned map says little the picture stays visible.
    weight = 0.55 if signed else 0.3 + 0.4 * shares[..., None]
    drawn[top:bottom, left:right] = (1 - weight) * grey[top:bottom, left:right] + weight * colours
    result: NDArray[np.uint8] = drawn.clip(0, 255).astype(np.uint8)
    return result


def _stretched(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spread the greys from DARK to LIGHT: a dark picture below dark colours would not be seen."""
    low, high = np.percentile(grey, (1, 99))
    shares = (grey - low) / (high - low) if high > low else np.full_like(grey, 0.5)
    return np.asarray(DARK + (LIGHT - DARK) * shares.clip(0, 1), np.float32)


def _map_name(signed: bool) -> str:
    return "RdBu_r" if signed else "inferno"


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
    canvas, box = canvas_of(shown)
    height, width = canvas.shape[:2]
    column = max(width, LEAST_COLUMN)
    lines = max((len(panel.lines) for panel in panels), default=0)
    mark = MARK if any(fails for panel in panels for _, fails in panel.lines) else 0
    foot = mark + SCALE + LINE * lines + (GAP if lines else MARGIN)
    image, draw = sheet(2 * MARGIN + column + (column + GAP) * len(panels), TITLE + height + foot)
    draw.text((MARGIN, TITLE // 2), fitted(heading, 19, column), INK, font(19), anchor="lm")
    paste(image, canvas, MARGIN, TITLE)
    _outline(draw, box, canvas.shape[:2])
    for number, panel in enumerate(panels, start=1):
        left = MARGIN + number * (column + GAP)
        draw.text((left, TITLE // 2), fitted(panel.name, 19, column), INK, font(19), anchor="lm")
        paste(image, overlay(canvas, box, panel.values, signed=panel.signed), left, TITLE)
        _scale(draw, panel, left, TITLE + height + mark + 6, width)
        for row, (line, fails) in enumerate(panel.lines):
            place = (left, TITLE + height + mark + SCALE + LINE * row + 8)
            draw.text(place, fitted(line, 15, column), WARNING if fails else INK, font(15), anchor="la")
        if any(fails for _, fails in panel.lines):
            _mark(draw, left, TITLE + height, width)
    return as_png(image)


def _outline(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> None:
    """Show which part of the picture the model sees, where that is not all of it."""
    left, top, right, bottom = box
    if (left, top, right, bottom) == (0, 0, shape[1], shape[0]):
        return
    corners = (MARGIN + left, TITLE + top, MARGIN + right - 1, TITLE + bottom - 1)
    draw.rectangle(corners, outline="white", width=4)
    draw.rectangle((corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1), outline="black", width=2)


def _scale(draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int, width: int) -> None:
    """Draw the strip of a map's colours with the values at its ends."""
    from matplotlib import colormaps

    colours = colormaps[_map_name(panel.signed)](np.linspace(0, 1, width), bytes=True)[:, :3]
    for offset, colour in enumerate(colours.tolist()):
        draw.line((left + offset, top, left + offset, top + STRIP - 1), tuple(colour))
    draw.rectangle((left, top, left + width - 1, top + STRIP - 1), outline=INK)
    most = float(np.abs(panel.values).max())
    ends = (-most, 0.0, most) if panel.signed else (float(panel.values.min()), float(panel.values.max()))
    for number, end in enumerate(ends):
        share = number / (len(ends) - 1)
        anchor = "la" if share == 0 else "ra" if share == 1 else "ma"
        text = f"{end:+.2g}" if panel.signed and end else f"{end:.2g}"
        draw.text((left + share * (width - 1), top + STRIP + 3), text, INK, font(14), anchor=anchor)


def _mark(draw: ImageDraw.ImageDraw, left: int, bottom: int, width: int) -> None:
    """Write under a map, touching it, that it should not be believed; why stands in red below.

    Not over it: of a flat picture or a coarse grid that would hide the lowest cells.
    """
    draw.rectangle((left, bottom, left + width - 1, bottom + MARK - 1), fill=WARNING)
    place = (left + width / 2, bottom + MARK / 2)
    draw.text(place, fitted("NOT RELIABLE HERE", 15, width - 8), "white", font(15), anchor="mm")
