"""Normalisation: LayerNorm over channels, BatchNorm over the 4-D map, and ResMLP's affine map."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# ViT (vit_jax, big_vision) and DeiT (timm) use 1e-6; PyTorch's own default is 1e-5.
LAYER_NORM_EPS = 1e-6


def layer_norm(dim: int, eps: float = LAYER_NORM_EPS) -> nn.LayerNorm:
    """LayerNorm over the channels of each token, eps 1e-6 as in every published ViT and DeiT."""
    return nn.LayerNorm(dim, eps=eps)


def batch_norm(dim: int) -> nn.BatchNorm2d:
    """BatchNorm for (B, C, rows, cols), eps 1e-5, momentum 0.1: PyTorch's defaults and ConvMixer's values."""
    return nn.BatchNorm2d(dim)


class Affine(nn.Module):
    """alpha * x + beta per channel, no statistics (Touvron et al. 2021, ResMLP, equation 1); starts as x."""

    def __init__(self, dim: int) -> None:
        """Start as the identity."""
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift the channels, the last axis."""
        return torch.addcmul(self.beta, self.alpha, x)


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics as they are while a block is computed a second time.

    Activation checkpointing runs each block again in the backward pass; without this the same batch would
    enter the running averages twice. Copies take the second update: setting `track_running_stats` instead
    would save fewer tensors than the first pass did, which checkpointing refuses.
    """
    own = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, nn.BatchNorm2d)
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in own:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in own:
            setattr(norm, name, buffer)
