"""From tensors: a sample in pieces that fit into memory, and plain numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def batches(sample: Tensor, size: int) -> Iterator[Tensor]:
    """Yield pictures (M, C, H, W) in batches of at most `size`, in order."""
    for start in range(0, len(sample), size):
        yield sample[start : start + size]


def as_numbers(tensor: Tensor) -> NDArray[np.float64]:
    """Return a tensor's values as float64 numbers."""
    numbers: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return numbers
