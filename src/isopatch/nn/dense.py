"""Dense prediction: a class for every pixel, from a classifier's feature maps and one linear layer.

    picture (B, C_in, H, W) -> feature maps (B, C_i, rows_i, cols_i) -> linear over channels, bilinear
    upsampling -> logits (B, K, H, W)

The linear probe of the feature map (Strudel et al. 2021, arXiv 2105.05633, section 3.2, "Linear"), for any
`Classifier`: a ConvMixer's map serves as well as a ViT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.classifier import Classifier
from isopatch.nn.skeleton import Isotropic


class DenseHead(nn.Module):
    """Feature maps -> logits at the size of the picture that the maps cover.

    Linear in the concatenated maps: each map has its own 1 x 1 convolution and the results are added, so maps
    of different sizes need not be made equal first.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        """channels: of each map. Weights start normal 0.01, biases 0."""
        super().__init__()
        positive(num_classes=num_classes, maps=len(channels))
        self.linear = nn.ModuleList(
            nn.Conv2d(count, num_classes, kernel_size=1, bias=index == 0)
            for index, count in enumerate(channels)
        )
        for layer in self.linear:
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, *size).

        Each place of a map stands for its cell of the picture, and its value for the middle of that cell
        (align_corners=False); beyond the outermost middles the outermost values go on.
        """
        per_map = [layer(feature_map) for layer, feature_map in zip(self.linear, maps, strict=True)]
        grids = dict.fromkeys(logits.shape[2:] for logits in per_map)
        # Upsampling is linear too: maps of one size are added first and upsampled once.
        summed = [torch.stack([m for m in per_map if m.shape[2:] == grid]).sum(dim=0) for grid in grids]
        upsampled = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in summed]
        return torch.stack(upsampled).sum(dim=0)


class Segmenter(nn.Module):
    """A classifier's feature maps under a `DenseHead`: pictures (B, C_in, H, W) -> logits (B, K, H, W).

    The classifier's own heads stay where they are, unused. A picture whose sides are no multiples of an
    isotropic model's patch is continued on the right and at the bottom by its edge pixels, and the logits are
    cut back: no border is left out. Comparators, which round their maps' sizes, see the picture as it is.
    """

    def __init__(
        self,
        backbone: Classifier,
        num_classes: int,
        *,
        depth: int | Sequence[int] | None = None,
        freeze: bool = False,
    ) -> None:
        """Put a new head on `backbone`, which is not copied.

        depth: after how many blocks the features are read, as `Classifier.features`; several: of each, one
            linear layer over all of them. None: what the backbone's own heads would read.
        freeze: train the head alone. The backbone's parameters then require no gradient, and it stays in
            evaluation mode, so that BatchNorm statistics do not move either.
        Raises UsageError for a depth that the backbone does not have, and for a backbone without a `spec`.
        """
        super().__init__()
        positive(num_classes=num_classes)
        self.backbone = backbone
        self.depths = None if depth is None else (depth,) if isinstance(depth, int) else tuple(depth)
        self.freeze = freeze
        self.head = DenseHead(self._channels(), num_classes)
        if freeze:
            backbone.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K, H, W). Raises UsageError for a picture size that the backbone cannot take."""
        height, width = x.shape[2:]
        multiple = _multiple(self.backbone)
        below, right = -height % multiple, -width % multiple
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.head(self._maps(x), (height + below, width + right))
        return logits[:, :, :height, :width]

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature map of each depth, in one pass."""
        if self.depths is None:
            return [self.backbone.features(x).map]
        by_depth = self.backbone.features_by_depth(x)
        found = [features.map for features in islice(by_depth, max(self.depths) + 1)]
        if len(found) <= max(self.depths):
            raise UsageError(f"depth {max(self.depths)}: the backbone has {len(found) - 1} blocks")
        return [found[depth] for depth in self.depths]

    @torch.no_grad()
    def _channels(self) -> list[int]:
        """Return how many channels each map has: look at a blank picture of the backbone's own size."""
        if self.depths is not None and (not self.depths or min(self.depths) < 0):
            raise UsageError(
                f"depth {list(self.depths)}: name at least one; 0 is the stem, 1 the first block"
            )
        spec = self.backbone.spec
        if spec is None:
            raise UsageError("the backbone has no spec: build it by isopatch.create_model or isopatch.load")
        like = next(self.backbone.parameters())
        channels = spec.arguments.get("in_channels", 3)
        blank = like.new_zeros(1, channels, spec.input.height, spec.input.width)
        modes = [(module, module.training) for module in self.backbone.modules()]
        self.backbone.eval()
        counts = [feature_map.shape[1] for feature_map in self._maps(blank)]
        for module, mode in modes:
            module.training = mode
        return counts


def _multiple(backbone: Classifier) -> int:
    """What an isotropic model's picture has to be a multiple of, so that nothing is left out."""
    if not isinstance(backbone, Isotropic):
        return 1
    stride = backbone.stem.stride
    assert isinstance(stride, int), type(backbone.stem)
    return stride
