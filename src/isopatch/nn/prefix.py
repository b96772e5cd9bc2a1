"""Prefix tokens: learned vectors without a place on the grid, always first in the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PrefixTokens(nn.Module):
    """The class token and, for DeiT's distillation, a second one right after it.

    Dosovitskiy et al. 2020, equation 1; Touvron et al. 2021, section 4. The architecture initialises both.
    """

    def __init__(self, dim: int, *, distillation: bool = False) -> None:
        """Create one token, or two with `distillation`."""
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if distillation else None

    @property
    def num_tokens(self) -> int:
        """How many tokens stand before the patches."""
        return 1 if self.dist_token is None else 2

    def forward(self, batch_size: int) -> Tensor:
        """Return the tokens for a batch, (B, P, C)."""
        if self.dist_token is None:
            return self.cls_token.expand(batch_size, -1, -1)
        return torch.cat((self.cls_token, self.dist_token), dim=1).expand(batch_size, -1, -1)
