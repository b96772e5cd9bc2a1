"""Parts of isotropic models inside a comparator, which hands maps (B, C, rows, cols) from part to part.

Tokens are a channels_last map seen otherwise (layout.py), so the way there and back copies nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.layout import as_map, as_tokens
from isopatch.nn.norms import layer_norm


class OnMap(nn.Module):
    """A block of tokens, (tokens, grid) -> tokens, as a block of maps (B, C, rows, cols)."""

    def __init__(self, block: nn.Module) -> None:
        """block: any block of an isotropic model; one tied to a grid stays tied to it."""
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on the map's places; a channels_last map is not copied."""
        grid = (x.shape[2], x.shape[3])
        return as_map(self.block(as_tokens(x), grid), grid)


class StemOnMap(nn.Module):
    """A stem of an isotropic model, x -> (tokens, grid), that returns the map instead."""

    def __init__(self, stem: nn.Module) -> None:
        """stem: any stem."""
        super().__init__()
        self.patches = stem

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, C, rows, cols)."""
        tokens, grid = self.patches(x)
        return as_map(tokens, grid)


class NormOnMap(nn.Module):
    """LayerNorm over the channels of each place of a map."""

    def __init__(self, dim: int, eps: float) -> None:
        """Build the norm."""
        super().__init__()
        self.norm = layer_norm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map (B, C, rows, cols); the places stay apart."""
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed
