"""The one way a picture becomes a model's input, for evaluation, prediction, serving and explaining.

Legend: H, W the contract's height and width; B pictures in a batch. The picture is resized on uint8 with
Pillow (which antialiases), the centre is cut, and the result is scaled to 0..1 and normalised. Roundings
are torchvision's (Resize on the shorter side floors the longer one; CenterCrop rounds half to even) and
timm's (the resize target floors side / crop_fraction), because published accuracies hang on them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from isopatch.image import native
from isopatch.image.contract import InputContract
from isopatch.image.pixels import to_rgb

_INTERPOLATION = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A picture longer than this times its width is cut to it before resizing: a strip of 1 x 65,535 pixels
# would otherwise be blown up to gigabytes of which the centre crop keeps a square.
MAX_ASPECT = 64


def resized_size(width: int, height: int, contract: InputContract) -> tuple[int, int]:
    """Return (width, height) to which a picture of that size is resized before the centre crop.

    "squash": floor(contract side / crop_fraction), whatever the aspect. "shorter": the smallest size of
    unchanged aspect that covers that box; the side that overlaps is floored.
    """
    target_height = math.floor(contract.height / contract.crop_fraction)
    target_width = math.floor(contract.width / contract.crop_fraction)
    if contract.resize == "squash":
        return target_width, target_height
    if width * target_height >= height * target_width:
        return int(target_height * width / height), target_height
    return target_width, int(target_width * height / width)


def seen_box(width: int, height: int, contract: InputContract) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of what `prepare` keeps of a picture, as shares of its sides."""
    strip_left, strip_top, kept_width, kept_height = 0, 0, width, height
    if contract.resize == "shorter":
        strip_left, strip_top, kept_width, kept_height = _strip(width, height)
    size = resized_size(kept_width, kept_height, contract)
    left, top = _crop_corner(*size, contract)
    across, down = kept_width / size[0], kept_height / size[1]
    return (
        max(0.0, (strip_left + left * across) / width),
        max(0.0, (strip_top + top * down) / height),
        min(1.0, (strip_left + (left + contract.width) * across) / width),
        min(1.0, (strip_top + (top + contract.height) * down) / height),
    )


def prepare_uint8(image: Image.Image, contract: InputContract) -> Tensor:
    """Resize and centre-crop `image` to the contract: uint8 (3, H, W), not normalised.

    image: RGB as `decode` returns it; any other mode is converted by the rules of `pixels.to_rgb` first.
    """
    if image.mode != "RGB":
        image = to_rgb(image)
    if contract.resize == "shorter":
        image = _cut_strip(image)
    size = resized_size(*image.size, contract)
    if size != image.size:
        image = image.resize(size, _INTERPOLATION[contract.interpolation])
    left, top = _crop_corner(*image.size, contract)
    image = image.crop((left, top, left + contract.width, top + contract.height))
    pixels = np.array(image)  # (H, W, 3), a copy of its own
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def normalise(images: Tensor, contract: InputContract) -> Tensor:
    """Scale uint8 (3, H, W) or (B, 3, H, W) to 0..1 and normalise: float32 of the same shape.

    Every element is computed by the same three IEEE operations wherever it stands, so one picture and a
    batch agree bit for bit. The divisors are tensors because CUDA turns a division by a Python number into
    a product with its reciprocal, which rounds differently.
    """
    if images.ndim == 4 and images.device.type == "cpu":
        result = torch.from_numpy(np.empty(images.shape, dtype=np.float32))
        for image, place in zip(images, result, strict=True):  # one that stays in the cache, not four passes
            place.copy_(_normalised(image, contract))
        return result
    return _normalised(images, contract)


def normalise_pixels(pixels: NDArray[np.uint8], contract: InputContract) -> Tensor:
    """Normalise uint8 (B, H, W, 3) on the CPU as `normalise` does: float32 (B, 3, H, W), to the bit."""
    library = native.load()
    if library is None:
        return normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), contract)
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    table = _normalised(levels, contract).view(3, 256).numpy()
    # NumPy asks for huge pages, torch does not: half of the time here would go into 4 KB page faults.
    result = np.empty((len(pixels), 3, *pixels.shape[1:3]), dtype=np.float32)
    for picture, place in zip(pixels, result, strict=True):
        library.look_up(picture, table, place)
    return torch.from_numpy(result)


def _normalised(images: Tensor, contract: InputContract) -> Tensor:
    scale = torch.tensor(255.0, device=images.device).view(1, 1, 1)
    mean = torch.tensor(contract.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(contract.std, device=images.device).view(3, 1, 1)
    return images.to(torch.float32).div_(scale).sub_(mean).div_(std)


def prepare(image: Image.Image, contract: InputContract) -> Tensor:
    """Turn a picture into a model's input: float32 (3, H, W), equal to `normalise(prepare_uint8(image))`."""
    return normalise(prepare_uint8(image, contract), contract)


def _crop_corner(width: int, height: int, contract: InputContract) -> tuple[int, int]:
    """Return (left, top) of the centre crop."""
    return round((width - contract.width) / 2), round((height - contract.height) / 2)


def _strip(width: int, height: int) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of the middle of a picture more elongated than `MAX_ASPECT`."""
    longest = MAX_ASPECT * min(width, height)
    kept_width, kept_height = min(width, longest), min(height, longest)
    return (width - kept_width) // 2, (height - kept_height) // 2, kept_width, kept_height


def _cut_strip(image: Image.Image) -> Image.Image:
    left, top, width, height = _strip(*image.size)
    if (width, height) == image.size:
        return image
    return image.crop((left, top, left + width, top + height))
