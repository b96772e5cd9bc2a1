"""The run of blocks between stem and head, as one module."""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.layout import Grid
from isopatch.nn.recompute import recomputed


class Blocks(nn.ModuleList):
    """Blocks (tokens, grid) -> tokens, one after another, named by their number.

    A faster twin takes this module's place, holds the same blocks under the same names, and may keep its own
    layout between them; single blocks stay the plain ones, which features at a depth are read from.
    """

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks over tokens (B, N, C). recompute: keep no activations for the backward pass."""
        for block in self:
            tokens = recomputed(block, tokens, grid) if recompute else block(tokens, grid)
        return tokens
