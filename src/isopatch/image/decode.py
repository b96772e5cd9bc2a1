"""The one way a file or a byte string becomes a picture: upright, 8-bit RGB, or one clear error.

A path must be a regular file (links are followed). The format must be on the list in `formats.py`, the
header must declare no more than `max_pixels`, and the file must be complete. Rotation by EXIF (or XMP)
orientation is applied; an orientation that cannot be read counts as upright. Colour follows `pixels.py`.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Importing a plugin registers it with Pillow, which otherwise loads every plugin it has.
from PIL import (
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from isopatch.errors import IsopatchError
from isopatch.image import jpeg
from isopatch.image.formats import FORMATS, explain_unidentified
from isopatch.image.names import printable
from isopatch.image.pixels import UnscalableError, faint_levels, to_rgb
from isopatch.image.quiet import QuietPillow

try:
    from PIL import AvifImagePlugin  # noqa: F401  Pillow has it from 11.3 on
except ImportError:
    _READ = tuple(name for name in FORMATS if name != "AVIF")
else:
    _READ = FORMATS

MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 1 << 30  # some decoders read the whole file first; 50 MP of 16-bit RGBA are 400 MB

DECODE_VERSION = 1  # raise when a rule changes what is read or how: cached verdicts are then dropped

# EXIF 2.3, table 6: how the stored picture has to be turned to stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112

_quiet = QuietPillow()


class DecodeError(IsopatchError):
    """A picture that cannot be read: `name` is the file, `reason` says why."""

    def __init__(self, name: str, reason: str = "") -> None:
        """`reason` is optional so that a worker process can hand the error on with its message alone."""
        super().__init__(f"{name}: {reason}" if reason else name)
        self.name = name
        self.reason = reason


class Decoded(NamedTuple):
    """A picture and how it was stored.

    format, mode: Pillow's names of the stored file ("JPEG", "CMYK").
    remark: a sentence about a readable picture that looks wrong, or None.
    """

    image: Image.Image
    format: str
    mode: str
    remark: str | None


def decode(source: Path | bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture in `source` (a path, or the file's bytes) as upright 8-bit RGB.

    name: what messages call the picture. max_pixels: width x height allowed, read from the header before
    anything is decoded; Pillow's own bound of about 179 million applies on top.
    Raises `DecodeError` for whatever cannot be read. Never blocks on a pipe; warnings are not passed on.
    """
    return _decode(source, name, max_pixels, described=False).image


def decode_picture(
    source: Path | bytes, *, name: str, max_pixels: int = MAX_PIXELS, short_side: int | None = None
) -> Image.Image | jpeg.Pixels:
    """Like `decode`, as an image or as an array (h, w, 3) uint8, whichever is at hand; for training.

    short_side: decode JPEG at a half, a quarter or an eighth of its size where the shorter side keeps this
    many pixels: fewer operations and other pixels. None: the pixels of `decode`.
    """
    if short_side is not None:
        return _decode(source, name, max_pixels, described=False, short_side=short_side).image
    if jpeg.load() is None:
        return decode(source, name=name, max_pixels=max_pixels)
    try:
        with _open(source, name) as file:
            data = file.read(2)
            if data != b"\xff\xd8":
                return decode(source, name=name, max_pixels=max_pixels)
            data += file.read()
    except DecodeError:
        raise
    except Exception as error:  # as in _decode
        raise DecodeError(name, _reason(error)) from error
    pixels = jpeg.decode_plain(data, max_pixels=max_pixels)
    return decode(data, name=name, max_pixels=max_pixels) if pixels is None else pixels


def decode_described(source: Path | bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Like `decode`, with the stored format and mode and a remark on suspicious content."""
    return _decode(source, name, max_pixels, described=True)


def decode_opened(picture: ImageFile.ImageFile, *, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Like `decode`, for a picture that the caller opened with Pillow: the same pixels as from its file.

    It stays open and is loaded by this; the frame it stands on counts. Whatever format it was opened as is
    taken. A copy of it is no `ImageFile`: the tags are lost, and `prepare` takes it as it is.
    """
    try:
        with _quiet:
            return _finish(picture, name, max_pixels, described=False).image
    except DecodeError:
        raise
    except Exception as error:  # as in _decode
        raise DecodeError(name, _reason(error)) from error


def _decode(
    source: Path | bytes, name: str, max_pixels: int, described: bool, short_side: int | None = None
) -> Decoded:
    try:
        with _open(source, name) as file, _quiet:
            try:
                with Image.open(file, formats=_READ) as picture:
                    return _finish(picture, name, max_pixels, described, short_side)
            except UnidentifiedImageError:
                file.seek(0)
                raise DecodeError(name, explain_unidentified(file.read(64))) from None
    except DecodeError:
        raise
    except Exception as error:  # decoders fail in more ways than can be listed, and each means: not readable
        raise DecodeError(name, _reason(error)) from error


def _finish(
    picture: ImageFile.ImageFile, name: str, max_pixels: int, described: bool, short_side: int | None = None
) -> Decoded:
    width, height = picture.size
    if width * height > max_pixels:
        raise DecodeError(
            name, f"{width} x {height} pixels, more than the limit of {max_pixels:,} (max_pixels)"
        )
    format, mode = picture.format or "", picture.mode
    if short_side is not None:
        picture.draft(None, (short_side, short_side))  # only JPEG's decoder can; elsewhere without effect
    picture.load()
    rgb = to_rgb(picture)
    turn = _UPRIGHT.get(_orientation(picture))
    if turn is not None:
        rgb = rgb.transpose(turn)
    return Decoded(rgb, format, mode, faint_levels(picture) if described else None)


def _open(source: Path | bytes, name: str) -> BinaryIO:
    """Open `source` for reading; anything but a regular file is refused, without blocking."""
    if isinstance(source, bytes):
        if len(source) > MAX_FILE_BYTES:
            raise DecodeError(name, f"{len(source):,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
        return io.BytesIO(source)
    try:
        status = os.stat(source)
    except FileNotFoundError:
        reason = "broken link: its target does not exist" if os.path.islink(source) else "no such file"
        raise DecodeError(name, reason) from None
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(name, f"{_kind(status.st_mode)}, not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise DecodeError(name, f"{status.st_size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
    # Non-blocking: should the file have become a pipe since, opening it still returns at once.
    return open(source, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0)))


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata is broken more often than pixels are; the pixels are what counts
        return 1
    return value if isinstance(value, int) else 1


def _reason(error: Exception) -> str:
    """One line for an error of the decoder or the system."""
    if isinstance(error, Image.DecompressionBombError):
        return "its header declares more pixels than any picture read here may have"
    if isinstance(error, MemoryError):
        return "decoding needs more memory than there is"
    if isinstance(error, UnscalableError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    text = printable(lines[0]) if lines else ""
    return f"damaged or unsupported: {text or type(error).__name__}"
