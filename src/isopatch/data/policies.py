"""Changes of colour and shape after the crop: RandAugment (timm's, torchvision's), 3-Augment, colour jitter.

timm and torchvision draw from the global generators: call their operations inside `restored_generators`,
after a reseed. They are imported when a transform is made, not when a picture is read, so that forked
loader processes inherit them (timm takes 8 s to import, torchvision 5 s).
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFilter, ImageOps

from isopatch.data import colours, geometry
from isopatch.data.crops import RESAMPLING, Interpolation, Picture, as_image
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract

PictureOp = Callable[[Picture], Picture]

# timm 1.0.31 ignores sections it cannot read and stops with a bare assertion at others.
_SECTION = re.compile(r"(m|n|mmax|inc)\d+|(mstd|p)\d+(\.\d+)?|t(3a|3aw|weights)")


def timm_rand_augment(notation: str, contract: InputContract, interpolation: Interpolation) -> PictureOp:
    """Return timm's RandAugment with the parameters of timm's `create_transform`.

    notation: timm's, e.g. rand-m9-mstd0.5-inc1 (DeiT, ConvMixer): 2 of 15 operations, each applied with
    probability 0.5, magnitude N(9, 0.5). What moves in from outside has the contract's mean colour.
    Raises UsageError where timm would not understand the notation.
    """
    head, *sections = notation.split("-")
    unknown = [section for section in sections if not _SECTION.fullmatch(section)]
    if head != "rand" or unknown:
        wrong = f"'{unknown[0]}' in '{notation}'" if head == "rand" else f"'{notation}'"
        raise UsageError(
            f"augment.rand_augment: {wrong} is not in timm's notation; "
            "write rand and sections like m9, n2, mstd0.5, p0.5, inc1: rand-m9-mstd0.5-inc1"
        )
    from timm.data.auto_augment import rand_augment_transform

    parameters: dict[str, object] = {
        "translate_const": int(min(contract.height, contract.width) * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in contract.mean),
    }
    if interpolation != "random":  # absent, timm draws bilinear or bicubic for each operation
        parameters["interpolation"] = RESAMPLING[interpolation]
    operation: Any = rand_augment_transform(notation, parameters)
    for part in operation.ops:  # what is drawn stays timm's; who changes the pixels may be a twin of Pillow
        plain = functools.partial(_on_image, part.aug_fn)
        part.aug_fn = geometry.TWINS.get(part.name) or colours.twin_of(part.name, plain)
    picture_op: PictureOp = operation
    return picture_op


def _on_image(
    change: Callable[..., Image.Image], picture: Picture, *arguments: Any, **options: Any
) -> Picture:
    return change(as_image(picture), *arguments, **options)


def torchvision_rand_augment(num_ops: int, magnitude: int) -> PictureOp:
    """Return torchvision's RandAugment (other operations than timm's, no noise, always applied).

    Nearest-neighbour and black outside, its defaults, as the ConvMixer CIFAR-10 script uses it.
    """
    from torchvision.transforms import RandAugment

    return functools.partial(_on_image, RandAugment(num_ops=num_ops, magnitude=magnitude))


def color_jitter(strength: float) -> PictureOp:
    """Return torchvision's ColorJitter: brightness, contrast and saturation by a factor 1 +- strength."""
    from torchvision.transforms import ColorJitter

    jitter = ColorJitter(brightness=strength, contrast=strength, saturation=strength)
    return functools.partial(_on_image, jitter)


def three_augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """Grey, solarise or blur, one of them with equal chance (Touvron et al. 2022, DeiT III, section 3).

    Solarise inverts values from 128 up; the blur's radius is uniform in 0.1..2 pixels (deit/augment.py).
    """
    choice, radius = rng.randrange(3), rng.uniform(0.1, 2.0)
    if choice == 0:
        return image.convert("L").convert("RGB")
    if choice == 1:
        return ImageOps.solarize(image)
    return image.filter(ImageFilter.GaussianBlur(radius=radius))
