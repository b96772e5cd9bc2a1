"""The rules by which any decoded picture becomes 8-bit RGB.

16-bit grey      level >> 8, as 16-bit colour is read (its high byte), so grey and colour files agree; a
                 file that declares 12 bits is shifted by 4. Scaled, never clipped: 0..65535 fills 0..255.
other integers   signed 16 bit: 0..32767 >> 7. 32 bit: values must lie in 0..65535 and count as 16-bit
                 ones. Negative or larger values have no agreed white: refused.
floating point   0 is black, 1 is white; a picture with other values (or NaN) is refused.
CMYK             R = (1 - C)(1 - K) and so on, without colour profile; CMYK JPEGs are taken as Adobe writes
                 them (inverted), YCCK the same way.
Lab              through sRGB (Little CMS), D50 white.
transparency     composited on white: alpha channels, transparent palette entries, transparent colours.
the rest         1-bit, grey, palette, YCbCr: Pillow's plain conversion to RGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

BACKGROUND = (255, 255, 255)  # white: what a transparent picture is seen on

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa")


class UnscalableError(ValueError):
    """The picture's values have no agreed black and white."""


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return `picture` as a new 8-bit RGB image by the rules of this module, without metadata.

    Raises `UnscalableError` for a picture whose values have no agreed black and white.
    """
    mode = picture.mode
    if mode[0] == "I" or mode == "F":
        rgb = _deep_grey(picture)
    elif mode in _ALPHA_MODES or "transparency" in picture.info:
        rgb = _over_background(picture.convert("RGBA"))
    elif mode == "LAB":
        rgb = _from_lab(picture)
    else:
        rgb = picture.convert("RGB")
    rgb.info = {}  # a transparent colour or an orientation left here would be applied a second time
    return rgb


def faint_levels(picture: Image.Image) -> str | None:
    """Say so where a picture of more than 8 bits uses under a sixteenth of its range, else None.

    Such a file (12-bit data in a 16-bit file, for instance) comes out almost uniform: the range is the
    file's declared one, because guessing it per picture would make two pictures incomparable.
    """
    if picture.mode[0] != "I":
        return None
    levels, white = _integer_levels(picture)
    low, high = int(levels.min()), int(levels.max())
    if low == high or (high - low) * 16 >= white:
        return None
    return f"uses levels {low}..{high} of 0..{white}, so it comes out nearly uniform: rescale the file"


def _over_background(rgba: Image.Image) -> Image.Image:
    flat = Image.new("RGB", rgba.size, BACKGROUND)
    flat.paste(rgba, mask=rgba)
    return flat


def _deep_grey(picture: Image.Image) -> Image.Image:
    """8-bit RGB from one channel of 12, 16 or 32 bits, integer or floating point."""
    grey: NDArray[np.uint8]
    if picture.mode == "F":
        share = np.asarray(picture, dtype=np.float32)
        if not (np.isfinite(share).all() and share.min() >= 0 and share.max() <= 1):
            raise UnscalableError("floating-point picture with values outside 0..1: rescale it to 0..1")
        grey = np.rint(share * 255).astype(np.uint8)
    else:
        levels, white = _integer_levels(picture)
        if levels.min() < 0 or levels.max() > white:
            raise UnscalableError(
                f"integer picture with values {levels.min()}..{levels.max()} outside 0..{white}: "
                "save it as 8 or 16 bit"
            )
        grey = (levels >> (white.bit_length() - 8)).astype(np.uint8)
        transparent = picture.info.get("transparency")
        if isinstance(transparent, int):  # one level of a 16-bit grey PNG
            grey[levels == transparent] = BACKGROUND[0]
    if _tiff_tag(picture, _TIFF_PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey).convert("RGB")


def _integer_levels(picture: Image.Image) -> tuple[NDArray[np.int32], int]:
    """Return the levels (height, width) and the level that is white."""
    white = 65535
    if _tiff_tag(picture, _TIFF_BITS, 16) == 12:
        white = 4095
    elif _tiff_tag(picture, _TIFF_BITS, 16) == 16 and _tiff_tag(picture, _TIFF_SAMPLE_FORMAT, 1) == _SIGNED:
        white = 32767
    return np.asarray(picture).astype(np.int32), white


def _tiff_tag(picture: Image.Image, tag: int, default: int) -> int:
    """Return a numeric TIFF tag's (first) value; `default` for other formats and absent tags."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return default
    value: Any = picture.tag_v2.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _from_lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    rgb = ImageCms.applyTransform(picture, transform)
    assert rgb is not None
    return rgb
