"""Patch kernels to another patch size: pseudo-inverse resize (Beyer et al. 2022, FlexiViT, arXiv 2212.08013).

A picture shown larger, in larger patches, should give the tokens it gave before. With B the linear map that
resizes a patch x, PI-resize takes the kernel w' that comes closest for patches of independent pixels,

    w' = argmin E[(<x, w> - <Bx, w'>)^2] = pinv(B^T) w        (section 3.4)

Upwards this loses nothing: <x, w> = <Bx, w'> for every x. Plain resizing of the kernel does not even keep
the tokens' scale. B is bicubic with antialiasing: timm's resample_patch_embed, and how pictures are prepared.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.models.formats.keymap import State
from isopatch.models.resize import Change
from isopatch.nn.classifier import Classifier
from isopatch.nn.stem import NormedPatchStem, PatchStem

log = logging.getLogger("isopatch")

KERNEL = "stem.proj.weight"


def resize_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """PI-resize patch kernels (D, C, rows, cols) to `size`, computed in float64; the dtype is kept.

    B is one map per axis, and so is its pseudo-inverse: pinv(R x C) = pinv(R) x pinv(C).
    """
    rows, cols = (_pseudo_inverse(old, new) for old, new in zip(weight.shape[2:], size, strict=True))
    resized: Tensor = rows @ weight.double() @ cols.T
    return resized.to(weight.dtype)


def _pseudo_inverse(old: int, new: int) -> Tensor:
    """Return pinv(R^T), (new, old), of the map R (new, old) that resizes a line of pixels."""
    # One column per pixel that is alone. Columns stay as they are: PyTorch 2.13 resizes maps one column wide
    # wrongly with antialiasing, so they cannot be channels instead.
    pixels = torch.eye(old, dtype=torch.float64)[None, None]
    resized = F.interpolate(pixels, size=(new, old), mode="bicubic", antialias=True)[0, 0]
    inverse: Tensor = torch.linalg.pinv(resized.T)
    return inverse


def resized_patches(
    state: Mapping[str, Tensor], model: Classifier, *, where: str, asked: bool, changes: list[Change]
) -> State:
    """Resize the file's patch kernels to the model's patch size.

    asked: whether somebody gave a patch size; without it another size is a misfit, named by strict loading.
    changes: receives what was resized. Raises UsageError for a stem whose weights have no other patch size.
    """
    result = dict(state)
    held, own = state.get(KERNEL), model.state_dict().get(KERNEL)
    if not asked or held is None or own is None or held.shape == own.shape:
        return result
    stem = model.get_submodule("stem")
    if isinstance(stem, NormedPatchStem):
        raise UsageError(
            f"{where}: patch_size {stem.patch_size} is not its own, and a LayerNorm over a patch's pixels "
            f"(patch_norm) has weights for each of them, which belong to one patch size: leave patch_size out"
        )
    if held.dim() != 4 or held.shape[:2] != own.shape[:2]:
        return result  # another model altogether
    if not isinstance(stem, PatchStem):
        raise UsageError(
            f"{where}: its patches of {_size(held)} are cut from a convolutional stem's map, not from the "
            f"picture, and PI-resize is defined for patches of pixels: leave patch_size out"
        )
    before, after = (held.shape[2], held.shape[3]), (own.shape[2], own.shape[3])
    result[KERNEL] = resize_kernel(held, after)
    changes.append(Change("patch kernels", "pi-resize", before, after))
    log.info("patch kernels resized from %s to %s pixels (pseudo-inverse)", _size(held), _size(own))
    return result


def _size(kernel: Tensor) -> str:
    return f"{kernel.shape[2]}x{kernel.shape[3]}"
