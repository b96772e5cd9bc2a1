"""CycleMLP: channel MLPs that read each channel from another place (Chen et al. 2021, arXiv 2107.10224).

    x -> 7 x 7 conv, stride 4 -> stages of ( x + mix(norm(x)) -> x + MLP(norm(x)) ), between them a
      3 x 3 conv of stride 2 -> norm -> mean -> logits
    mix(x) = weighted sum of W_a shift_cols(x), W_b shift_rows(x) and W_c x, projected (nn/branches.py)
    shift: channel c comes from ((c + s // 2) mod s) - s // 2 places further on, zero outside the map

Nothing is tied to one picture size. Verified: the paper's parameters and multiply-adds, and the formulas in a
second implementation. Taken from reading the authors' code (ShoufaChen/CycleMLP): sizes, biases, eps, order
of the shifts, step 3, hidden width of the weights, initialisation. No published weights were run through it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, ResidualBranch, TwoStepBlock, drop_path_rates
from isopatch.nn.branches import WeightedBranches
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import per_stage, positive
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid
from isopatch.nn.norms import layer_norm
from isopatch.nn.on_map import NormOnMap, OnMap
from isopatch.nn.staged import Staged
from isopatch.nn.stem import ImageSize, as_pair
from isopatch.nn.strided import StridedConv2d

NORM_EPS = 1e-5  # PyTorch's default, which the authors left as it is
ROWS, COLS = 1, 2  # axes of a map (B, rows, cols, C)


class OverlapStem(nn.Module):
    """A convolution whose patches overlap: a place for every `stride` pixels (rounded)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, stride: int) -> None:
        """Pad so that 7 x 7 with stride 4 gives a quarter of the picture's size, as published."""
        super().__init__()
        if stride > patch_size:
            raise UsageError(
                f"patch_stride {stride} is larger than patch_size {patch_size}: pixels between patches would "
                f"not be seen"
            )
        padding = (patch_size - stride + 1) // 2
        self.smallest = patch_size - 2 * padding
        self.proj = StridedConv2d(in_channels, dim, patch_size, stride=stride, padding=padding)

    def require(self, image_size: ImageSize) -> None:
        """Refuse a picture without a single place."""
        height, width = as_pair(image_size)
        if min(height, width) < self.smallest:
            raise UsageError(f"image_size {height}x{width}: both sides must be at least {self.smallest}")

    def forward(self, x: Tensor) -> Tensor:
        """Return a channels_last map (B, C, rows, cols)."""
        self.require((x.shape[2], x.shape[3]))
        projected: Tensor = self.proj(x.contiguous(memory_format=torch.channels_last))
        return projected


def shift(x: Tensor, step_size: int, axis: int) -> Tensor:
    """Move the channels of a map (B, rows, cols, C) along one axis, as a staircase; zeros come in.

    Channel c of a place is what stands ((c + s // 2) mod s) - s // 2 places further on, s = step_size: for 3
    that is 0, 1, -1, 0, 1, -1, ... (authors' code; another order would only rename channels).
    """
    half = step_size // 2
    places = x.shape[axis]
    padded = F.pad(x, (0, 0, half, half) if axis == COLS else (0, 0, 0, 0, half, half))
    shifted = torch.empty_like(x)
    for channel in range(step_size):
        start = (channel + half) % step_size
        shifted[..., channel::step_size] = padded.narrow(axis, start, places)[..., channel::step_size]
    return shifted


class CycleMixer(nn.Module):
    """Linear layers over staircases of columns, of rows, and over the place itself, weighted."""

    def __init__(self, dim: int, step_size: int, *, activation: Activation = "gelu") -> None:
        """Build the branches; the one without a staircase has no bias (authors' code)."""
        super().__init__()
        positive(step_size=step_size)
        self.step_size = step_size
        self.cols = nn.Linear(dim, dim)
        self.rows = nn.Linear(dim, dim)
        self.place = nn.Linear(dim, dim, bias=False)
        self.branches = WeightedBranches(dim, activation=activation)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) within `step_size` places along both axes."""
        x = tokens.reshape(tokens.shape[0], *grid, -1)
        along_cols = self.cols(shift(x, self.step_size, COLS)).flatten(1, 2)
        along_rows = self.rows(shift(x, self.step_size, ROWS)).flatten(1, 2)
        mixed: Tensor = self.branches(along_cols, along_rows, self.place(tokens))
        return mixed


def cycle_mlp(
    *,
    dims: tuple[int, ...],
    depths: tuple[int, ...],
    mlp_ratios: tuple[float, ...],
    image_size: int | tuple[int, int],
    patch_size: int = 7,
    patch_stride: int = 4,
    step_size: int = 3,
    num_classes: int = 1000,
    in_channels: int = 3,
    activation: Activation = "gelu",
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Staged:
    """Build a CycleMLP; every stage after the first halves the map.

    dims, depths, mlp_ratios: one value per stage. image_size: what pictures are prepared to; the model takes
    any. patch_size, patch_stride: of the stem. step_size: reach of the shifts, 3 in the authors' code.
    Initialisation: linear weights truncated normal 0.02, biases 0, convolutions PyTorch's (authors' code).
    """
    per_stage(dims=dims, depths=depths, mlp_ratios=mlp_ratios)
    positive(dims=min(dims), depths=min(depths), in_channels=in_channels)
    positive(patch_size=patch_size, patch_stride=patch_stride)
    stem = OverlapStem(in_channels, dims[0], patch_size, patch_stride)
    stem.require(image_size)
    rates = iter(drop_path_rates(drop_path, sum(depths), drop_path_schedule))

    def block(dim: int, mlp_ratio: float, rate: float) -> OnMap:
        mixer = CycleMixer(dim, step_size, activation=activation)
        mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation)
        return OnMap(
            TwoStepBlock(
                ResidualBranch(layer_norm(dim, NORM_EPS), mixer, dim=dim, drop_path=rate),
                ResidualBranch(layer_norm(dim, NORM_EPS), mlp, dim=dim, drop_path=rate),
            )
        )

    stages = []
    for index, (dim, depth, mlp_ratio) in enumerate(zip(dims, depths, mlp_ratios, strict=True)):
        halving = [StridedConv2d(dims[index - 1], dim, 3, stride=2, padding=1)] if index else []
        stages.append(nn.Sequential(*halving, *(block(dim, mlp_ratio, next(rates)) for _ in range(depth))))
    model = Staged(
        stem=stem,
        stages=stages,
        norm=NormOnMap(dims[-1], NORM_EPS),
        heads={"cls": Head(dims[-1], num_classes)},
    )
    initialise.linear_layers(model)
    return model


def no_weight_decay(model: Staged) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
