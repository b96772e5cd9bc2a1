"""Every head of every layer in one picture: small maps in rows (layers) and columns (heads)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isopatch.explain.draw import scaled
from isopatch.explain.lettering import INK, as_png, font, paste, sheet

GAP = 2  # pixels between two maps
TILE = 36  # pixels of a map's longer side
ENLARGED = 2
LEFT, TOP = 60, 64


def mosaic(layers: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Return one RGB picture of maps (heads, rows, cols) per layer; each map has its own scale."""
    from matplotlib import colormaps

    heads = max(len(layer) for layer in layers)
    cell = max(1, TILE // max(max(layer.shape[1:]) for layer in layers))
    height = max(layer.shape[1] for layer in layers) * cell
    width = max(layer.shape[2] for layer in layers) * cell
    drawn = np.full((len(layers) * (height + GAP) - GAP, heads * (width + GAP) - GAP, 3), 255, np.uint8)
    for row, layer in enumerate(layers):
        for column, values in enumerate(layer):
            shares = scaled(values, signed=False)
            # A pyramid's later grids are coarser: their cells are drawn larger.
            down, across = height // values.shape[0], width // values.shape[1]
            tile = shares.repeat(down, axis=0).repeat(across, axis=1)
            top, left = row * (height + GAP), column * (width + GAP)
            part = drawn[top : top + tile.shape[0], left : left + tile.shape[1]]
            part[:] = (255 * colormaps["inferno"](tile)[..., :3]).astype(np.uint8)
    return drawn


def draw_heads(reader: str, layers: Sequence[NDArray[np.float32]]) -> bytes:
    """Return the PNG of the mosaic with its layers and heads numbered from 1."""
    picture = mosaic(layers).repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    height, width = picture.shape[:2]
    heads = max(len(layer) for layer in layers)
    image, draw = sheet(max(LEFT + width + 16, 360), TOP + height + 60)
    draw.text((16, 22), reader, INK, font(19), anchor="lm")
    paste(image, picture, LEFT, TOP)
    for number in range(len(layers)):
        middle = TOP + (height + GAP * ENLARGED) / len(layers) * (number + 0.5)
        draw.text((LEFT - 10, middle), str(number + 1), INK, font(15), anchor="rm")
    for number in range(heads):
        middle = LEFT + (width + GAP * ENLARGED) / heads * (number + 0.5)
        draw.text((middle, TOP + height + 8), str(number + 1), INK, font(15), anchor="ma")
    draw.text((LEFT + width / 2, TOP + height + 30), "head", INK, font(15), anchor="ma")
    draw.text((16, TOP - 4), "layer", INK, font(15), anchor="ld")
    return as_png(image)
