"""Blocks: (tokens (B, N, C), grid) -> tokens of the same shape. The unit in which architectures differ."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from isopatch.nn.activations import Activation
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import finite, positive, probability
from isopatch.nn.layout import Grid
from isopatch.nn.norms import LAYER_NORM_EPS, layer_norm
from isopatch.nn.relative_bias import RelativeBias
from isopatch.nn.token_mixers import Attention

DropPathSchedule = Literal["linear", "constant"]


def drop_path(branch: Tensor, rate: float) -> Tensor:
    """Zero whole samples of a residual branch with probability `rate`; divide the others by 1 - rate.

    Stochastic depth (Huang et al. 2016), drawn per sample as in DeiT; big_vision does not divide.
    """
    keep = 1 - rate
    kept = branch.new_empty((branch.shape[0],) + (1,) * (branch.dim() - 1)).bernoulli_(keep)
    return branch * kept.div_(keep)


def drop_path_rates(rate: float, depth: int, schedule: DropPathSchedule) -> list[float]:
    """Return the rate of each block.

    "linear" rises from 0 in the first block to `rate` in the last (DeiT); "constant" is `rate` everywhere
    (DeiT III).
    """
    probability(drop_path=rate)
    if schedule == "constant" or depth == 1:
        return [rate] * depth
    return [rate * index / (depth - 1) for index in range(depth)]


class ResidualBranch(nn.Module):
    """tokens + drop_path(scale * mixer(norm(tokens), grid)).

    layer_scale: initial value of one learned factor per channel (Touvron et al. 2021, CaiT); None: none.
    drop_path: rate in [0, 1), in training only.
    """

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        *,
        dim: int,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        """Wrap one mixer."""
        super().__init__()
        probability(drop_path=drop_path)
        if layer_scale is not None:
            finite(layer_scale=layer_scale)
        self.norm = norm
        self.mixer = mixer
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.drop_path = drop_path

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Add the branch to the tokens."""
        branch: Tensor = self.mixer(self.norm(tokens), grid)
        if self.scale is not None:
            branch = branch * self.scale
        if self.training and self.drop_path > 0:
            branch = drop_path(branch, self.drop_path)
        return tokens + branch


class TwoStepBlock(nn.Module):
    """A token-mixing step, then a channel-mixing step."""

    def __init__(self, token: nn.Module, channel: nn.Module) -> None:
        """token, channel: usually two `ResidualBranch`es."""
        super().__init__()
        self.token = token
        self.channel = channel

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix tokens, then channels."""
        mixed: Tensor = self.channel(self.token(tokens, grid), grid)
        return mixed


def attention_block(
    dim: int,
    num_heads: int,
    *,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    activation: Activation = "gelu",
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    layer_scale: float | None = None,
    relative_bias: RelativeBias | None = None,
    norm_eps: float = LAYER_NORM_EPS,
) -> TwoStepBlock:
    """Build the pre-norm transformer block of ViT and DeiT (Dosovitskiy et al. 2020, equations 2 and 3)."""
    positive(dim=dim)
    attention = Attention(
        dim,
        num_heads,
        qkv_bias=qkv_bias,
        dropout=attention_dropout,
        projection_dropout=dropout,
        relative_bias=relative_bias,
    )
    mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation, dropout=dropout)
    return TwoStepBlock(
        ResidualBranch(
            layer_norm(dim, norm_eps), attention, dim=dim, layer_scale=layer_scale, drop_path=drop_path
        ),
        ResidualBranch(layer_norm(dim, norm_eps), mlp, dim=dim, layer_scale=layer_scale, drop_path=drop_path),
    )
