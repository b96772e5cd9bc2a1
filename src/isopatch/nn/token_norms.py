"""Norms in the other layout: BatchNorm for tokens, LayerNorm and affine maps for feature maps.

tokens (B, N, C), maps (B, C, rows, cols); parameter names are those of the norm itself.
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.layout import as_map, as_tokens
from isopatch.nn.norms import Affine


class TokenBatchNorm(nn.BatchNorm2d):
    """BatchNorm over all tokens of all pictures, prefix tokens included; PyTorch's defaults.

    Runs on the 4-D channels_last view, without a copy.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Norm tokens (B, N, C)."""
        return as_tokens(super().forward(as_map(input, (1, input.shape[1]))))


class MapLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place of a map."""

    def forward(self, input: Tensor) -> Tensor:
        """Norm a map (B, C, rows, cols)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MapAffine(Affine):
    """ResMLP's scale and shift per channel, of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift a map (B, C, rows, cols)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
