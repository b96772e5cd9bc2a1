"""From files, pictures in memory or a data set to what a model sees, prepared as `predict` prepares it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from isopatch.data.source import ImageSource
from isopatch.explain.contract import Shown
from isopatch.image.contract import InputContract
from isopatch.image.decode import MAX_PIXELS, decode
from isopatch.image.names import printable
from isopatch.image.pixels import to_rgb
from isopatch.image.prepare import normalise, prepare_uint8, seen_box

ORIGINAL_SIDE = 640  # pixels kept of a picture to draw on


def show(image: Image.Image, name: str, contract: InputContract, *, label: int | None = None) -> Shown:
    """Prepare one picture; `image` in any mode."""
    if image.mode != "RGB":
        image = to_rgb(image)
    pixels = prepare_uint8(image, contract)
    original = image.copy()
    original.thumbnail((ORIGINAL_SIDE, ORIGINAL_SIDE))
    return Shown(
        name=name,
        image=pixels.permute(1, 2, 0).contiguous().numpy(),
        tensor=normalise(pixels, contract)[None],
        label=label,
        original=np.array(original),
        box=seen_box(*image.size, contract),
    )


def cut_to(shown: Shown, height: int, width: int) -> Shown:
    """Return a picture without what lies below and right of the first `height` rows and `width` columns.

    The part that was left out counts as not seen (`box`).
    """
    rows, cols = shown.tensor.shape[2:]
    if (rows, cols) == (height, width):
        return shown
    left, top, right, bottom = (0.0, 0.0, 1.0, 1.0) if shown.box is None else shown.box
    return replace(
        shown,
        image=shown.image[:height, :width],
        tensor=shown.tensor[:, :, :height, :width],
        original=shown.image if shown.original is None else shown.original,
        box=(left, top, left + (right - left) * width / cols, top + (bottom - top) * height / rows),
    )


def show_file(
    path: str | os.PathLike[str], contract: InputContract, *, max_pixels: int = MAX_PIXELS
) -> Shown:
    """Read and prepare one file; raises DecodeError where it cannot be read."""
    name = printable(path)
    return show(decode(Path(path), name=name, max_pixels=max_pixels), name, contract)


def spread(source: ImageSource, count: int, *, seed: int = 0) -> list[int]:
    """Return `count` indices of a source, drawn by seed, one of each class in turn."""
    order = np.random.default_rng(seed).permutation(len(source))
    turn: dict[int, int] = {}
    keyed = []
    for position, index in enumerate(order.tolist()):
        label = int(source.labels[index])
        turn[label] = turn.get(label, 0) + 1
        keyed.append((turn[label], position, index))
    first_round = sorted(keyed)[:count]
    # Of each round, in the order of the classes: pages of one data set then look alike.
    return [i for _, _, i in sorted(first_round, key=lambda row: (row[0], int(source.labels[row[2]])))]
