"""DeiT: ViT trained on ImageNet-1k alone, plain or with a distillation token (arXiv 2012.12877).

    x -> patches -> [cls; dist; patches] + positions -> depth x (attention, MLP) -> norm
      -> cls -> logits                  (the labels' head)
      -> dist -> logits                 (the teacher's head; inference averages both heads' logits)

Sizes (dim, depth, heads): Ti 192/12/3, S 384/12/6, B 768/12/12, head dim 64 everywhere. Parameters: Ti
5,717,416, S 22,050,664, B 86,567,656; distilled 5,910,800, 22,436,432, 87,338,192. Top-1 in the
authors' own evaluation (crop 0.875): 72.202, 79.854, 81.846; distilled 74.476, 81.164, 83.372; base at 384
82.890 and 85.224.
"""

from __future__ import annotations

from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, attention_block, drop_path_rates
from isopatch.nn.checks import positive
from isopatch.nn.head import Head
from isopatch.nn.norms import LAYER_NORM_EPS, layer_norm
from isopatch.nn.pool import TokenPool
from isopatch.nn.position import LearnedPositions
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid


def deit(
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
    norm_eps: float = LAYER_NORM_EPS,
    distilled: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Isotropic:
    """Build a DeiT.

    norm_eps: transformers runs DeiT's weights with 1e-12, the authors with 1e-6.
    distilled: add the distillation token (second, with its own position) and its head "dist".
    drop_path: rate of the last block; the paper's recipe uses 0.1, rising linearly from 0.
    Initialisation: truncated normal 0.02 for linear weights, both tokens and positions; biases 0.
    Raises UsageError naming both sides where the arguments do not fit together.
    """
    positive(dim=dim, depth=depth, num_heads=num_heads, in_channels=in_channels)
    grid = patch_grid(image_size, patch_size)
    prefix = PrefixTokens(dim, distillation=distilled)
    names = ("cls", "dist") if distilled else ("cls",)
    model = Isotropic(
        stem=PatchStem(in_channels, dim, patch_size),
        prefix=prefix,
        position=LearnedPositions(grid, dim, prefix_entries=prefix.num_tokens, dropout=dropout),
        blocks=[
            attention_block(
                dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                activation=activation,
                norm_eps=norm_eps,
                dropout=dropout,
                drop_path=rate,
            )
            for rate in drop_path_rates(drop_path, depth, drop_path_schedule)
        ],
        norm=layer_norm(dim, norm_eps),
        pool=TokenPool(len(names), num_prefix=prefix.num_tokens),
        heads={name: Head(dim, num_classes) for name in names},
    )
    initialise.truncated_normal(model, cls_std=0.02)
    return model


def deit3(
    *,
    dim: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    mlp_ratio: float = 4.0,
    layer_scale: float = 1e-4,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "constant",
) -> Isotropic:
    """Build a DeiT III (Touvron et al. 2022, arXiv 2204.07118).

    DeiT with layer scale on both branches and positions that have no entry for the class token. Sizes: S
    384/12/6, M 512/12/8, B 768/12/12, L 1024/24/16, H/14 1280/32/16; parameters S 22,059,496, M 38,849,512,
    B 86,585,320, L 304,374,760, H 632,126,440 (timm, torch on the meta device).
    layer_scale: 1e-4 in the authors' `models_v2.py` (timm writes 1e-6; it matters for new training only).
    drop_path: constant over depth: S 0.05, B 0.2, L 0.45, H 0.6 in the authors' README.
    Raises UsageError naming both sides where the arguments do not fit together.
    """
    positive(dim=dim, depth=depth, num_heads=num_heads, in_channels=in_channels)
    grid = patch_grid(image_size, patch_size)
    model = Isotropic(
        stem=PatchStem(in_channels, dim, patch_size),
        prefix=PrefixTokens(dim),
        position=LearnedPositions(grid, dim, prefix_entries=0, dropout=dropout),
        blocks=[
            attention_block(
                dim, num_heads, mlp_ratio=mlp_ratio, dropout=dropout, drop_path=rate, layer_scale=layer_scale
            )
            for rate in drop_path_rates(drop_path, depth, drop_path_schedule)
        ],
        norm=layer_norm(dim),
        pool=TokenPool(num_prefix=1),
        heads={"cls": Head(dim, num_classes)},
    )
    initialise.truncated_normal(model, cls_std=0.02)
    return model


def no_weight_decay(model: Isotropic) -> set[str]:
    """Names spared beside biases and 1-D tensors: positions and both tokens.

    DeiT's own runs decayed the distillation token (timm 0.3.2 did not list it); the optimiser has a switch.
    """
    return initialise.no_decay(model)
