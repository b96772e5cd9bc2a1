"""Initialisations that several architectures share. All draw from torch's global generator.

Linear layers are told apart by the part they belong to, never by a substring of their name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn
from torch.nn import init

from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.classifier import Classifier
from isopatch.nn.head import Head
from isopatch.nn.position import LearnedAxisPositions, LearnedPositions
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.relative_bias import RelativeBias
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.token_mixers import Attention


def prefix_tokens(model: Classifier) -> PrefixTokens | None:
    """Return the prefix tokens of an isotropic model that has some; a pyramid has none."""
    return model.prefix if isinstance(model, Isotropic) else None


def position_parameters(model: Classifier) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) of every learned position: tables, axis tables and relative biases."""
    for name, module in model.named_modules():
        if isinstance(module, LearnedPositions | LearnedAxisPositions | RelativeBias):
            yield from module.named_parameters(prefix=name, recurse=False)


def truncated_normal(model: Classifier, *, cls_std: float, std: float = 0.02) -> None:
    """DeiT's and timm's initialisation.

    Linear weights, positions and the distillation token: normal `std`, cut at the absolute values -2 and 2
    (100 standard deviations, so in effect not cut); biases 0; LayerNorm 1 and 0; patch convolution: PyTorch's
    default. cls_std: 0.02 in DeiT, 1e-6 in timm's ViT. Source: facebookresearch/deit and timm.
    """
    linear_layers(model, std=std)
    for _, parameter in position_parameters(model):
        init.trunc_normal_(parameter, std=std)
    if (prefix := prefix_tokens(model)) is not None:
        init.trunc_normal_(prefix.cls_token, std=cls_std)
        if prefix.dist_token is not None:
            init.trunc_normal_(prefix.dist_token, std=std)


def linear_layers(model: nn.Module, *, std: float = 0.02) -> None:
    """Linear weights normal `std`, cut as in `truncated_normal`; biases 0. Everything else stays."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)


def jax(model: Classifier) -> None:
    """The initialisation of Google's ViT (vit_jax `models_vit.py`), layer by layer.

    Dense: Xavier-uniform (q, k and v each on their own), bias 0; MLP bias normal 1e-6; patch convolution
    LeCun-normal, bias 0; positions normal 0.02; class token 0; classifier weight and bias 0.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            for part in module.qkv.weight.chunk(3):
                bound = math.sqrt(6 / (part.shape[0] + part.shape[1]))
                init.uniform_(part, -bound, bound)
            if module.qkv.bias is not None:
                init.zeros_(module.qkv.bias)
            init.xavier_uniform_(module.proj.weight)
            init.zeros_(module.proj.bias)
        elif isinstance(module, Mlp):
            xavier_mlp(module.fc1, module.fc2)
        elif isinstance(module, Head):
            init.zeros_(module.linear.weight)
            init.zeros_(module.linear.bias)
            if module.pre_logits is not None:
                # Flax's Dense default: LeCun-normal, bias 0.
                lecun_normal(module.pre_logits)
        elif isinstance(module, nn.Conv2d):
            lecun_normal(module)
    for _, parameter in position_parameters(model):
        init.normal_(parameter, std=0.02)
    if (prefix := prefix_tokens(model)) is not None:
        init.zeros_(prefix.cls_token)


def xavier_mlp(*layers: nn.Linear) -> None:
    """Xavier-uniform weights, biases normal 1e-6 (the MLPs of vit_jax and of timm's gMLP)."""
    for layer in layers:
        init.xavier_uniform_(layer.weight)
        init.normal_(layer.bias, std=1e-6)


def normal_tokens(model: Classifier, *, std: float) -> None:
    """Positions and prefix tokens normal; layers keep PyTorch's defaults.

    std: 1 in lucidrains/vit-pytorch.
    """
    for _, parameter in position_parameters(model):
        init.normal_(parameter, std=std)
    if (prefix := prefix_tokens(model)) is not None:
        for token in prefix.parameters():
            init.normal_(token, std=std)


def flax(model: Classifier) -> None:
    """Flax's defaults: LeCun-normal weights, biases 0; classifier weights 0 (Google's MLP-Mixer)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            lecun_normal(module)
    zero_classifiers(model)


def zero_classifiers(model: Classifier) -> None:
    """Set every classifier's weight and bias to 0."""
    for head in model.heads.values():
        assert isinstance(head, Head)
        init.zeros_(head.linear.weight)
        init.zeros_(head.linear.bias)


def lecun_normal(layer: nn.Linear | nn.Conv2d) -> None:
    """Flax's default: normal with variance 1 / fan-in, cut at two standard deviations; bias 0."""
    fan_in = layer.weight[0].numel()
    std = math.sqrt(1 / fan_in) / 0.87962566103423978  # the deviation that cutting at 2 takes away
    init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        init.zeros_(layer.bias)


def no_decay(model: Classifier) -> set[str]:
    """Positions and prefix tokens: what ViT and DeiT spare from weight decay beside biases and 1-D tensors.

    deit: pos_embed, cls_token; timm today: dist_token too. Relative biases are spared as Swin does.
    """
    names = {name for name, _ in position_parameters(model)}
    if (prefix := prefix_tokens(model)) is not None:
        names |= {name for name, _ in prefix.named_parameters(prefix="prefix")}
    return names
