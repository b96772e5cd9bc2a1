"""MLP-Mixer: an MLP over places, then an MLP over channels (Tolstikhin et al. 2021, arXiv 2105.01601).

    x -> patches -> depth x ( x + tokenMLP(norm(x)^T)^T -> x + channelMLP(norm(x)) ) -> norm -> mean -> logits

Sizes (paper, table 1; dim, depth): S 512/8, B 768/12, L 1024/24, H 1280/32; the token MLP's hidden width is
dim / 2, the channel MLP's 4 dim. No positions, no prefix.
Top-1 at 224: B/16 76.44, L/16 71.76 (paper, table 3, from ImageNet-1k alone).
"""

from __future__ import annotations

from torch import nn

from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, ResidualBranch, TwoStepBlock, drop_path_rates
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import positive
from isopatch.nn.head import Head
from isopatch.nn.norms import layer_norm
from isopatch.nn.pool import MeanPool
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.token_mlp import TokenMlp


def mlp_mixer(
    *,
    dim: int,
    depth: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    token_ratio: float = 0.5,
    mlp_ratio: float = 4.0,
    activation: Activation = "gelu",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Isotropic:
    """Build an MLP-Mixer, tied to the grid of `image_size`.

    token_ratio, mlp_ratio: hidden widths of the token and the channel MLP, as multiples of dim.
    activation: "gelu" (erf) as timm runs it; Google trained its weights with "gelu_tanh".
    drop_path: rate of the last block, rising from 0 (big_vision), or of all with "constant" (timm).
    Initialisation: Flax's defaults (LeCun-normal, biases 0), classifier 0, as in Google's code.
    """
    positive(dim=dim, depth=depth, in_channels=in_channels)
    grid = patch_grid(image_size, patch_size)

    def block(rate: float) -> nn.Module:
        token = TokenMlp(grid, int(dim * token_ratio), activation=activation, dropout=dropout)
        channel = Mlp(dim, int(dim * mlp_ratio), activation=activation, dropout=dropout)
        return TwoStepBlock(
            ResidualBranch(layer_norm(dim), token, dim=dim, drop_path=rate),
            ResidualBranch(layer_norm(dim), channel, dim=dim, drop_path=rate),
        )

    model = Isotropic(
        stem=PatchStem(in_channels, dim, patch_size),
        blocks=[block(rate) for rate in drop_path_rates(drop_path, depth, drop_path_schedule)],
        norm=layer_norm(dim),
        pool=MeanPool(),
        heads={"cls": Head(dim, num_classes)},
    )
    initialise.flax(model)
    return model


def no_weight_decay(model: Isotropic) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
