"""ViT: a plain transformer over patches (Dosovitskiy et al. 2020, arXiv 2010.11929).

    x -> patches -> [cls; patches] + positions -> depth x (attention, MLP) -> norm -> class token -> logits

Sizes (dim, depth, heads): Ti 192/12/3, S 384/12/6, B 768/12/12, L 1024/24/16, H 1280/32/16; MLP 4 x dim.
Ti and S come from DeiT and Steiner et al. 2021 (AugReg). Parameters at 224 and 1000 classes, equal to
vit_jax's: Ti/16 5,717,416, S/16 22,050,664, B/16 86,567,656, L/16 304,326,632, H/14 632,045,800.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from isopatch.errors import UsageError
from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, attention_block, drop_path_rates
from isopatch.nn.checks import finite, positive
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid
from isopatch.nn.norms import LAYER_NORM_EPS, layer_norm
from isopatch.nn.pool import MeanPool, TokenPool
from isopatch.nn.position import LearnedAxisPositions, LearnedPositions, NoPositions, SinCosPositions
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.relative_bias import RelativeBias
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import NormedPatchStem, PatchStem, patch_grid

Position = Literal["learned", "learned-2d", "sincos-2d", "relative", "none"]
Pool = Literal["class", "norm-mean", "mean-norm"]
Init = Literal["timm", "deit", "jax", "pytorch"]


def vit(
    *,
    dim: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    activation: Activation = "gelu",
    position: Position = "learned",
    class_token: bool = True,
    class_position: bool = True,
    pool: Pool = "class",
    pre_logits: bool = False,
    layer_scale: float | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
    patch_norm: bool = False,
    norm_eps: float = LAYER_NORM_EPS,
    init: Init = "timm",
    head_bias: float = 0.0,
) -> Isotropic:
    """Build a ViT.

    activation: "gelu" (erf) in timm and DeiT; Google trained its weights with "gelu_tanh".
    position: "learned" one vector per place; "learned-2d" one per column and one per row; "sincos-2d" fixed;
        "relative" a bias per head on the attention logits (Swin's form); "none".
    class_position: whether the class token has an entry in the "learned" table (ViT, DeiT: yes).
    pool: "class" the class token after the norm; "norm-mean" norm, then the mean of the patches
        (big_vision); "mean-norm" the mean, then the norm (timm's fc_norm).
    pre_logits: a dense layer and tanh before the classifier, as in ImageNet-21k pretraining.
    layer_scale: initial factor of each residual branch; None: no factors.
    dropout: after the positions, the attention projection and both MLP layers (as vit_jax).
    drop_path: rate of the last block (schedule "linear" from 0) or of all ("constant").
    patch_norm: LayerNorm before and after the patch projection (vit-pytorch, with norm_eps 1e-5, qkv_bias
        false and init "pytorch").
    init: "timm" and "deit" truncated normal 0.02 (they differ in the class token), "jax" Google's,
        "pytorch" PyTorch's defaults with tokens and positions normal 1 (vit-pytorch).
    head_bias: initial bias of the classifier: -10 in ViT's 21k pretraining, -6.9 in big_vision's on 1k.
    Raises UsageError naming both sides where the arguments do not fit together.
    """
    positive(dim=dim, depth=depth, num_heads=num_heads, in_channels=in_channels)
    finite(head_bias=head_bias, mlp_ratio=mlp_ratio, norm_eps=norm_eps)
    if pool == "class" and not class_token:
        raise UsageError("pool 'class' reads the class token, class_token is false: use pool 'norm-mean'")
    grid = patch_grid(image_size, patch_size)
    num_prefix = 1 if class_token else 0
    blocks = [
        attention_block(
            dim,
            num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            activation=activation,
            dropout=dropout,
            attention_dropout=attention_dropout,
            drop_path=rate,
            layer_scale=layer_scale,
            norm_eps=norm_eps,
            relative_bias=RelativeBias(grid, num_heads, num_prefix=num_prefix)
            if position == "relative"
            else None,
        )
        for rate in drop_path_rates(drop_path, depth, drop_path_schedule)
    ]
    model = Isotropic(
        stem=NormedPatchStem(in_channels, dim, patch_size, norm_eps=norm_eps)
        if patch_norm
        else PatchStem(in_channels, dim, patch_size),
        prefix=PrefixTokens(dim) if class_token else None,
        position=make_positions(
            position, grid, dim, prefix_entries=1 if class_token and class_position else 0, dropout=dropout
        ),
        blocks=blocks,
        norm=layer_norm(dim, norm_eps),
        pool=TokenPool(num_prefix=num_prefix)
        if pool == "class"
        else MeanPool(num_prefix=num_prefix, norm_first=pool == "norm-mean"),
        heads={"cls": Head(dim, num_classes, pre_logits=pre_logits)},
    )
    if init == "jax":
        initialise.jax(model)
    elif init == "pytorch":
        initialise.normal_tokens(model, std=1.0)
    else:
        initialise.truncated_normal(model, cls_std=0.02 if init == "deit" else 1e-6)
    for head in model.heads.values():
        assert isinstance(head, Head)
        if init != "pytorch" or head_bias:
            nn.init.constant_(head.linear.bias, head_bias)
    return model


def no_weight_decay(model: Isotropic) -> set[str]:
    """Names spared from weight decay beside biases and 1-D tensors: positions and the class token."""
    return initialise.no_decay(model)


def make_positions(
    position: Position, grid: Grid, dim: int, *, prefix_entries: int, dropout: float
) -> nn.Module:
    """Build the position module of a name."""
    if position == "learned":
        return LearnedPositions(grid, dim, prefix_entries=prefix_entries, dropout=dropout)
    if position == "learned-2d":
        return LearnedAxisPositions(grid, dim, dropout=dropout)
    if position == "sincos-2d":
        return SinCosPositions(grid, dim, dropout=dropout)
    assert position in ("relative", "none"), position
    return NoPositions(dropout=dropout)
