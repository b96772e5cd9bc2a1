"""ResMLP: a linear map over places and an MLP over channels, no norm (Touvron et al. 2021, arXiv 2105.03404).

    x -> patches -> depth x ( x + s1 * A(Aff(x)^T)^T -> x + s2 * MLP(Aff(x)) ) -> Aff -> mean -> logits

Aff is a scale and a shift per channel without statistics, s1 and s2 are layer scales. Sizes (dim, depth):
S12 384/12, S24 384/24, S36 384/36, B24 768/24; patches of 16, 14 and 8. Layer scale starts at 0.1 for depth
12, 1e-5 for 24, 1e-6 for 36 and B24 (authors' code). Top-1 (paper, table 3): S12 76.6, S24 79.4, B24 81.0.
"""

from __future__ import annotations

from torch import nn

from isopatch.models import initialise
from isopatch.nn.block import DropPathSchedule, ResidualBranch, TwoStepBlock, drop_path_rates
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import positive
from isopatch.nn.head import Head
from isopatch.nn.norms import Affine
from isopatch.nn.pool import MeanPool
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.token_mlp import TokenLinear


def resmlp(
    *,
    dim: int,
    depth: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    mlp_ratio: float = 4.0,
    layer_scale: float | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "constant",
) -> Isotropic:
    """Build a ResMLP, tied to the grid of `image_size`.

    layer_scale: initial factor of both branches; None chooses the authors' by depth and width: 0.1 up to
        depth 18, 1e-5 up to 24, 1e-6 beyond and for dim 768 and above.
    drop_path: the same in every block, as in the authors' code.
    Initialisation: truncated normal 0.02 for linear weights, biases 0, patch convolution PyTorch's default.
    """
    positive(dim=dim, depth=depth, in_channels=in_channels)
    grid = patch_grid(image_size, patch_size)
    scale = default_layer_scale(dim, depth) if layer_scale is None else layer_scale

    def block(rate: float) -> nn.Module:
        mlp = Mlp(dim, int(dim * mlp_ratio), dropout=dropout)
        return TwoStepBlock(
            ResidualBranch(Affine(dim), TokenLinear(grid), dim=dim, layer_scale=scale, drop_path=rate),
            ResidualBranch(Affine(dim), mlp, dim=dim, layer_scale=scale, drop_path=rate),
        )

    model = Isotropic(
        stem=PatchStem(in_channels, dim, patch_size),
        blocks=[block(rate) for rate in drop_path_rates(drop_path, depth, drop_path_schedule)],
        norm=Affine(dim),
        pool=MeanPool(),
        heads={"cls": Head(dim, num_classes)},
    )
    initialise.truncated_normal(model, cls_std=0.02)
    return model


def default_layer_scale(dim: int, depth: int) -> float:
    """The authors' initial layer scale (facebookresearch/deit, resmlp_models.py)."""
    if depth > 24 or dim >= 768:
        return 1e-6
    return 0.1 if depth <= 18 else 1e-5


def no_weight_decay(model: Isotropic) -> set[str]:
    """Nothing beside biases and 1-D tensors, affine maps and layer scales among them."""
    return set()
