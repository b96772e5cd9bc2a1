"""Occlusion: cover one place after another and see how much less probable the class becomes.

Zeiler and Fergus 2014, section 4.2. Covered places take the picture's mean colour.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.explain.depths import patch_cells
from isopatch.explain.heat import Heat, Options, log_probabilities, mean_colour
from isopatch.nn.classifier import Classifier

ROUNDING = 1e-5  # of log p in float32, of models whose logits are tens
AT_ONCE = 64  # covered pictures in a batch
LEAST_WINDOW = 16  # windows a side that the default size stays below, however fine the model's grid is


def occlusion_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """The drop of log p(class) where a window is covered; negative where covering it helped.

    Options: occlusion.size, pixels of the window (default: one patch, at least a 16th of the side);
    occlusion.stride (default: the size). With a smaller stride a cell's value is the mean over the windows
    that cover it.
    """
    height, width = x.shape[-2:]
    grid = patch_cells(model, x)
    size = options.get("occlusion.size") or max(
        height // min(grid[0], LEAST_WINDOW), width // min(grid[1], LEAST_WINDOW), 1
    )
    stride = options.get("occlusion.stride") or size
    if size > min(height, width):
        raise UsageError(f"occlusion.size {size}: the model's pictures are {height}x{width}")
    if stride > size:
        raise UsageError(f"occlusion.stride {stride}: above the window of {size}, parts would be left out")
    per_pixel = torch.stack([_mean_drops(model, x[i], int(targets[i]), size, stride) for i in range(len(x))])
    cells = F.avg_pool2d(per_pixel[:, None], stride, ceil_mode=True, count_include_pad=False).squeeze(1)
    return [Heat("target class", cells.cpu(), signed=True)]


def windows(height: int, width: int, size: int, stride: int) -> Iterator[Tensor]:
    """Yield (at most AT_ONCE, height, width) bool: which pixels each window covers; together they cover all.

    Never all of them at once: 224 pixels and a stride of 1 are 44,521 windows.
    """
    tops, lefts = _starts(height, size, stride), _starts(width, size, stride)
    for corners in torch.split(torch.cartesian_prod(tops, lefts), AT_ONCE):
        rows = _within(corners[:, :1], size, height)
        columns = _within(corners[:, 1:], size, width)
        yield rows[:, :, None] & columns[:, None, :]


def _starts(side: int, size: int, stride: int) -> Tensor:
    starts = list(range(0, side - size + 1, stride))
    return torch.tensor(starts if starts[-1] + size == side else [*starts, side - size])


def _within(starts: Tensor, size: int, side: int) -> Tensor:
    """Which of `side` places lie in [start, start + size); starts: (W, 1), result: (W, side) bool."""
    place = torch.arange(side)
    return (place >= starts) & (place < starts + size)


def _mean_drops(model: Classifier, picture: Tensor, target: int, size: int, stride: int) -> Tensor:
    """Return, for every pixel (height, width), the mean drop of log p(target) of the windows over it."""
    fill = mean_colour(picture[None])
    plain = log_probabilities(model, picture[None])[0, target]
    sums = plain.new_zeros(picture.shape[-2:])
    counts = torch.zeros_like(sums)
    for part in windows(picture.shape[-2], picture.shape[-1], size, stride):
        covers = part.to(picture.device)
        covered = torch.where(covers[:, None], fill, picture[None])
        drops = plain - log_probabilities(model, covered)[:, target]
        # A window over its own colour changes nothing: what is left is rounding, and no map.
        drops = torch.where(drops.abs() > ROUNDING, drops, 0.0)
        sums += torch.einsum("w,whv->hv", drops, covers.to(drops.dtype))
        counts += covers.sum(0)
    return sums / counts
