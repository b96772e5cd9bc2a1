"""The convolutional stem of the hybrid ViT: a BiT ResNet whose feature map is cut into patches.

x (B, C_in, H, W) -> root (stride 4) -> stages (stride 1, 2, 2, 2) -> p x p patches -> tokens (B, N, C).
Weight standardisation, GroupNorm with 32 groups, SAME padding as TensorFlow computes it; post-activation
bottlenecks. Dosovitskiy et al. 2020, section 3.1 and appendix B.1; Kolesnikov et al. 2020 (BiT), section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid, as_tokens
from isopatch.nn.stem import ImageSize, as_pair, patch_grid
from isopatch.nn.strided import StridedConv2d, missing_column

GROUPS = 32
# timm's values, which its converted weights are evaluated with. vit_jax adds 1e-5 to the standard deviation
# instead, and its GroupNorm has eps 1e-6; the difference is far below what training noise leaves.
STANDARDISATION_EPS = 1e-8
GROUP_NORM_EPS = 1e-5


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding (before, after) of one axis; the odd pixel goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel_size: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad a map (B, C, H, W) so that a window of `kernel_size` and `stride` gives ceil(size / stride)."""
    top, bottom = same_padding(x.shape[2], kernel_size, stride)
    left, right = same_padding(x.shape[3], kernel_size, stride)
    return F.pad(x, (left, right, top, bottom), value=value) if top + bottom + left + right else x


class StandardConv(nn.Conv2d):
    """A convolution without bias whose filters are standardised over (in, h, w) (Qiao et al. 2019)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        """Build the convolution; padding is worked out from the picture."""
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with zero-mean, unit-variance filters."""
        # Batch normalisation over one "picture" whose channels are the filters: one fused operation, and to
        # the last bit what converted weights were evaluated with.
        filters = self.weight.flatten(1).unsqueeze(0)
        standard = F.batch_norm(filters, None, None, training=True, eps=STANDARDISATION_EPS)
        weight = standard.view_as(self.weight)
        (side, _), (step, _) = self.kernel_size, self.stride
        padded = pad_same(input, side, step)
        more = missing_column(padded.shape[3], side, step)
        mapped = F.conv2d(F.pad(padded, (0, more)) if more else padded, weight, stride=step)
        return mapped[..., :1] if more else mapped


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with BiT's 32 groups."""
    return nn.GroupNorm(GROUPS, channels, eps=GROUP_NORM_EPS)


class Root(nn.Module):
    """7 x 7 convolution of stride 2, norm, ReLU, 3 x 3 max pooling of stride 2."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """Build the root."""
        super().__init__()
        self.conv = StandardConv(in_channels, channels, 7, stride=2)
        self.norm = group_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map at a quarter of the picture's size."""
        x = F.relu(self.norm(self.conv(x)))
        return F.max_pool2d(pad_same(x, 3, 2, value=-torch.inf), 3, stride=2)


class Downsample(nn.Module):
    """The projected skip of a stage's first block."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Build the projection."""
        super().__init__()
        self.conv = StandardConv(in_channels, channels, 1, stride=stride)
        self.norm = group_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Project the skip."""
        projected: Tensor = self.norm(self.conv(x))
        return projected


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with norms, ReLU after the sum; the middle has a quarter of the channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Build the block; a change of shape projects the skip."""
        super().__init__()
        middle = channels // 4
        changes = stride > 1 or in_channels != channels
        self.downsample = Downsample(in_channels, channels, stride) if changes else None
        self.conv1 = StandardConv(in_channels, middle, 1)
        self.norm1 = group_norm(middle)
        self.conv2 = StandardConv(middle, middle, 3, stride=stride)
        self.norm2 = group_norm(middle)
        self.conv3 = StandardConv(middle, channels, 1)
        self.norm3 = group_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the skip."""
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + skip)


class ResNetStem(nn.Module):
    """Root and stages, then patches of the feature map.

    layers: blocks per stage, at most four; none leaves the root alone (R+Ti/16). patch_size: of the map,
    so a token covers `patch_size * reduction` pixels a side; reduction is 4 after the root and the first
    stage, 8, 16, 32 after the others.
    """

    def __init__(
        self, in_channels: int, dim: int, patch_size: int, *, layers: Sequence[int], width: int = 64
    ) -> None:
        """Build root, stages and projection."""
        super().__init__()
        positive(
            in_channels=in_channels, dim=dim, patch_size=patch_size, **{"layers": min(layers, default=1)}
        )
        if len(layers) > 4:
            raise UsageError(f"layers {list(layers)}: a ResNet has at most 4 stages")
        self.patch_size = patch_size
        self.reduction = reduction(layers)
        self.stride = patch_size * self.reduction  # pixels a side of one token's cell
        self.root = Root(in_channels, width)
        channels = width
        stages = []
        for index, depth in enumerate(layers):
            out = width * 4 * 2**index
            strides = [1 if index == 0 else 2] + [1] * (depth - 1)
            inputs = [channels] + [out] * (depth - 1)
            stages.append(
                nn.Sequential(*(Bottleneck(c, out, s) for c, s in zip(inputs, strides, strict=True)))
            )
            channels = out
        self.stages = nn.Sequential(*stages)
        self.proj = StridedConv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError for a size the stem cannot take."""
        grid = hybrid_grid((x.shape[2], x.shape[3]), self.patch_size, self.reduction)
        x = self.stages(self.root(x.contiguous(memory_format=torch.channels_last)))
        return as_tokens(self.proj(x)), grid


def reduction(layers: Sequence[int]) -> int:
    """How many pixels a side one place of the last stage's map covers."""
    return 4 << max(len(layers) - 1, 0)


def hybrid_grid(image_size: ImageSize, patch_size: int, reduction: int) -> Grid:
    """Return the grid of patches on a map `reduction` times smaller (SAME padding rounds up)."""
    height, width = as_pair(image_size)
    return patch_grid((-(-height // reduction), -(-width // reduction)), patch_size)
