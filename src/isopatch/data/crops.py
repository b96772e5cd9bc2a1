"""The first step of a training transform: a picture of any size becomes an array of the contract's size.

Every crop is `crop(picture, rng) -> (H, W, 3) uint8` and draws from the given `random.Random` alone, so it
needs neither torchvision nor the global generators. A picture is a PIL RGB image or an (h, w, 3) uint8 array.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.errors import UsageError
from isopatch.image import native
from isopatch.image.contract import InputContract
from isopatch.image.prepare import MAX_ASPECT, prepare_uint8, resized_size

Pixels = NDArray[np.uint8]
Picture = Image.Image | Pixels
Interpolation = Literal["bicubic", "bilinear", "random"]
Padding = Literal["zero", "reflect"]
Crop = Callable[[Picture, random.Random], Pixels]

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIMPLE_RANDOM_PADDING = 4  # pixels, deit/augment.py


class RandomResizedCrop:
    """A rectangle of random area and aspect, scaled to the contract's size (Szegedy et al. 2015).

    The same draws from `random` and the same pixels as timm's RandomResizedCropAndInterpolation, whose ratio
    is the rectangle's own, width / height. Here it is relative to the contract's aspect: how far a picture
    may be distorted. For a square that is the same; for a wide contract, timm's would stretch every picture.
    """

    def __init__(
        self,
        contract: InputContract,
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bicubic",
    ) -> None:
        """Draw the area from `scale` (shares of the picture) and the distortion from `ratio`."""
        self._size = (contract.width, contract.height)
        self._scale = scale
        aspect = contract.width / contract.height
        self._ratio = (ratio[0] * aspect, ratio[1] * aspect)
        self._log_ratio = (math.log(self._ratio[0]), math.log(self._ratio[1]))
        self._filters = tuple(RESAMPLING[name] for name in interpolations(interpolation))

    def __call__(self, picture: Picture, rng: random.Random) -> Pixels:
        """Return (H, W, 3) uint8."""
        full = (picture.shape[1], picture.shape[0]) if isinstance(picture, np.ndarray) else picture.size
        left, top, width, height = self.rectangle(full, rng)
        chosen = self._filters[0] if len(self._filters) == 1 else rng.choice(self._filters)
        # Cut, then scale: resize(box=...) would let pixels around the rectangle into its border.
        return scaled(picture, (left, top, width, height), self._size, chosen)

    def rectangle(self, size: tuple[int, int], rng: random.Random) -> tuple[int, int, int, int]:
        """Draw (left, top, width, height) within a picture of `size` (width, height), in pixels."""
        full_width, full_height = size
        area = full_width * full_height
        for _ in range(10):
            target = rng.uniform(*self._scale) * area
            aspect = math.exp(rng.uniform(*self._log_ratio))
            width = round(math.sqrt(target * aspect))
            height = round(math.sqrt(target / aspect))
            # At least a pixel: a rounded 0 occurs in pictures of a few pixels only.
            width, height = max(width, 1), max(height, 1)
            if width <= full_width and height <= full_height:
                top = rng.randint(0, full_height - height)
                left = rng.randint(0, full_width - width)
                return left, top, width, height
        # No rectangle fits (a very long picture): the largest central one whose aspect is allowed.
        width, height = full_width, full_height
        if full_width / full_height < self._ratio[0]:
            height = max(1, round(full_width / self._ratio[0]))
        elif full_width / full_height > self._ratio[1]:
            width = max(1, round(full_height * self._ratio[1]))
        return (full_width - width) // 2, (full_height - height) // 2, width, height


class PaddedCrop:
    """The picture at the contract's size, padded on all sides, cut at a random place (He et al. 2016).

    A picture of another size is resized as for evaluation, but whole (crop_fraction 1).
    """

    def __init__(
        self,
        contract: InputContract,
        *,
        padding: int = 4,
        mode: Padding = "zero",
        interpolation: Interpolation = "bicubic",
    ) -> None:
        """padding: pixels on each side. Raise UsageError where there are not enough pixels to reflect."""
        check_padding(contract, padding, mode)
        self._whole = whole_contracts(contract, interpolation)
        self._padding = padding
        self._mode = mode

    def __call__(self, picture: Picture, rng: random.Random) -> Pixels:
        """Return (H, W, 3) uint8."""
        whole = self._whole[0] if len(self._whole) == 1 else rng.choice(self._whole)
        pixels = fitted(picture, whole)
        span = 2 * self._padding + 1
        top, left = int(rng.random() * span) - self._padding, int(rng.random() * span) - self._padding
        return window(pixels, top, left, whole.height, whole.width, self._mode)


class SimpleRandomCrop:
    """The shorter side at the contract's size, 4 reflected pixels around, cut at a random place (DeiT III).

    For a contract that is not square: the picture covers it. Source: `--src` of deit/augment.py.
    """

    def __init__(self, contract: InputContract, *, interpolation: Interpolation = "bicubic") -> None:
        """Raise UsageError where there are not enough pixels to reflect."""
        check_padding(contract, SIMPLE_RANDOM_PADDING, "reflect")
        self._whole = whole_contracts(replace(contract, resize="shorter"), interpolation)

    def __call__(self, picture: Picture, rng: random.Random) -> Pixels:
        """Return (H, W, 3) uint8."""
        whole = self._whole[0] if len(self._whole) == 1 else rng.choice(self._whole)
        pixels = covering(picture, whole)
        spare_rows = pixels.shape[0] - whole.height + 2 * SIMPLE_RANDOM_PADDING
        spare_columns = pixels.shape[1] - whole.width + 2 * SIMPLE_RANDOM_PADDING
        top = int(rng.random() * (spare_rows + 1)) - SIMPLE_RANDOM_PADDING
        left = int(rng.random() * (spare_columns + 1)) - SIMPLE_RANDOM_PADDING
        return window(pixels, top, left, whole.height, whole.width, "reflect")


class FixedCrop:
    """No randomness: the picture as evaluation sees it."""

    def __init__(self, contract: InputContract) -> None:
        """Take everything from the contract."""
        self._contract = contract

    def __call__(self, picture: Picture, rng: random.Random) -> Pixels:
        """Return (H, W, 3) uint8."""
        return prepared(picture, self._contract)


def scaled(
    picture: Picture, box: tuple[int, int, int, int], size: tuple[int, int], filter: Image.Resampling
) -> Pixels:
    """Cut `box` (left, top, width, height) out and scale it to `size` (width, height): (H, W, 3) uint8."""
    left, top, width, height = box
    library = native.load()
    # Where a picture is over 100 times as high as wide, Pillow exchanges its passes, and so the rounding.
    if library is not None and height <= 100 * width:
        if isinstance(picture, np.ndarray):
            return library.scale(picture, box, size, filter)
        part = np.asarray(picture.crop((left, top, left + width, top + height)))
        return library.scale(part, (0, 0, width, height), size, filter)
    if isinstance(picture, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(picture[top : top + height, left : left + width]))
    else:
        image = picture.crop((left, top, left + width, top + height))
    return np.asarray(image.resize(size, filter))


def mirrored(pixels: Pixels) -> Pixels:
    """Return the picture with left and right exchanged."""
    library = native.load()
    if library is None or pixels.strides[1:] != (3, 1):
        return np.ascontiguousarray(pixels[:, ::-1])
    height, width = pixels.shape[:2]
    whole = (0, 0, width, height)
    return library.scale(pixels, whole, (width, height), Image.Resampling.BILINEAR, mirror=True)


def as_image(picture: Picture) -> Image.Image:
    """Return a PIL image of the picture."""
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def check_padding(contract: InputContract, padding: int, mode: Padding) -> None:
    """Raise UsageError where `padding` pixels cannot be reflected out of a picture of the contract's size."""
    if mode == "reflect" and padding >= min(contract.height, contract.width):
        raise UsageError(
            f"augment: reflecting {padding} pixels needs an input of more than {padding} pixels a side, not "
            f"{contract.height}x{contract.width}; use padding_mode zero, less padding or another crop"
        )


