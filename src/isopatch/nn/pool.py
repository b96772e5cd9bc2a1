"""Pools turn tokens (B, N, C) into one feature per head (B, H, C). They own where the norm is applied."""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.errors import UsageError


class TokenPool(nn.Module):
    """Norm, then the first `num_outputs` prefix tokens, one per head (ViT, DeiT)."""

    def __init__(self, num_outputs: int = 1, *, num_prefix: int) -> None:
        """Refuse to read prefix tokens that are not there."""
        super().__init__()
        if num_prefix < num_outputs:
            raise UsageError(
                f"class-token pooling reads {num_outputs} prefix token(s), the sequence has {num_prefix}: "
                f"use class_token with it, or average pooling"
            )
        self.num_outputs = num_outputs

    def forward(self, tokens: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """Return (final tokens (B, N, C), features (B, H, C))."""
        tokens = norm(tokens)
        return tokens, tokens[:, : self.num_outputs]


class MeanPool(nn.Module):
    """The mean of the patch tokens; prefix tokens are left out.

    norm_first: norm every token and average (big_vision, the JAX models); otherwise average, then norm
    (timm's `fc_norm`). Both exist in published weights and they are not the same function.
    """

    def __init__(self, *, num_prefix: int = 0, norm_first: bool = True) -> None:
        """Set the order; the norm itself belongs to the skeleton."""
        super().__init__()
        self.num_outputs = 1
        self.num_prefix = num_prefix
        self.norm_first = norm_first

    def forward(self, tokens: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """Return (final tokens (B, N, C), features (B, 1, C)); with norm last the tokens stay un-normed."""
        if self.norm_first:
            tokens = norm(tokens)
        features = tokens[:, self.num_prefix :].mean(dim=1, keepdim=True)
        return tokens, features if self.norm_first else norm(features)
