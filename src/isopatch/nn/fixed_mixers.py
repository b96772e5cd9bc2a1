"""Token mixers without learned weights: pooling, nothing at all, a fixed random map. Controls for studies.

(tokens (B, N, C), grid) -> (B, N, C), to be added to the tokens by a residual branch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid, as_map, as_tokens
from isopatch.nn.token_mlp import require_grid


class PoolMixer(nn.Module):
    """Mean over a window minus the token itself (Yu et al. 2022, PoolFormer, equation 4).

    Places outside the map do not count towards the mean.
    """

    def __init__(self, kernel_size: int = 3) -> None:
        """kernel_size: odd."""
        super().__init__()
        positive(kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise UsageError(f"kernel_size {kernel_size}: a pooling window around a token has an odd size")
        self.kernel_size = kernel_size

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Average over the window, minus the token."""
        mean = F.avg_pool2d(
            as_map(tokens, grid),
            self.kernel_size,
            stride=1,
            padding=self.kernel_size // 2,
            count_include_pad=False,
        )
        return as_tokens(mean) - tokens


class IdentityMixer(nn.Module):
    """No mixing: places never meet before the pooling (IdentityFormer, Yu et al. 2022b)."""

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return the tokens."""
        return tokens


class RandomMixer(nn.Module):
    """A random map over places that is never trained (RandFormer, Yu et al. 2022b).

    Each row is a softmax over uniform random numbers. It is part of the state dict, as a buffer.
    """

    weights: Tensor

    def __init__(self, grid: Grid) -> None:
        """Draw the map for `grid` from torch's global generator."""
        super().__init__()
        positive(grid_rows=grid[0], grid_cols=grid[1])
        self.grid = grid
        count = grid[0] * grid[1]
        self.register_buffer("weights", torch.rand(count, count).softmax(dim=-1))

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places by the fixed map."""
        require_grid("a fixed random mixer", self.grid, grid)
        return self.weights @ tokens
