"""The stem cuts a picture into patches and projects each one.

x (B, C_in, H, W) -> tokens (B, rows * cols, C) with rows = H / patch_size, cols = W / patch_size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid, as_tokens
from isopatch.nn.strided import StridedConv2d

ImageSize = int | tuple[int, int]


def as_pair(image_size: ImageSize) -> tuple[int, int]:
    """Return (height, width) of a size given as one side or two."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def patch_grid(image_size: ImageSize, patch_size: int, *, exact: bool = True) -> Grid:
    """Return (rows, cols) of the patch grid.

    exact: refuse sizes the patch does not divide; otherwise the remainder on the right and bottom is left
    out, which is what a strided convolution does. Raises UsageError naming both sizes.
    """
    height, width = as_pair(image_size)
    positive(image_height=height, image_width=width, patch_size=patch_size)
    if exact and (height % patch_size or width % patch_size):
        fits = max(patch_size, round(height / patch_size) * patch_size)
        fits_width = max(patch_size, round(width / patch_size) * patch_size)
        raise UsageError(
            f"image_size {height}x{width} is not divisible by patch_size {patch_size}: "
            f"the nearest that is: {fits}x{fits_width}"
        )
    if height < patch_size or width < patch_size:
        raise UsageError(f"image_size {height}x{width} is smaller than one patch of patch_size {patch_size}")
    return height // patch_size, width // patch_size


class PatchStem(nn.Module):
    """A convolution with kernel and stride `patch_size`, then optionally activation and norm (in that order).

    exact: refuse pictures the patch does not divide (ViT); otherwise drop the remainder (ConvMixer).
    Dosovitskiy et al. 2020, section 3.1; activation before BatchNorm: Trockman and Kolter 2022, section 2.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        *,
        exact: bool = True,
        activation: nn.Module | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        """Build the projection; `norm` must accept a (B, dim, rows, cols) map."""
        super().__init__()
        positive(in_channels=in_channels, dim=dim, patch_size=patch_size)
        self.patch_size = patch_size
        self.stride = patch_size  # pixels a side of one token's cell
        self.exact = exact
        self.proj = StridedConv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.activation = nn.Identity() if activation is None else activation
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C) contiguous, grid). Raises UsageError for a size the stem cannot take."""
        if x.dim() != 4:
            raise UsageError(
                f"the model takes a batch of pictures (B, C, H, W), not a tensor {tuple(x.shape)}"
            )
        grid = patch_grid((x.shape[2], x.shape[3]), self.patch_size, exact=self.exact)
        # A channels_last picture makes a channels_last map, which is tokens without a copy.
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        x = self.norm(self.activation(x))
        return as_tokens(x), grid


class NormedPatchStem(nn.Module):
    """LayerNorm over a patch's pixels, a linear layer, LayerNorm over channels (lucidrains/vit-pytorch).

    A patch is flattened rows first, its channels innermost.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, *, norm_eps: float = 1e-5) -> None:
        """Build both norms and the projection."""
        super().__init__()
        positive(in_channels=in_channels, dim=dim, patch_size=patch_size)
        self.patch_size = patch_size
        self.stride = patch_size
        pixels = in_channels * patch_size**2
        self.patch_norm = nn.LayerNorm(pixels, eps=norm_eps)
        self.proj = nn.Linear(pixels, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return (tokens (B, N, C), grid). Raises UsageError for a size that the patch does not divide."""
        grid = patch_grid((x.shape[2], x.shape[3]), self.patch_size)
        side = self.patch_size
        batch, channels = x.shape[:2]
        patches = x.reshape(batch, channels, grid[0], side, grid[1], side)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return self.norm(self.proj(self.patch_norm(patches))), grid
