"""Convolutions that skip places, right in bf16 on CPUs with AMX too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def missing_column(width: int, kernel_size: int, stride: int, padding: int = 0) -> int:
    """Return how many columns of zeros give a map that is one column wide a second one; else 0.

    Of maps one column wide oneDNN's bf16 convolutions with strides make numbers on AMX that have nothing to
    do with the picture (PyTorch 2.13, five rows or more). The second column is computed and left out.
    """
    columns = (width + 2 * padding - kernel_size) // stride + 1
    return stride if stride > 1 and columns == 1 else 0


class StridedConv2d(nn.Conv2d):
    """nn.Conv2d, whose map may be one column wide (`missing_column`)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what nn.Conv2d returns."""
        more = missing_column(input.shape[3], self.kernel_size[1], self.stride[1], int(self.padding[1]))
        return super().forward(F.pad(input, (0, more)))[..., :1] if more else super().forward(input)
