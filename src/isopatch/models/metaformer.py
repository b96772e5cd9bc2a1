"""Isotropic MetaFormer: ViT's block, its token mixer learns nothing (Yu et al. 2022, arXiv 2111.11418).

    x -> patches -> depth x ( x + mix(norm(x)) -> x + MLP(norm(x)) ) -> norm -> mean -> logits

mix is a 3 x 3 mean minus the token (PoolFormer), the identity (IdentityFormer) or a fixed random map
(RandFormer; both Yu et al. 2022b, arXiv 2210.13452). The papers' models are pyramids; these are their
isotropic form, controls for the question what token mixing contributes. There are no published weights.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, ResidualBranch, TwoStepBlock, drop_path_rates
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import positive
from isopatch.nn.fixed_mixers import IdentityMixer, PoolMixer, RandomMixer
from isopatch.nn.head import Head
from isopatch.nn.norms import layer_norm
from isopatch.nn.pool import MeanPool
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid

TokenMixer = Literal["pool", "identity", "random"]


def metaformer(
    *,
    dim: int,
    depth: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    token_mixer: TokenMixer = "pool",
    kernel_size: int = 3,
    num_classes: int = 1000,
    in_channels: int = 3,
    mlp_ratio: float = 4.0,
    activation: Activation = "gelu",
    layer_scale: float | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Isotropic:
    """Build an isotropic MetaFormer without positions.

    token_mixer: "pool", "identity" or "random" (tied to the grid of image_size). kernel_size: of the pooling.
    Initialisation: truncated normal 0.02, as PoolFormer.
    """
    positive(dim=dim, depth=depth, in_channels=in_channels)
    grid = patch_grid(image_size, patch_size)

    def mixer() -> nn.Module:
        if token_mixer == "pool":
            return PoolMixer(kernel_size)
        return RandomMixer(grid) if token_mixer == "random" else IdentityMixer()

    def block(rate: float) -> nn.Module:
        mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation, dropout=dropout)
        return TwoStepBlock(
            ResidualBranch(layer_norm(dim), mixer(), dim=dim, layer_scale=layer_scale, drop_path=rate),
            ResidualBranch(layer_norm(dim), mlp, dim=dim, layer_scale=layer_scale, drop_path=rate),
        )

    model = Isotropic(
        stem=PatchStem(in_channels, dim, patch_size),
        blocks=[block(rate) for rate in drop_path_rates(drop_path, depth, drop_path_schedule)],
        norm=layer_norm(dim),
        pool=MeanPool(),
        heads={"cls": Head(dim, num_classes)},
    )
    initialise.truncated_normal(model, cls_std=0.02)
    return model


def no_weight_decay(model: Isotropic) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
