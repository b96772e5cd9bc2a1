"""What a library of twins offers: one function per kind of module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Unfit:
    """A module of the right kind that a twin cannot serve.

    why: one clause, such as "kernel_size 17 is larger than 15".
    """

    why: str


DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# A maker returns a twin that holds the module's own parameters and children under their names, `Unfit`, or
# None for a module that is not of its kind.
Maker = Callable[[nn.Module, Precision], "nn.Module | Unfit | None"]


def is_twin(module: nn.Module) -> bool:
    """Whether a module is a twin: it says its name, its library ("native" or "triton") and its dtype.

    It may also say, each false by default:
    serves_twins: put in only beside one that takes over a run of blocks; by itself it gains nothing.
    gradients_only: without gradients it is the plain module.
    holds_twins: parts of what it holds may be twins too, which it runs.
    """
    return all(hasattr(module, name) for name in ("twin_name", "twin_library", "dtype"))
