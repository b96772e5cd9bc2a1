"""Every head of every layer in one picture: small maps in rows (layers) and columns (heads)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isopatch.explain.draw import STYLE, scaled

GAP = 2  # pixels between two maps
TILE = 36  # pixels of a map's longer side


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
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = mosaic(layers)
    height, width = picture.shape[0] / 72, picture.shape[1] / 72
    left, below, above, right = 0.55, 0.42, 0.32, 0.12
    total = max(left + width + right, 2.6), below + height + above
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=total, dpi=144)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((left / total[0], below / total[1], width / total[0], height / total[1]))
        axes.imshow(picture, aspect="auto", interpolation="nearest")
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0, labelsize=7)
        heads = max(len(layer) for layer in layers)
        for axis, count, side in (
            (axes.xaxis, heads, picture.shape[1]),
            (axes.yaxis, len(layers), picture.shape[0]),
        ):
            pitch = (side + GAP) / count
            axis.set_ticks(
                [pitch * (i + 0.5) - GAP / 2 for i in range(count)], [str(i + 1) for i in range(count)]
            )
        axes.set_xlabel("head", fontsize=8)
        axes.set_ylabel("layer", fontsize=8)
        figure.text(0.08 / total[0], 1 - 0.2 / total[1], reader, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
