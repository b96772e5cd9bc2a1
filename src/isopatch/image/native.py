"""Pixel work in compiled code, where it was built: the same bits as Pillow's, several times faster.

`load()` gives the library or None; whoever uses it does the same with Pillow where there is none. Source and
build: `native/data`. Pictures are (h, w, 3) uint8 arrays.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

_LOG = logging.getLogger("isopatch")
_VERSION = 1  # of the C interface
_FILE = Path(__file__).with_name("libisopatch_pixels.so")
INSTRUCTION_SETS = ("plain", "AVX2", "AVX-512")


class PixelLibrary:
    """The opened library. Results do not depend on the instruction set it chooses for this CPU."""

    def __init__(self, path: Path) -> None:
        """Open it; raises OSError where it cannot be opened or has another interface."""
        library = ctypes.CDLL(str(path))
        if library.isopatch_pixels_version() != _VERSION:
            raise OSError(f"{path}: built from other sources than this isopatch")
        pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        self._scale = library.isopatch_pixels_scale
        self._scale.argtypes = [pointer, long, whole, whole, pointer, whole, whole, whole, whole]
        self._affine = library.isopatch_pixels_affine
        self._affine.argtypes = [pointer, whole, whole, pointer, pointer, pointer]
        self._look_up = library.isopatch_pixels_look_up
        self._look_up.argtypes = [pointer, long, pointer, pointer]
        self._use = library.isopatch_pixels_use
        self._use.argtypes = [whole]
        self._map = library.isopatch_pixels_map
        self._map.argtypes = [pointer, long, pointer, pointer]
        self._count = library.isopatch_pixels_count
        self._count.argtypes = [pointer, long, pointer]
        self._saturate = library.isopatch_pixels_saturate
        self._saturate.argtypes = [pointer, long, ctypes.c_float, pointer]
        self._sharpen = library.isopatch_pixels_sharpen
        self._sharpen.argtypes = [pointer, whole, whole, ctypes.c_float, pointer]
        without_result = (self._scale, self._affine, self._look_up, self._map, self._count)
        for function in (*without_result, self._saturate, self._sharpen):
            function.restype = None
        self._grey_sum = library.isopatch_pixels_grey_sum
        self._grey_sum.argtypes = [pointer, long]
        self._grey_sum.restype = long

    def use(self, instruction_set: str) -> str:
        """Use at most this instruction set and return the one in use; for tests."""
        return INSTRUCTION_SETS[self._use(INSTRUCTION_SETS.index(instruction_set))]

    def scale(
        self,
        picture: Pixels,
        box: Box,
        size: tuple[int, int],
        filter: Image.Resampling,
        *,
        mirror: bool = False,
    ) -> Pixels:
        """Cut `box` (left, top, width, height) out of a picture and scale it to `size` (width, height).

        filter: bilinear or bicubic. mirror: left and right exchanged afterwards.
        """
        left, top, width, height = box
        rows, columns = picture.shape[:2]
        assert picture.dtype == np.uint8 and picture.strides[1:] == (3, 1), (picture.dtype, picture.strides)
        assert min(left, top) >= 0 and min(width, height) > 0, box
        assert left + width <= columns and top + height <= rows, (box, picture.shape)
        stride = picture.strides[0]
        result = np.empty((size[1], size[0], 3), dtype=np.uint8)
        self._scale(
            picture.ctypes.data + top * stride + 3 * left,
            stride,
            width,
            height,
            result.ctypes.data,
            *size,
            filter == Image.Resampling.BICUBIC,
            mirror,
        )
        return result

    def affine(self, picture: Pixels, matrix: tuple[float, ...], fill: tuple[int, int, int]) -> Pixels:
        """Return `Image.transform(size, AFFINE, matrix, BICUBIC, fillcolor=fill)` of the picture."""
        picture = np.ascontiguousarray(picture)
        height, width = picture.shape[:2]
        result = np.empty_like(picture)
        numbers = (ctypes.c_double * 6)(*matrix)
        colour = (ctypes.c_uint8 * 3)(*fill)
        self._affine(picture.ctypes.data, width, height, numbers, colour, result.ctypes.data)
        return result

    def look_up(self, picture: Pixels, table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write table[c, picture[y, x, c]] to out[c, y, x]. table: (3, 256); out: (3, h, w)."""
        assert picture.flags.c_contiguous and table.flags.c_contiguous and out.flags.c_contiguous
        assert table.shape == (3, 256) and out.shape == (3, *picture.shape[:2]), (table.shape, out.shape)
        pixels = picture.shape[0] * picture.shape[1]
        self._look_up(picture.ctypes.data, pixels, table.ctypes.data, out.ctypes.data)

    def map(self, picture: Pixels, table: NDArray[np.uint8]) -> Pixels:
        """Return table[c, picture[y, x, c]]. table: (3, 256) uint8."""
        picture = np.ascontiguousarray(picture)
        assert table.shape == (3, 256) and table.dtype == np.uint8 and table.flags.c_contiguous
        result = np.empty_like(picture)
        self._map(picture.ctypes.data, picture.size // 3, table.ctypes.data, result.ctypes.data)
        return result

    def count(self, picture: Pixels) -> NDArray[np.int64]:
        """Return how often each level occurs in each channel: (3, 256)."""
        picture = np.ascontiguousarray(picture)
        counts = np.empty((3, 256), dtype=np.int64)
        self._count(picture.ctypes.data, picture.size // 3, counts.ctypes.data)
        return counts

    def grey_sum(self, picture: Pixels) -> int:
        """Return the sum of the levels of `Image.convert("L")`."""
        picture = np.ascontiguousarray(picture)
        return int(self._grey_sum(picture.ctypes.data, picture.size // 3))

    def saturate(self, picture: Pixels, factor: float) -> Pixels:
        """Return `ImageEnhance.Color(picture).enhance(factor)`."""
        picture = np.ascontiguousarray(picture)
        result = np.empty_like(picture)
        self._saturate(picture.ctypes.data, picture.size // 3, factor, result.ctypes.data)
        return result

    def sharpen(self, picture: Pixels, factor: float) -> Pixels:
        """Return `ImageEnhance.Sharpness(picture).enhance(factor)`."""
        picture = np.ascontiguousarray(picture)
        result = np.empty_like(picture)
        height, width = picture.shape[:2]
        self._sharpen(picture.ctypes.data, width, height, factor, result.ctypes.data)
        return result


@functools.cache
def load() -> PixelLibrary | None:
    """Return the library, or None where it was not built or does not do what the installed Pillow does."""
    if not _FILE.is_file():
        return None
    try:
        library = PixelLibrary(_FILE)
    except (OSError, AttributeError) as error:
        _LOG.warning("%s cannot be used (%s): pictures are prepared by Pillow, which is slower", _FILE, error)
        return None
    if not agrees_with_pillow(library):
        _LOG.warning("Pillow scales pictures otherwise than %s: it is left out, which is slower", _FILE)
        return None
    return library


def agrees_with_pillow(library: PixelLibrary) -> bool:
    """Compare both on a small picture: larger, smaller, turned, other colours. Takes about 2 ms."""
    rows, columns, channels = np.ogrid[:37, :41, :3]
    picture = (rows * 7 + columns * columns * 3 + channels * 50 + rows * columns).astype(np.uint8)
    image = Image.fromarray(picture)
    box = (3, 2, 30, 34)
    part = image.crop((3, 2, 33, 36))
    for filter in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        for size in ((64, 50), (17, 9)):
            if not np.array_equal(
                library.scale(picture, box, size, filter), np.asarray(part.resize(size, filter))
            ):
                return False
    for matrix in (
        (1.0, 0.3, 0.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 5.7),
        (0.9, 0.4, -3.0, -0.4, 0.9, 8.0),
    ):
        turned = image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=(9, 8, 7)
        )
        if not np.array_equal(library.affine(picture, matrix, (9, 8, 7)), np.asarray(turned)):
            return False
    for factor in (0.3, 1.8):
        saturated = ImageEnhance.Color(image).enhance(factor)
        sharpened = ImageEnhance.Sharpness(image).enhance(factor)
        if not np.array_equal(library.saturate(picture, factor), np.asarray(saturated)):
            return False
        if not np.array_equal(library.sharpen(picture, factor), np.asarray(sharpened)):
            return False
    return library.grey_sum(picture) == int(np.asarray(image.convert("L")).astype(np.int64).sum())
