"""When the plain modules run in a native twin's stead; `kernels.fallback` has what is so of every library."""

from __future__ import annotations

import torch
from torch import Tensor

from isopatch.kernels.fallback import (
    NOTHING,
    WEIGHTS,
    Teller,
    altered,
    followed,
    hooked,
    in_memory,
    unreadable,
)

__all__ = [
    "NOTHING",
    "WEIGHTS",
    "Teller",
    "altered",
    "hooked",
    "in_memory",
    "served_type",
    "unreadable",
    "watched",
]


def watched(x: Tensor) -> bool:
    """Whether PyTorch has to see every operation on x, or x is not memory of the CPU that can be read."""
    return not x.is_cpu or followed(x)


def served_type(x: Tensor) -> bool:
    """Whether x has a type the plain float32 modules take: float32, or under bf16 autocast a half as well."""
    if not torch.is_autocast_enabled("cpu"):
        return x.dtype is torch.float32
    halves = (torch.float32, torch.bfloat16, torch.float16)
    return torch.get_autocast_dtype("cpu") is torch.bfloat16 and x.dtype in halves
