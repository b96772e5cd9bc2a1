"""Twins of the operations of timm's RandAugment that move pixels: same arguments, same bits.

Bicubic interpolation at every place of a picture is what RandAugment spends its time on (1.2 to 1.8 ms at 224
pixels). Where the compiled library is, it does that; other filters, right angles and the rest are Pillow's.
A twin takes and returns a PIL image or an array.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from isopatch.data.crops import Picture, as_image
from isopatch.image import native

Matrix = tuple[float, float, float, float, float, float]
Filter = Image.Resampling | Sequence[Image.Resampling]
Twin = Callable[..., Picture]


def _twin(matrix_of: Callable[[float, tuple[int, int]], Matrix]) -> Twin:
    def twin(
        picture: Picture, amount: float, *, fillcolor: tuple[int, int, int], resample: Filter
    ) -> Picture:
        chosen = resample if isinstance(resample, int) else random.choice(resample)  # timm's draw
        size = (picture.shape[1], picture.shape[0]) if isinstance(picture, np.ndarray) else picture.size
        matrix = matrix_of(amount, size)
        library = native.load()
        if library is None or chosen != Image.Resampling.BICUBIC:
            return as_image(picture).transform(
                size, Image.Transform.AFFINE, matrix, resample=chosen, fillcolor=fillcolor
            )
        return library.affine(np.asarray(picture), matrix, fillcolor)

    return twin


def _shear_x(factor: float, size: tuple[int, int]) -> Matrix:
    return 1, factor, 0, 0, 1, 0


def _shear_y(factor: float, size: tuple[int, int]) -> Matrix:
    return 1, 0, 0, factor, 1, 0


def _move_x(share: float, size: tuple[int, int]) -> Matrix:
    return 1, 0, share * size[0], 0, 1, 0


def _move_y(share: float, size: tuple[int, int]) -> Matrix:
    return 1, 0, 0, 0, 1, share * size[1]


def _turn(degrees: float, size: tuple[int, int]) -> Matrix:
    """Pillow's matrix of a rotation about the centre, with its rounding (Image.rotate)."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    minus_sin = round(-math.sin(angle), 15)
    x, y = size[0] / 2, size[1] / 2
    return cos, sin, cos * -x + sin * -y + 0.0 + x, minus_sin, cos, minus_sin * -x + cos * -y + 0.0 + y


_turned = _twin(_turn)


def _rotate(picture: Picture, degrees: float, **options: Any) -> Picture:
    if degrees % 90 == 0:  # Pillow turns by these without interpolation
        chosen = options["resample"]
        options["resample"] = chosen if isinstance(chosen, int) else random.choice(chosen)
        return as_image(picture).rotate(degrees, **options)
    return _turned(picture, degrees, **options)


# timm's name of an operation -> its twin
TWINS: dict[str, Twin] = {
    "ShearX": _twin(_shear_x),
    "ShearY": _twin(_shear_y),
    "TranslateXRel": _twin(_move_x),
    "TranslateYRel": _twin(_move_y),
    "Rotate": _rotate,
}
