"""Hybrid ViT: a transformer over patches of a ResNet's feature map (Dosovitskiy et al. 2020, section 3.1).

    x -> BiT ResNet -> patches of its map -> [cls; patches] + positions -> ViT blocks -> norm -> cls -> logits

Sizes: R50+B/16 (stages 3, 4, 9; the paper moves stage 4 into stage 3), R50+L/32 (3, 4, 6, 3), R26+S/32 and
R26+B/32 (2, 2, 2, 2), R+Ti/16 (the root alone, patches of 8); Steiner et al. 2021 (AugReg) trained the last
four. Parameters at 224 and 1000 classes: R50+B/16 98,659,112, R50+L/32 328,994,856, R26+S/32 36,431,912,
R26+B/32 101,383,976.
"""

from __future__ import annotations

from torch import nn

from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, attention_block, drop_path_rates
from isopatch.nn.checks import positive
from isopatch.nn.head import Head
from isopatch.nn.norms import layer_norm
from isopatch.nn.pool import TokenPool
from isopatch.nn.position import LearnedPositions
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.resnet_stem import ResNetStem, StandardConv, hybrid_grid, reduction
from isopatch.nn.skeleton import Isotropic

Layers = tuple[int, ...]


def hybrid(
    *,
    dim: int,
    depth: int,
    num_heads: int,
    layers: Layers,
    image_size: int | tuple[int, int],
    patch_size: int = 1,
    num_classes: int = 1000,
    in_channels: int = 3,
    mlp_ratio: float = 4.0,
    activation: Activation = "gelu",
    pre_logits: bool = False,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Isotropic:
    """Build a hybrid ViT.

    layers: bottlenecks per ResNet stage, 0 to 4 numbers. patch_size: of the feature map, 1 in all but
    R+Ti/16. The other arguments are `vit`'s.
    Initialisation: Google's for the transformer, He-normal for the ResNet.
    """
    positive(dim=dim, depth=depth, num_heads=num_heads, in_channels=in_channels)
    grid = hybrid_grid(image_size, patch_size, reduction(layers))
    model = Isotropic(
        stem=ResNetStem(in_channels, dim, patch_size, layers=layers),
        prefix=PrefixTokens(dim),
        position=LearnedPositions(grid, dim, prefix_entries=1, dropout=dropout),
        blocks=[
            attention_block(
                dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=rate,
            )
            for rate in drop_path_rates(drop_path, depth, drop_path_schedule)
        ],
        norm=layer_norm(dim),
        pool=TokenPool(num_prefix=1),
        heads={"cls": Head(dim, num_classes, pre_logits=pre_logits)},
    )
    initialise.jax(model)
    for module in model.modules():
        if isinstance(module, StandardConv):
            nn.init.kaiming_normal_(module.weight)  # standardised anyway: only its direction counts
    return model


def no_weight_decay(model: Isotropic) -> set[str]:
    """Positions and the class token, beside biases and 1-D tensors."""
    return initialise.no_decay(model)
