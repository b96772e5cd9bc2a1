"""Activation functions by the field's names."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["gelu", "gelu_tanh", "relu"]


def make_activation(name: Activation) -> nn.Module:
    """Build an activation.

    "gelu" is exact (erf), as in DeiT, timm and ConvMixer; "gelu_tanh" is Flax's default approximation, with
    which Google's ViT weights were trained; "relu" is what the published ConvMixer-768/32 needs.
    """
    if name == "gelu":
        return nn.GELU()
    if name == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    assert name == "relu", name
    return nn.ReLU()
