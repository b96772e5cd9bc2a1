"""Twins of the operations of timm's RandAugment that change colours: same arguments, same bits.

Most are a table of 256 levels for each channel. Where the levels alone decide, it is made by the operation
itself, from a picture of all levels; where the picture does, by Pillow's rule from its counts. Without the
compiled library the operation is Pillow's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.crops import Picture, as_image
from isopatch.image import native

Change = Callable[..., Picture]
Table = NDArray[np.uint8]  # (3, 256)

# The same levels at every place: a table says all about these.
_POINTWISE = (
    "Invert",
    "Posterize",
    "PosterizeIncreasing",
    "PosterizeOriginal",
    "Solarize",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "Brightness",
    "BrightnessIncreasing",
)
_RAMP = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))


def twin_of(name: str, plain: Change) -> Change:
    """Return the twin of timm's operation `name`, whose plain form is `plain`, or `plain` itself."""
    if name in _POINTWISE:
        return _pointwise(plain)
    change = _CHANGES.get(name)
    return plain if change is None else _twin(change, plain)


def _twin(change: Callable[..., native.Pixels], plain: Change) -> Change:
    def twin(picture: Picture, *arguments: Any, **options: Any) -> Picture:
        library = native.load()
        if library is None:
            return plain(picture, *arguments, **options)
        return change(library, np.asarray(picture), *arguments)

    return twin


def _pointwise(plain: Change) -> Change:
    @functools.lru_cache(maxsize=512)  # nearly all take whole numbers
    def table(*arguments: float) -> Table:
        return _as_table(plain(_RAMP, *arguments))

    def change(library: native.PixelLibrary, pixels: native.Pixels, *arguments: float) -> native.Pixels:
        return library.map(pixels, table(*arguments))

    return _twin(change, plain)


def _as_table(ramp: Picture) -> Table:
    return np.ascontiguousarray(np.asarray(as_image(ramp))[0].T)


def _auto_contrast(library: native.PixelLibrary, pixels: native.Pixels) -> native.Pixels:
    """Each channel stretched to 0..255 (ImageOps.autocontrast)."""
    table = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    for row, counts in zip(table, library.count(pixels), strict=True):
        levels = np.flatnonzero(counts)
        low, high = int(levels[0]), int(levels[-1])
        if high > low:
            scale = 255.0 / (high - low)
            row[:] = np.clip(np.arange(256) * scale + -low * scale, 0, 255).astype(np.uint8)
    return library.map(pixels, table)


def _equalize(library: native.PixelLibrary, pixels: native.Pixels) -> native.Pixels:
    """Each channel's levels made equally frequent (ImageOps.equalize)."""
    table = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    for row, counts in zip(table, library.count(pixels), strict=True):
        levels = np.flatnonzero(counts)
        step = int(counts.sum() - counts[levels[-1]]) // 255
        if len(levels) > 1 and step:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            row[:] = np.minimum((step // 2 + before) // step, 255)
    return library.map(pixels, table)


def _contrast(library: native.PixelLibrary, pixels: native.Pixels, factor: float) -> native.Pixels:
    """From the mean grey to the picture and beyond (ImageEnhance.Contrast)."""
    mean = int(library.grey_sum(pixels) / (pixels.size // 3) + 0.5)
    flat = Image.new("RGB", _RAMP.size, (mean, mean, mean))
    return library.map(pixels, _as_table(Image.blend(flat, _RAMP, factor)))


def _color(library: native.PixelLibrary, pixels: native.Pixels, factor: float) -> native.Pixels:
    return library.saturate(pixels, factor)


def _sharpness(library: native.PixelLibrary, pixels: native.Pixels, factor: float) -> native.Pixels:
    return library.sharpen(pixels, factor)


_CHANGES: dict[str, Callable[..., native.Pixels]] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Contrast": _contrast,
    "ContrastIncreasing": _contrast,
    "Color": _color,
    "ColorIncreasing": _color,
    "Sharpness": _sharpness,
    "SharpnessIncreasing": _sharpness,
}
