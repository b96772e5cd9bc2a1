"""Isotropic MobileNetV3: inverted residuals at one resolution (Sandler et al. 2019, arXiv 1909.03205).

    x -> patches -> BatchNorm -> hard-swish
      -> depth x ( x + project(SE(depthwise(expand(x)))) ) -> mean -> logits
    expand: 1 x 1, BatchNorm, hard-swish; depthwise: k x k, BatchNorm, hard-swish;
    SE: squeeze and excite with a hard sigmoid; project: 1 x 1, BatchNorm, no activation

The block is MobileNetV3's (Howard et al. 2019, section 5), the isotropic arrangement that of the paper above.
The ConvMixer paper compares with it; its figures (20M parameters, top-1 80.6 with patches of 8, 77.6 with 16)
are unverified, and no weights are published.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.nn.block import DropPathSchedule, drop_path_rates
from isopatch.nn.block import drop_path as drop_branch
from isopatch.nn.checks import positive, probability
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid, as_map, as_tokens
from isopatch.nn.norms import batch_norm
from isopatch.nn.pool import MeanPool
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.token_mixers import same_depthwise


class SqueezeExcite(nn.Module):
    """Scale every channel by a hard sigmoid of an MLP over the channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        """hidden: width between the two 1 x 1 convolutions."""
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, kernel_size=1)
        self.expand = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale a map (B, C, rows, cols)."""
        scale = x.mean(dim=(2, 3), keepdim=True)
        # Written out: the derivative of F.hardsigmoid is a float32 number even in float64 (torch 2.13).
        scale = F.relu6(self.expand(F.relu(self.reduce(scale))) + 3) / 6
        return x * scale


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite, project, with a skip around all of it."""

    def __init__(
        self, dim: int, hidden: int, kernel_size: int, *, squeeze: int | None, drop_path: float = 0.0
    ) -> None:
        """hidden: expanded width. squeeze: hidden width of squeeze and excite, None for none."""
        super().__init__()
        probability(drop_path=drop_path)
        self.expand = nn.Conv2d(dim, hidden, kernel_size=1, bias=False)
        self.expand_norm = batch_norm(hidden)
        self.pad, self.depthwise = same_depthwise(hidden, kernel_size, bias=False)
        self.depthwise_norm = batch_norm(hidden)
        self.squeeze = nn.Identity() if squeeze is None else SqueezeExcite(hidden, squeeze)
        self.project = nn.Conv2d(hidden, dim, kernel_size=1, bias=False)
        self.project_norm = batch_norm(dim)
        self.drop_path = drop_path

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places and channels."""
        skip = as_map(tokens, grid)
        x = F.hardswish(self.expand_norm(self.expand(skip)))
        x = F.hardswish(self.depthwise_norm(self.depthwise(self.pad(x))))
        x = self.project_norm(self.project(self.squeeze(x)))
        if self.training and self.drop_path > 0:
            x = drop_branch(x, self.drop_path)
        return as_tokens(skip + x)


def mobilenet_v3(
    *,
    dim: int,
    depth: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    kernel_size: int = 5,
    expansion: float = 6.0,
    squeeze_ratio: float | None = 0.25,
    num_classes: int = 1000,
    in_channels: int = 3,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Isotropic:
    """Build an isotropic MobileNetV3.

    expansion: width inside a block, as a multiple of dim. squeeze_ratio: hidden width of squeeze and excite,
    as a part of the expanded width; None leaves it out.
    Initialisation: He-normal over fan-out for convolutions, normal 0.01 for the classifier (torchvision's).
    """
    positive(dim=dim, depth=depth, kernel_size=kernel_size, patch_size=patch_size, in_channels=in_channels)
    patch_grid(image_size, patch_size, exact=False)
    hidden = int(dim * expansion)
    squeeze = None if squeeze_ratio is None else max(1, int(hidden * squeeze_ratio))
    model = Isotropic(
        stem=PatchStem(
            in_channels, dim, patch_size, exact=False, norm=nn.Sequential(batch_norm(dim), nn.Hardswish())
        ),
        blocks=[
            InvertedResidual(dim, hidden, kernel_size, squeeze=squeeze, drop_path=rate)
            for rate in drop_path_rates(drop_path, depth, drop_path_schedule)
        ],
        norm=nn.Identity(),
        pool=MeanPool(),
        heads={"cls": Head(dim, num_classes)},
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return model


def no_weight_decay(model: Isotropic) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
