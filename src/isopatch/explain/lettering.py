"""Text on pictures made of pixels: one typeface, the one that the charts have."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK = (23, 25, 30)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib; size in pixels."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a white picture and what draws on it."""
    image = Image.new("RGB", (width, height), "white")
    return image, ImageDraw.Draw(image)


def fitted(text: str, size: int, width: int) -> str:
    """Cut a text, with an ellipsis, to what fits into `width` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def paste(image: Image.Image, pixels: NDArray[np.uint8], left: int, top: int) -> None:
    """Put (height, width, 3) pixels onto a picture."""
    image.paste(Image.fromarray(pixels), (left, top))


def as_png(image: Image.Image) -> bytes:
    """Return the file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()
