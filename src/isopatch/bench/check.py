"""Whether a contender computes the same thing: outputs and gradients against the plain model in fp32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from isopatch.kernels.twin import Precision

# Root-mean-square difference over root-mean-square value, of logits and of the whole gradient. With the
# weights of `subject.settle`, other orders of summation reach 1e-5 in fp32 and bf16 arithmetic 1-2 % after
# 32 blocks; ReLU for GELU, hardly an error with inputs that are mostly positive, makes 10 %.
WITHIN: dict[Precision, float] = {"fp32": 1e-3, "bf16": 5e-2}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Root-mean-square difference, as a share of what is wanted; infinite where anything is not finite."""
    if found.shape != wanted.shape or not torch.isfinite(found).all():
        return float("inf")
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def gradient_error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The same over all gradients as one vector; infinite where one is missing or too many."""
    if found.keys() != wanted.keys():
        return float("inf")
    names = sorted(wanted)
    if any(found[name].numel() != wanted[name].numel() for name in names):
        return float("inf")
    return relative_error(
        torch.cat([found[name].detach().float().cpu().flatten() for name in names]),
        torch.cat([wanted[name].flatten() for name in names]),
    )
