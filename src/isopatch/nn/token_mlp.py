"""Parts that mix tokens by linear maps whose weights are tied to one grid (MLP-Mixer, ResMLP, gMLP).

B pictures, N tokens, C channels. A weight per pair of places has no meaning at another number of places:
every part refuses prefix tokens and empty grids when it is built, and another grid when it is called.
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.activations import Activation
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import divisible, positive
from isopatch.nn.layout import Grid


class TokenMlp(nn.Module):
    """The same MLP over the places of every channel (Tolstikhin et al. 2021, equation 1).

    hidden: width between its two layers, dim / 2 in every published MLP-Mixer.
    """

    def __init__(
        self,
        grid: Grid,
        hidden: int,
        *,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        num_prefix: int = 0,
    ) -> None:
        """Tie the weights to `grid`."""
        super().__init__()
        self.grid = _own_grid("a token-MLP", grid, num_prefix)
        self.mlp = Mlp(grid[0] * grid[1], hidden, activation=activation, dropout=dropout)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places; channels stay apart."""
        require_grid("a token-MLP", self.grid, grid)
        mixed: Tensor = self.mlp(tokens.transpose(1, 2), grid).transpose(1, 2)
        return mixed


class TokenLinear(nn.Module):
    """One linear layer over the places of every channel (Touvron et al. 2021, ResMLP, equation 2)."""

    def __init__(self, grid: Grid, *, num_prefix: int = 0) -> None:
        """Tie the weights to `grid`."""
        super().__init__()
        self.grid = _own_grid("a token-linear layer", grid, num_prefix)
        self.linear = nn.Linear(grid[0] * grid[1], grid[0] * grid[1])

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places; channels stay apart."""
        require_grid("a token-linear layer", self.grid, grid)
        mixed: Tensor = self.linear(tokens.transpose(1, 2)).transpose(1, 2)
        return mixed


class SpatialGate(nn.Module):
    """Half of the channels, times a linear map over places of the normed other half (Liu et al. 2021, gMLP).

    tokens (B, N, C) -> (B, N, C / 2). The norm's eps is PyTorch's 1e-5, unlike the block's 1e-6 (timm).
    """

    def __init__(self, grid: Grid, dim: int, *, num_prefix: int = 0) -> None:
        """Tie the weights to `grid`; `dim` is the width that comes in."""
        super().__init__()
        positive(gate_dim=dim)
        divisible("gate width", dim, "halves", 2, hint="one half gates the other")
        self.grid = _own_grid("a spatial gate", grid, num_prefix)
        self.norm = nn.LayerNorm(dim // 2)
        self.linear = nn.Linear(grid[0] * grid[1], grid[0] * grid[1])

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Gate the first half by the second."""
        require_grid("a spatial gate", self.grid, grid)
        passed, gate = tokens.chunk(2, dim=-1)
        gate = self.linear(self.norm(gate).transpose(1, 2)).transpose(1, 2)
        gated: Tensor = passed * gate
        return gated


def require_grid(what: str, built_for: Grid, given: Grid) -> None:
    """Raise UsageError when weights of one grid meet tokens of another."""
    if tuple(given) != tuple(built_for):
        raise UsageError(
            f"{what} built for {built_for[0]} x {built_for[1]} patches got {given[0]} x {given[1]}: give "
            f"pictures of the size it was built for, or build it with another image_size"
        )


def _own_grid(what: str, grid: Grid, num_prefix: int) -> Grid:
    positive(grid_rows=grid[0], grid_cols=grid[1])
    if num_prefix:
        raise UsageError(
            f"{what} over {grid[0]} x {grid[1]} patches cannot be combined with {num_prefix} prefix "
            f"token(s): use average pooling without class_token"
        )
    return grid
