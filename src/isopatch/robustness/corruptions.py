"""Nine ways to damage a picture, in five levels each: isopatch's own set.

It is not ImageNet-C (Hendrycks and Dietterich 2019): kinds, strengths and code are others, so figures must
not be compared with published ones. A picture is damaged as it is decoded, at its own size and before the
input contract resizes it, so two models with different input sizes see the same damaged pictures. Lengths are
shares of the picture's shorter side, and noise has the grain of a picture of at most 224 pixels, so a level
means about the same for a scan of 32 pixels and a photograph of 3,000.

H, W the picture's height and width; pixels are uint8 (H, W, 3). Level 0 is the picture itself. What is
random (where, which way, which noise) depends on (seed, kind, index of the picture) and not on the level, so
that the levels of a kind are one damage that grows.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from isopatch.data.seeding import derive_seed

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Damage = Callable[[Pixels, float, np.random.Generator], Pixels]

LEVELS = (1, 2, 3, 4, 5)
MOST_STEPS = 257  # of a motion: as many 8-bit pictures as 16 bits can add up
GRAIN_SIDE = 224  # pixels of the shorter side: above, one grain of noise covers several


@dataclass(frozen=True)
class Corruption:
    """One kind of damage. group: kinds drawn in one chart. strengths: of the levels 1..5. what: in words."""

    name: str
    group: str
    strengths: tuple[float, float, float, float, float]
    damage: Damage
    what: str


def corrupt(pixels: Pixels, kind: Corruption, level: int, *, seed: int, index: int) -> Pixels:
    """Return picture `index` of a split with one damage of one level, same shape; level 0 changes nothing."""
    if level == 0:
        return pixels
    if level not in LEVELS:
        raise ValueError(f"level {level}: there are 0 to {LEVELS[-1]}")
    generator = np.random.Generator(np.random.PCG64(derive_seed("corruption", seed, kind.name, index)))
    return kind.damage(pixels, kind.strengths[level - 1], generator)


def _gaussian_noise(pixels: Pixels, deviation: float, generator: np.random.Generator) -> Pixels:
    noise = _grown(generator.standard_normal(_grains(pixels), dtype=np.float32), pixels)
    return _to_pixels(pixels.astype(np.float32) + np.float32(255 * deviation) * noise)


def _shot_noise(pixels: Pixels, photons: float, generator: np.random.Generator) -> Pixels:
    # Poisson with its mean and variance, from one normal draw for all levels.
    noise = _grown(generator.standard_normal(_grains(pixels), dtype=np.float32), pixels)
    light = pixels.astype(np.float32) / np.float32(255)
    return _to_pixels(255 * (light + np.sqrt(light / np.float32(photons)) * noise))


def _gaussian_blur(pixels: Pixels, share: float, generator: np.random.Generator) -> Pixels:
    blur = ImageFilter.GaussianBlur(share * min(pixels.shape[:2]))
    return np.asarray(Image.fromarray(pixels).filter(blur))


def _motion_blur(pixels: Pixels, share: float, generator: np.random.Generator) -> Pixels:
    angle = generator.uniform(0, math.pi)
    length = share * min(pixels.shape[:2])
    steps = min(2 * math.ceil(length) + 1, MOST_STEPS)
    along = np.linspace(-length / 2, length / 2, steps)
    pad = math.ceil(length / 2)
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    total = np.zeros(pixels.shape, np.uint16)
    for down, right in zip(np.rint(along * math.sin(angle)), np.rint(along * math.cos(angle)), strict=True):
        top, left = pad + int(down), pad + int(right)
        total += padded[top : top + height, left : left + width]
    return _to_pixels(total.astype(np.float32) / np.float32(steps))


def _jpeg(pixels: Pixels, quality: float, generator: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(quality), subsampling=2)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _contrast(pixels: Pixels, kept: float, generator: np.random.Generator) -> Pixels:
    mean = pixels.mean(axis=(0, 1), dtype=np.float64)
    return _to_pixels((mean + kept * (pixels - mean)).astype(np.float32))


def _brightness(pixels: Pixels, change: float, generator: np.random.Generator) -> Pixels:
    sign = 1 if generator.random() < 0.5 else -1
    return _to_pixels(pixels + np.float32(255 * sign * change))


def _shift(pixels: Pixels, share: float, generator: np.random.Generator) -> Pixels:
    angle = generator.uniform(0, 2 * math.pi)
    height, width = pixels.shape[:2]
    down, right = round(share * height * math.sin(angle)), round(share * width * math.cos(angle))
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return np.ascontiguousarray(pixels[rows][:, columns])


def _occlusion(pixels: Pixels, area: float, generator: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    rows, columns = (max(1, round(side * math.sqrt(area))) for side in (height, width))
    centre_y, centre_x = generator.random(2)
    top, left = round(centre_y * (height - rows)), round(centre_x * (width - columns))
    covered = pixels.copy()
    covered[top : top + rows, left : left + columns] = pixels.mean(axis=(0, 1), dtype=np.float64).round()
    return covered


KINDS: dict[str, Corruption] = {
    kind.name: kind
    for kind in (
        Corruption(
            "gaussian-noise", "noise", (0.03, 0.06, 0.1, 0.16, 0.24), _gaussian_noise,
            "normal noise; its deviation as a share of white",
        ),
        Corruption(
            "shot-noise", "noise", (200, 60, 25, 12, 6), _shot_noise,
            "noise of few photons (normal approximation); photons at white",
        ),
        Corruption(
            "gaussian-blur", "blur", (0.01, 0.02, 0.03, 0.045, 0.065), _gaussian_blur,
            "Gaussian blur; its deviation as a share of the shorter side",
        ),
        Corruption(
            "motion-blur", "blur", (0.06, 0.1, 0.16, 0.24, 0.34), _motion_blur,
            "mean along a line in a random direction; its length as a share of the shorter side",
        ),
        Corruption(
            "jpeg", "light and file", (50, 30, 18, 10, 5), _jpeg,
            "stored as JPEG with 4:2:0 colours; quality",
        ),
        Corruption(
            "contrast", "light and file", (0.7, 0.5, 0.35, 0.22, 0.12), _contrast,
            "towards the picture's mean colour; contrast that is left",
        ),
        Corruption(
            "brightness", "light and file", (0.08, 0.16, 0.25, 0.35, 0.47), _brightness,
            "brighter or darker, at random; change as a share of white",
        ),
        Corruption(
            "shift", "place", (0.05, 0.1, 0.15, 0.22, 0.3), _shift,
            "moved in a random direction, the edge repeated; way as a share of the side",
        ),
        Corruption(
            "occlusion", "place", (0.04, 0.1, 0.18, 0.28, 0.4), _occlusion,
            "a box of the mean colour at a random place; its share of the area",
        ),
    )
}  # fmt: skip


def _grains(pixels: Pixels) -> tuple[int, int, int]:
    """The shape of the noise before every grain covers its pixels."""
    height, width = pixels.shape[:2]
    grain = max(1, min(height, width) // GRAIN_SIDE)
    return -(-height // grain), -(-width // grain), 3


def _grown(noise: Floats, pixels: Pixels) -> Floats:
    height, width = pixels.shape[:2]
    grain = max(1, min(height, width) // GRAIN_SIDE)
    return noise.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width] if grain > 1 else noise


def _to_pixels(values: Floats) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
