"""Occlusion: cover one place after another and see how much less probable the class becomes.

Zeiler and Fergus 2014, section 4.2. Covered places take the picture's mean colour.
"""

from __future__ import annotations

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
    covers = windows(height, width, size, stride).to(x.device)
    drops = torch.stack([_drops(model, x[i], int(targets[i]), covers) for i in range(len(x))])
    sums = torch.einsum("bw,whv->bhv", drops, covers.to(drops.dtype))
    per_pixel = sums / covers.sum(0)
    cells = F.avg_pool2d(per_pixel[:, None], stride, ceil_mode=True, count_include_pad=False).squeeze(1)
    return [Heat("target class", cells.cpu(), signed=True)]


def windows(height: int, width: int, size: int, stride: int) -> Tensor:
    """Return (W, height, width) bool: which pixels each window covers; together they cover all."""
    tops, lefts = _starts(height, size, stride), _starts(width, size, stride)
    covers = torch.zeros(len(tops) * len(lefts), height, width, dtype=torch.bool)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            covers[row * len(lefts) + column, top : top + size, left : left + size] = True
    return covers


def _starts(side: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, side - size + 1, stride))
    return starts if starts[-1] + size == side else [*starts, side - size]


def _drops(model: Classifier, picture: Tensor, target: int, covers: Tensor) -> Tensor:
    """Return log p(target | picture) - log p(target | covered) for every window, (W,)."""
    fill = mean_colour(picture[None])
    plain = log_probabilities(model, picture[None])[0, target]
    parts = [
        log_probabilities(model, torch.where(part[:, None], fill, picture[None]))[:, target]
        for part in torch.split(covers, AT_ONCE)
    ]
    drops = plain - torch.cat(parts)
    # A window over its own colour changes nothing: what is left is rounding, and no map.
    return torch.where(drops.abs() > ROUNDING, drops, 0.0)