def whole_contracts(contract: InputContract, interpolation: Interpolation) -> tuple[InputContract, ...]:
    """Return the contract without its centre crop, for each interpolation that may be drawn."""
    return tuple(
        replace(contract, crop_fraction=1.0, interpolation=name) for name in interpolations(interpolation)
    )


def interpolations(name: Interpolation) -> tuple[Literal["bilinear", "bicubic"], ...]:
    """Return what `name` chooses from, in timm's order."""
    return ("bilinear", "bicubic") if name == "random" else (name,)


def prepared(picture: Picture, contract: InputContract) -> Pixels:
    """Return what evaluation would see, as an array (H, W, 3)."""
    pixels: Pixels = prepare_uint8(as_image(picture), contract).permute(1, 2, 0).numpy()
    return pixels


def fitted(picture: Picture, whole: InputContract) -> Pixels:
    """Return the picture at the contract's size (H, W, 3); one that has it already is not copied."""
    if isinstance(picture, np.ndarray):
        return picture if picture.shape[:2] == (whole.height, whole.width) else prepared(picture, whole)
    return np.asarray(picture) if picture.size == (whole.width, whole.height) else prepared(picture, whole)


def covering(picture: Picture, whole: InputContract) -> Pixels:
    """Return the picture scaled, aspect kept, so that it just covers the contract's size (h, w, 3)."""
    image = as_image(picture)
    if max(image.size) > MAX_ASPECT * min(image.size):
        return prepared(image, whole)  # a strip, whose scaled picture could take gigabytes
    size = resized_size(image.width, image.height, whole)
    return np.asarray(image if size == image.size else image.resize(size, RESAMPLING[whole.interpolation]))


def window(pixels: Pixels, top: int, left: int, height: int, width: int, mode: Padding) -> Pixels:
    """Return rows top.. and columns left.. of the endlessly padded picture: (height, width, 3).

    top and left may be negative and the window may end beyond the picture; mode "zero" fills with 0,
    "reflect" mirrors without repeating the edge.
    """
    rows, columns = pixels.shape[:2]
    if top >= 0 and left >= 0 and top + height <= rows and left + width <= columns:
        return pixels[top : top + height, left : left + width]
    if mode == "reflect":
        return pixels.take(_mirrored(top, height, rows), axis=0).take(_mirrored(left, width, columns), axis=1)
    result = np.zeros((height, width, pixels.shape[2]), dtype=np.uint8)
    first_row, last_row = max(top, 0), min(top + height, rows)
    first_column, last_column = max(left, 0), min(left + width, columns)
    if first_row < last_row and first_column < last_column:
        inside = pixels[first_row:last_row, first_column:last_column]
        result[first_row - top : last_row - top, first_column - left : last_column - left] = inside
    return result


def _mirrored(start: int, length: int, size: int) -> NDArray[np.int64]:
    """Indices into 0..size-1 of start..start+length-1, mirrored once at either end."""
    index: NDArray[np.int64] = np.abs(np.arange(start, start + length))
    mirrored: NDArray[np.int64] = np.minimum(index, 2 * (size - 1) - index)
    return mirrored
