"""Tokens and feature maps: two views of one piece of memory.

B pictures, N tokens, C channels; a grid is (rows, cols). Patch tokens (B, N, C) in memory order are exactly a
(B, C, rows, cols) map in PyTorch's channels_last format, so going from one to the other copies nothing.
"""

from __future__ import annotations

from torch import Tensor

from isopatch.errors import UsageError

Grid = tuple[int, int]


def as_map(tokens: Tensor, grid: Grid) -> Tensor:
    """View patch tokens (B, rows * cols, C) as a channels_last map (B, C, rows, cols).

    Raises UsageError when the tokens are not exactly the grid's: prefix tokens have no place on a map.
    """
    if tokens.shape[1] != grid[0] * grid[1]:
        raise UsageError(
            f"{tokens.shape[1]} tokens are not the {grid[0]} x {grid[1]} patches of a map: a convolution "
            f"over the grid cannot be combined with prefix tokens"
        )
    # Not transpose and view: of a single picture that makes a batch stride that PyTorch does not take for
    # channels_last, and for which its BatchNorm returns wrong gradients (2.13, CPU).
    return tokens.view(tokens.shape[0], *grid, tokens.shape[2]).permute(0, 3, 1, 2)


def as_tokens(feature_map: Tensor) -> Tensor:
    """View a channels_last map (B, C, rows, cols) as contiguous tokens (B, rows * cols, C).

    A map in another memory format is copied once.
    """
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2).contiguous()
