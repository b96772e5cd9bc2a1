"""ConvMixer: patches mixed by convolutions alone (Trockman and Kolter, arXiv 2201.09792).

    x -> patches -> GELU -> BatchNorm
      -> depth x ( x + BatchNorm(GELU(depthwise k x k)) -> BatchNorm(GELU(1 x 1)) ) -> mean -> logits

The activation stands before BatchNorm, the skip around the depthwise step only, all convolutions have biases,
there is no final norm. Width dim, depth, kernel k, patch p; parameters
dim * (depth * (k^2 + dim + 6) + 3 p^2 + classes + 3) + classes (paper; equal to the unit for every size).
1536/20 k9 p7: 51,625,960, 768/32 k7 p7: 21,110,248, 1024/20 k9 p14: 24,383,464. Top-1 (paper, table 1):
81.37 and 80.16. The released 768/32 weights need ReLU everywhere (authors' README).
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.checks import positive
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid, as_map, as_tokens
from isopatch.nn.norms import batch_norm
from isopatch.nn.pool import MeanPool
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.token_mixers import same_depthwise


class ConvMixerBlock(nn.Module):
    """The paper's figure 2: depthwise convolution with a skip, then 1x1 convolution without one.

    tokens (B, N, C) are read as a channels_last map without a copy. num_prefix must be 0: a convolution has
    no place for prefix tokens and raises UsageError.
    """

    def __init__(
        self, dim: int, kernel_size: int, *, activation: Activation = "gelu", num_prefix: int = 0
    ) -> None:
        """Build both steps."""
        super().__init__()
        self.pad, self.depthwise = same_depthwise(dim, kernel_size, num_prefix=num_prefix)
        self.depthwise_norm = batch_norm(dim)
        self.pointwise = nn.Conv2d(dim, dim, kernel_size=1)
        self.pointwise_norm = batch_norm(dim)
        self.activation = make_activation(activation)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places, then channels."""
        x = as_map(tokens, grid)
        x = x + self.depthwise_norm(self.activation(self.depthwise(self.pad(x))))
        x = self.pointwise_norm(self.activation(self.pointwise(x)))
        return as_tokens(x)


def convmixer(
    *,
    dim: int,
    depth: int,
    kernel_size: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    activation: Activation = "gelu",
) -> Isotropic:
    """Build a ConvMixer.

    kernel_size: odd or even; even kernels pad one more on the right and bottom (PyTorch's 'same').
    image_size: what pictures are prepared to; the model itself takes any size of at least one patch and, like
        a strided convolution, leaves out what fills no patch on the right and bottom.
    Initialisation: PyTorch's defaults, as in the authors' code.
    """
    positive(dim=dim, depth=depth, kernel_size=kernel_size, patch_size=patch_size, in_channels=in_channels)
    patch_grid(image_size, patch_size, exact=False)
    return Isotropic(
        stem=PatchStem(
            in_channels,
            dim,
            patch_size,
            exact=False,
            activation=make_activation(activation),
            norm=batch_norm(dim),
        ),
        blocks=[ConvMixerBlock(dim, kernel_size, activation=activation) for _ in range(depth)],
        norm=nn.Identity(),
        pool=MeanPool(),
        heads={"cls": Head(dim, num_classes)},
    )


def no_weight_decay(model: Isotropic) -> set[str]:
    """Nothing beside biases and 1-D tensors (the ImageNet runs; the CIFAR script decays even those)."""
    return set()
