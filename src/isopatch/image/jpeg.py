"""The plain case of a JPEG file, decoded without Pillow's detours where simplejpeg is installed (an extra).

Both use libjpeg-turbo with the same settings and give the same pixels; `load` compares them before it is
believed. Only what leaves nothing to decide is decoded here: three components of 8 bits, no mark of EXIF,
XMP, Adobe or several pictures, complete and undamaged. The rest is left to Pillow, every refusal too.
"""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Decoder = Callable[[bytes], Pixels]

_LOG = logging.getLogger("isopatch")

_SCAN = 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_APP1, _APP2, _APP14 = 0xE1, 0xE2, 0xEE  # EXIF and XMP; multi-picture; Adobe
_COMPONENTS = (1, 2, 3)  # Y, Cb, Cr as JFIF numbers them


def decode_plain(data: bytes, *, max_pixels: int) -> Pixels | None:
    """Return the picture (h, w, 3), or None where Pillow has to look at the file."""
    decoder = load()
    if decoder is None or not is_plain(data, max_pixels):
        return None
    try:
        return decoder(data)
    except ValueError:  # damaged, or nearly so: Pillow decides which
        return None


def is_plain(data: bytes, max_pixels: int) -> bool:
    """Say whether these bytes begin like a JPEG file in which no mark changes what its pixels mean."""
    if data[:2] != b"\xff\xd8":
        return False
    place, framed, end = 2, False, len(data)
    while place + 9 < end:
        if data[place] != 0xFF:
            return False
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == _SCAN:
            return framed
        if kind in (_APP1, _APP14) or kind in _OTHER_FRAMES or kind < 0xC0:
            return False
        if kind == _APP2 and data[place + 4 : place + 7] == b"MPF":
            return False
        if kind in _FRAMES:
            body = data[place + 4 : place + 2 + length]
            if framed or len(body) != 15 or body[0] != 8 or (body[6], body[9], body[12]) != _COMPONENTS:
                return False
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            if not 0 < width * height <= max_pixels:
                return False
            framed = True
        place += 2 + length
    return False


@functools.cache
def load() -> Decoder | None:
    """Return simplejpeg's decoder, or None where it is not installed or gives other pixels than Pillow."""
    try:
        import simplejpeg
    except ImportError:
        return None

    def decoder(data: bytes) -> Pixels:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
        return pixels

    if not agrees_with_pillow(decoder):
        _LOG.warning("simplejpeg decodes otherwise than Pillow: it is left out, which is slower")
        return None
    return decoder


def agrees_with_pillow(decoder: Decoder) -> bool:
    """Compare both on small files of every kind that is decoded here."""
    rows, columns, channels = np.ogrid[:37, :45, :3]
    image = Image.fromarray(((rows * 9 + columns * columns * 2 + channels * 60) % 256).astype(np.uint8))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
            expected = np.asarray(Image.open(file))
            if not np.array_equal(decoder(file.getvalue()), expected):
                return False
    return True
