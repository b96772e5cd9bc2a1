"""BatchNorm's part in the native passes: statistics, running averages, and what the backward pass needs.

C channels, padded to a multiple of 32 with channels that are zero everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.kernels.native.library import NativeLibrary, floats

LANES = 32  # channels are padded to multiples of this


def padded(channels: int) -> int:
    """Channels with padding."""
    return -(-channels // LANES) * LANES


def known(vector: Tensor | None) -> Tensor:
    """Return a bias that was found to be there."""
    if vector is None:
        raise RuntimeError("the native kernels were given a layer without bias")
    return vector


def pad_last(vector: Tensor, size: int) -> Tensor:
    """Return float32 with zeros up to `size` along the last axis, contiguous."""
    return F.pad(vector.detach().float(), (0, size - vector.shape[-1])).contiguous()


@dataclass
class Norm:
    """One BatchNorm during one pass: xhat = (a - mean) rstd, y = scale a + shift; vectors (C,).

    frozen: mean and variance are the running ones, and constants for the gradient.
    """

    mean: Tensor
    rstd: Tensor
    scale: Tensor
    shift: Tensor
    frozen: bool


@dataclass
class Statistics:
    """Where a pass adds up what a norm's mean and variance come from.

    sums: (parts, 3, C), see `Sums` in passes.h. each: places of a part; count: of all.
    """

    sums: Tensor
    each: int
    count: int


def uses_batch(norm: nn.BatchNorm2d) -> bool:
    """Whether it normalises by the batch's own statistics."""
    return norm.training or norm.running_mean is None


def fixed(norm: nn.BatchNorm2d) -> Norm:
    """The norm as its running statistics make it."""
    if norm.running_mean is None or norm.running_var is None:
        raise RuntimeError("a BatchNorm without running statistics has only its batch's")
    size = padded(norm.num_features)
    rstd = (norm.running_var.detach().double() + norm.eps).rsqrt()
    scale = norm.weight.detach().double() * rstd
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    mean, rstd, scale, shift = (pad_last(part, size) for part in (norm.running_mean, rstd, scale, shift))
    return Norm(mean, rstd, scale, shift, frozen=True)


def statistics(norm: nn.BatchNorm2d, *, each: int, count: int) -> Statistics:
    """Make room for sums over `count` places in parts of `each`.

    Raises UsageError for a single place, as PyTorch does: one value has no variance.
    """
    if count == 1:
        raise UsageError("BatchNorm in training needs more than 1 value per channel: give more pictures")
    return Statistics(floats(-(-count // each), 3, padded(norm.num_features)), each, count)


def finish(lib: NativeLibrary, norm: nn.BatchNorm2d, found: Statistics) -> Norm:
    """Turn the sums into the norm; update the running statistics as PyTorch does."""
    size = found.sums.shape[2]
    mean, rstd, scale, shift, variance = (floats(size) for _ in range(5))
    lib.call(
        "finish_norm",
        parts=found.sums.shape[0],
        each=found.each,
        channels=size,
        count=found.count,
        sums=found.sums,
        weight=pad_last(norm.weight, size),
        bias=pad_last(norm.bias, size),
        eps=norm.eps,
        mean=mean,
        rstd=rstd,
        scale=scale,
        shift=shift,
        variance=variance,
    )
    if (
        norm.training
        and norm.track_running_stats
        and norm.running_mean is not None
        and norm.running_var is not None
    ):
        with torch.no_grad():
            rate = 0.0 if norm.momentum is None else norm.momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
                rate = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            for running, now in ((norm.running_mean, mean), (norm.running_var, variance)):
                running.mul_(1 - rate).add_(now[: norm.num_features], alpha=rate)
    return Norm(mean, rstd, scale, shift, frozen=False)


@dataclass
class NormGradient:
    """What the backward pass knows of a norm: means of g and of g xhat over all places, and their sums."""

    mean_g: Tensor
    mean_gx: Tensor
    weight: Tensor
    bias: Tensor


def finish_gradient(lib: NativeLibrary, norm: Norm, sums: Tensor, count: int) -> NormGradient:
    """From partial sums (parts, 2, C) of g and g xhat to the gradients of weight and bias, and the means."""
    total = add_up(lib, sums)
    bias, weight = total[0], total[1]
    if norm.frozen:
        return NormGradient(torch.zeros_like(bias), torch.zeros_like(bias), weight, bias)
    return NormGradient(bias / count, weight / count, weight, bias)


def add_up(lib: NativeLibrary, parts: Tensor) -> Tensor:
    """Sum over the first axis in a fixed order, in double."""
    out = floats(*parts.shape[1:])
    lib.call("add_up", parts=parts.shape[0], size=out.numel(), in_=parts, out=out)
    return out
