"""Generated scenes: pictures of several real digits on a textured ground, with a class for every pixel.

picture (side, side, 3) uint8 RGB; mask (side, side) uint8: 0 ground, 1 + d where there is ink of digit d. The
ink is the embedded 8x8 scans enlarged (`sources/digits.py`). A scene depends on (split, seed, index) alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.sources.digits import CLASSES as DIGITS
from isopatch.data.sources.digits import DigitsSource, open_digits
from isopatch.errors import UsageError

Split = Literal["train", "val", "test"]
Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]

CLASSES = ("background", *DIGITS)
SPLITS: tuple[Split, ...] = ("train", "val", "test")
COUNT = (3, 6)  # digits in a scene, both ends included
ENLARGED = (16, 24)  # pixels a side of a digit: 2 to 3 times its scan
INK = 0.5  # a pixel belongs to the digit where at least this much of it is ink
MOST_COVERED = 0.15  # share of a digit's box that the boxes of earlier ones may cover
LEAST_CONTRAST = 70  # levels between the ink and the mean of the ground, averaged over the channels
ATTEMPTS = 50  # places tried for a digit before it is left out


class DigitScenes:
    """A sequence of scenes, each made when it is asked for (about half a millisecond).

    split: "test" is made of the digits' test scans, "val" of every fifth training scan, "train" of the
        others: no two splits share a scan. count: how many scenes. side: pixels, at least the largest digit.
    """

    classes = CLASSES

    def __init__(self, split: Split, *, count: int, seed: int = 0, side: int = 64) -> None:
        """Read the scans of the split; raises UsageError for values that make no scene."""
        if split not in SPLITS:
            raise UsageError(f"split '{split}': expected one of {', '.join(SPLITS)}")
        if side < ENLARGED[1]:
            raise UsageError(f"side {side}: a scene has at least {ENLARGED[1]} pixels a side")
        if count < 1 or seed < 0:
            raise UsageError(f"count {count}, seed {seed}: give at least one scene and a seed of at least 0")
        self.split = split
        self.seed = seed
        self.side = side
        self.scans, self.names = _scans(split)
        self._count = count

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._count

    def __getitem__(self, index: int) -> Scene:
        """Return (picture, mask) of scene `index`; raises IndexError beyond the end."""
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index}: there are {self._count}")
        generator = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        picture = _ground(generator, self.side)
        mask = np.zeros((self.side, self.side), np.uint8)
        taken = np.zeros((self.side, self.side), bool)
        for _ in range(generator.integers(COUNT[0], COUNT[1] + 1)):
            self._add_digit(generator, picture, mask, taken)
        picture += generator.normal(0, generator.uniform(4, 16), picture.shape).astype(np.float32)
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8), mask

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return all scenes: pictures (N, side, side, 3) and masks (N, side, side)."""
        pictures = np.empty((self._count, self.side, self.side, 3), np.uint8)
        masks = np.empty((self._count, self.side, self.side), np.uint8)
        for index in range(self._count):
            pictures[index], masks[index] = self[index]
        return pictures, masks

    def _add_digit(
        self,
        generator: np.random.Generator,
        picture: NDArray[np.float32],
        mask: NDArray[np.uint8],
        taken: NDArray[np.bool_],
    ) -> None:
        """Draw one digit where it covers little of those already there; in place."""
        number = int(generator.integers(len(self.scans)))
        side = int(generator.integers(ENLARGED[0], ENLARGED[1] + 1))
        for _ in range(ATTEMPTS):
            top, left = generator.integers(0, self.side - side + 1, size=2)
            box = np.s_[top : top + side, left : left + side]
            if taken[box].mean() <= MOST_COVERED:
                break
        else:
            return
        taken[box] = True
        scan, digit = self.scans[number]
        ink = np.clip(_resized(scan, side), 0, 1)
        colour = _ink_colour(generator, picture[box].mean(axis=(0, 1)))
        picture[box] += ink[..., None] * (colour - picture[box])
        mask[box][ink >= INK] = 1 + digit


def _scans(split: Split) -> tuple[list[tuple[NDArray[np.float32], int]], list[str]]:
    """Return (ink 0..1 (8, 8), digit) of a split's scans, and their names."""
    data = open_digits()
    source = data.test if split == "test" else data.train
    assert isinstance(source, DigitsSource)
    chosen = [i for i in range(len(source)) if split == "test" or (i % 5 == 0) == (split == "val")]
    scans = [(_ink(source.read(i)), int(source.labels[i])) for i in chosen]
    return scans, [source.name(i) for i in chosen]


def _ink(scan: Image.Image) -> NDArray[np.float32]:
    """Return how much of each pixel is ink, 0..1."""
    return (np.asarray(scan.convert("L")) / 255).astype(np.float32)


def _resized(plane: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Enlarge a square plane by bicubic interpolation."""
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC))


def _ground(generator: np.random.Generator, side: int) -> NDArray[np.float32]:
    """A colour with a smooth texture of random grain and strength, (side, side, 3)."""
    colour = generator.uniform(40, 215, 3)
    grain = int(generator.integers(3, 17))
    strength = generator.uniform(5, 30)
    texture = generator.normal(0, 1, (3, grain, grain)).astype(np.float32)
    planes = [_resized(plane, side) for plane in texture]
    return (colour + strength * np.stack(planes, axis=-1)).astype(np.float32)


def _ink_colour(generator: np.random.Generator, ground: NDArray[np.float32]) -> NDArray[np.float32]:
    """A random colour that stands out from the ground."""
    while True:
        colour = generator.uniform(0, 255, 3).astype(np.float32)
        if np.abs(colour - ground).mean() >= LEAST_CONTRAST:
            return colour
