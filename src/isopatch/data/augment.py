"""From a decoded picture to a training sample: crop, flip, policy, colour jitter, normalise, erase.

The result is a function of (picture, configuration, contract, seed) alone. What is ours draws from a private
generator; what is timm's or torchvision's draws from the global ones inside a scope that restores them. With
padded or random-resized crops and flips only, neither library is imported.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image

from isopatch.data import policies
from isopatch.data.crops import (
    Crop,
    FixedCrop,
    Interpolation,
    PaddedCrop,
    Padding,
    Picture,
    Pixels,
    RandomResizedCrop,
    SimpleRandomCrop,
    as_image,
    mirrored,
)
from isopatch.data.seeding import derive_seed, restored_generators
from isopatch.image.contract import InputContract
from isopatch.image.prepare import normalise_pixels


class AugmentSettings(Protocol):
    """What a transform is made from: the fields of `training.config.AugmentConfig`, `repeats` apart."""

    @property
    def crop(self) -> Literal["random-resized", "padded", "simple-random", "none"]: ...
    @property
    def scale(self) -> tuple[float, float]: ...
    @property
    def ratio(self) -> tuple[float, float]: ...
    @property
    def padding(self) -> int: ...
    @property
    def padding_mode(self) -> Padding: ...
    @property
    def interpolation(self) -> Interpolation: ...
    @property
    def flip(self) -> float: ...
    @property
    def rand_augment(self) -> str | None: ...
    @property
    def torchvision_ops(self) -> int: ...
    @property
    def torchvision_magnitude(self) -> int: ...
    @property
    def three_augment(self) -> bool: ...
    @property
    def color_jitter(self) -> float: ...
    @property
    def erasing(self) -> float: ...
    @property
    def erasing_mode(self) -> Literal["pixel", "zero"]: ...


class TrainTransform:
    """The random changes of one training picture, then the contract's normalisation, then erasing."""

    def __init__(self, augment: AugmentSettings, contract: InputContract) -> None:
        """Import what the settings need; raise UsageError where they do not fit the contract."""
        self._contract = contract
        self._crop = make_crop(augment, contract)
        self._flip = augment.flip
        self._three_augment = augment.three_augment
        self._library_ops: list[policies.PictureOp] = []
        if augment.rand_augment is not None:
            operation = policies.timm_rand_augment(augment.rand_augment, contract, augment.interpolation)
            self._library_ops.append(operation)
        if augment.torchvision_ops > 0:
            operation = policies.torchvision_rand_augment(
                augment.torchvision_ops, augment.torchvision_magnitude
            )
            self._library_ops.append(operation)
        # timm drops the jitter where RandAugment is set; here a recipe that means 0 says 0.
        if augment.color_jitter > 0:
            self._library_ops.append(policies.color_jitter(augment.color_jitter))
        self._erasing = augment.erasing
        self._erase = make_erasing(augment.erasing, augment.erasing_mode) if augment.erasing > 0 else None

    def __call__(self, image: Image.Image, *, seed: int) -> torch.Tensor:
        """Return the sample (3, H, W), float32, normalised and erased."""
        return self.batch([image], [seed])[0]

    def batch(self, pictures: Iterable[Picture], seeds: Sequence[int]) -> torch.Tensor:
        """Return (B, 3, H, W) float32: sample i depends on picture i and seed i only.

        pictures: PIL RGB images or (h, w, 3) uint8 arrays, taken one at a time.
        """
        return self.finish(self.pixels(pictures, seeds), seeds)

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Return the shape of `pixels` for so many pictures."""
        return count, self._contract.height, self._contract.width, 3

    def pixels(self, pictures: Iterable[Picture], seeds: Sequence[int], out: Pixels | None = None) -> Pixels:
        """Do everything that is done on bytes: (B, H, W, 3) uint8, a quarter of what `finish` makes of it.

        out: where to write it; None: new memory.
        """
        pixels = np.empty(self.shape(len(seeds)), dtype=np.uint8) if out is None else out
        rng = random.Random()
        with self._scope(bool(self._library_ops)) as reseed:
            for sample, picture, seed in zip(pixels, pictures, seeds, strict=True):
                sample[:] = self._change(picture, seed, rng, reseed)
        return pixels

    def finish(self, pixels: Pixels, seeds: Sequence[int]) -> torch.Tensor:
        """Normalise and erase what `pixels` returned for the same seeds: (B, 3, H, W) float32."""
        images = normalise_pixels(pixels, self._contract)
        if self._erase is None:
            return images
        rng = random.Random()
        with self._scope(True) as reseed:
            for image, seed in zip(images, seeds, strict=True):
                seed = derive_seed(seed, "erasing")
                rng.seed(seed)
                if rng.random() > self._erasing:  # the draw with which timm spares a picture
                    continue
                reseed(seed)
                self._erase(image)
        return images

    def _change(
        self, picture: Picture, seed: int, rng: random.Random, reseed: Callable[[int], None]
    ) -> Pixels:
        rng.seed(seed)
        pixels = self._crop(picture, rng)
        if rng.random() < self._flip:
            pixels = mirrored(pixels)
        picture = pixels
        if self._three_augment:
            picture = policies.three_augment(as_image(pixels), rng)
        if self._library_ops:
            reseed(derive_seed(seed, "policy"))  # another seed: the same one would repeat the crop's draws
            for operation in self._library_ops:
                picture = operation(picture)
        return np.asarray(picture)

    @contextlib.contextmanager
    def _scope(self, libraries: bool) -> Iterator[Callable[[int], None]]:
        """The scope for libraries that draw from global generators; nothing where none is used."""
        if libraries:
            with restored_generators() as reseed:
                yield reseed
        else:
            yield _no_library


def make_crop(augment: AugmentSettings, contract: InputContract) -> Crop:
    """Return the crop that the settings name."""
    if augment.crop == "random-resized":
        return RandomResizedCrop(
            contract, scale=augment.scale, ratio=augment.ratio, interpolation=augment.interpolation
        )
    if augment.crop == "padded":
        return PaddedCrop(
            contract, padding=augment.padding, mode=augment.padding_mode, interpolation=augment.interpolation
        )
    if augment.crop == "simple-random":
        return SimpleRandomCrop(contract, interpolation=augment.interpolation)
    return FixedCrop(contract)


def make_erasing(
    probability: float, mode: Literal["pixel", "zero"]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return timm's random erasing (Zhong et al. 2020) of one normalised (3, H, W) tensor, in place.

    One rectangle of 2 % to 33 % of the area, aspect 0.3 to 1 / 0.3; "pixel" fills with normal noise per pixel
    and channel, "zero" with 0, the mean colour.
    """
    from timm.data.random_erasing import RandomErasing

    erase: Callable[[torch.Tensor], torch.Tensor] = RandomErasing(  # type: ignore[no-untyped-call]
        probability, mode="const" if mode == "zero" else "pixel", max_count=1, device="cpu"
    )
    return erase


def _no_library(seed: int) -> None:
    raise AssertionError("no third-party operation is configured")
