"""Stems that see beyond a patch: convolutions, then a 1 x 1 projection to the model's width.

x (B, C_in, H, W) -> trunk -> proj -> tokens (B, rows * cols, C), on the grid that patches of `patch_size`
would give. The patch size is reduced by its prime factors, largest last: 16 = 2 * 2 * 2 * 2, 14 = 2 * 7;
the width doubles with each and is the model's after the last.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid, as_tokens
from isopatch.nn.norms import batch_norm
from isopatch.nn.stem import patch_grid
from isopatch.nn.strided import StridedConv2d


class ConvStem(nn.Module):
    """A trunk of convolutions that reduces `patch_size` times, a 1 x 1 projection, activation and norm."""

    def __init__(
        self,
        trunk: nn.Sequential,
        dim: int,
        patch_size: int,
        *,
        activation: nn.Module | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        """trunk: map -> map of `dim` channels. norm must accept a (B, dim, rows, cols) map."""
        super().__init__()
        positive(dim=dim, patch_size=patch_size)
        self.patch_size = patch_size
        self.stride = patch_size
        self.trunk = trunk
        self.proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.activation = nn.Identity() if activation is None else activation
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError where patches do not fit."""
        grid = patch_grid((x.shape[2], x.shape[3]), self.patch_size)
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))
        x = self.norm(self.activation(self.proj(x)))
        return as_tokens(x), grid


def overlapping_trunk(
    in_channels: int, dim: int, patch_size: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Strided convolutions whose windows overlap, each with BatchNorm and activation.

    Stride 2 has a 3 x 3 kernel (Xiao et al. 2021, Early convolutions help transformers see better); a prime
    s has 2 s - 1. Raises UsageError for patch_size 1, which leaves nothing to stride over.
    """
    if patch_size == 1:
        raise UsageError("stem 'overlap' needs patch_size 2 or more, not 1: take stem 'conv-pool' or 'patch'")
    layers: list[nn.Module] = []
    for channels, width, stride in _steps(in_channels, dim, patch_size):
        layers += [
            StridedConv2d(channels, width, 2 * stride - 1, stride=stride, padding=stride - 1, bias=False),
            batch_norm(width),
            activation(),
        ]
    return nn.Sequential(*layers)


def conv_pool_trunk(
    in_channels: int, dim: int, patch_size: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """3 x 3 convolutions of stride 1, each with an activation and max pooling.

    Pooling by 2 has a 3 x 3 window (Hassani et al. 2021, Compact Convolutional Transformers, whose stem this
    is but for the projection that follows); a prime s has 2 s - 1. With patch_size 1 there is one convolution
    and no pooling.
    """
    layers: list[nn.Module] = []
    for channels, width, stride in _steps(in_channels, dim, patch_size):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), activation()]
        if stride > 1:
            layers.append(nn.MaxPool2d(2 * stride - 1, stride=stride, padding=stride - 1))
    return nn.Sequential(*layers)


def _steps(in_channels: int, dim: int, patch_size: int) -> list[tuple[int, int, int]]:
    """(channels in, channels out, reduction) of each convolution."""
    positive(in_channels=in_channels, dim=dim, patch_size=patch_size)
    factors = prime_factors(patch_size) or [1]
    widths = [max(dim >> later, 1) for later in range(len(factors) - 1, -1, -1)]
    return list(zip([in_channels, *widths], widths, factors, strict=False))


def prime_factors(number: int) -> list[int]:
    """Return the prime factors, smallest first; none of 1."""
    factors = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
