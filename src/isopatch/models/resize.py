"""Learned positions to another grid: the four functions that the published code bases use.

They differ in the last digits or far more; weights that were fine-tuned after one of them want the same one.
B rows x cols tables are (1, prefix + rows * cols, C); prefix entries have no place and are kept as they are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.nn.layout import Grid

ResizeMode = Literal["jax", "deit", "timm", "hf"]
MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)


class Norms(NamedTuple):
    """Mean length of the position vectors of the patches before and after.

    DeiT (section 6) chose bicubic because bilinear shortens the vectors, and shortened ones cost accuracy.
    """

    before: float
    after: float


class Change(NamedTuple):
    """One kind of weights that was brought to another size, as (rows, columns): places, or pixels of a patch.

    how: the mode of a resize, or the name of what was done. norms: of position tables.
    """

    what: str
    how: str
    before: Grid
    after: Grid
    norms: Norms | None = None


def resize_table(table: Tensor, old: Grid, new: Grid, prefix_entries: int, mode: ResizeMode) -> Tensor:
    """Resize (1, prefix_entries + rows * cols, C) from one grid to another.

    mode: "jax" bilinear with aligned corners (vit_jax and big_vision: scipy's zoom of order 1); "deit"
        bicubic (facebookresearch/deit); "timm" bicubic with antialiasing (resample_abs_pos_embed); "hf"
        bicubic (transformers), the same function as DeiT's.
    The same number of places on a grid of another shape is resampled too. Raises UsageError for another mode.
    """
    prefix, patches = table[:, :prefix_entries], table[:, prefix_entries:]
    image = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = resize_map(image, new, mode).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat((prefix, resized), dim=1)


def require_mode(mode: str) -> None:
    """Raise UsageError for a mode that does not exist."""
    if mode not in MODES:
        raise UsageError(f"position_resize '{mode}': choose one of {', '.join(MODES)}")


def resize_map(image: Tensor, size: Grid, mode: ResizeMode) -> Tensor:
    """Resize (B, C, rows, cols); the result has the type of what came in.

    Computed in float32, as the origins do, except float64 tensors and "jax": scipy computes in float64, and
    float32 coordinates with aligned corners are 4e-6 off.
    """
    require_mode(mode)
    wide = image.double() if mode == "jax" or image.dtype == torch.float64 else image.float()
    if mode == "jax":
        resized = F.interpolate(wide, size=size, mode="bilinear", align_corners=True)
    else:
        resized = F.interpolate(
            wide, size=size, mode="bicubic", align_corners=False, antialias=mode == "timm"
        )
    return resized.to(image.dtype)


def mean_norms(before: Tensor, after: Tensor, prefix_entries: int) -> Norms:
    """Mean length of the patches' vectors of two tables (1, prefix_entries + places, C)."""
    lengths = [float(t[0, prefix_entries:].float().norm(dim=-1).mean()) for t in (before, after)]
    return Norms(*lengths)
