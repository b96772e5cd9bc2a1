"""Whether kernels of any library can do the parts of a ConvMixer block, or a run of them.

What they cannot do is said in one clause, such as "kernel_size 17 is larger than 15". device: where the
parameters have to be.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from isopatch.kernels.fallback import CPU, NOTHING, WEIGHTS, altered, unreadable
from isopatch.models.convmixer import ConvMixerBlock

LARGEST_KERNEL = 15


def unfit_blocks(blocks: nn.Module, device: torch.device) -> str | None:
    """Say why the kernels cannot do what these blocks do, or None where they can."""
    dim = None
    for block in blocks._modules.values():
        reason = altered(cast(nn.Module, block), (ConvMixerBlock,), NOTHING, device)
        if reason is None:
            reason = _unfit_block(cast(ConvMixerBlock, block), device)
        if reason is not None:
            return reason
        own = cast(ConvMixerBlock, block).pointwise.out_channels
        if dim not in (None, own):
            return f"the blocks have {dim} and {own} channels"
        dim = own
    return None if dim else "there are no blocks"


def _unfit_block(block: ConvMixerBlock, device: torch.device) -> str | None:
    pointwise, activation = block.pointwise, block.activation
    reason = altered(pointwise, (nn.Conv2d,), WEIGHTS, device)
    if reason is not None:
        return reason
    dim = pointwise.out_channels
    reason = unfit_depthwise(block.pad, block.depthwise, dim, device)
    if reason is not None:
        return reason
    if pointwise.bias is None:
        return "a convolution has no bias"
    plain = geometry(pointwise) == ((1, 1), (1, 1), (0, 0), 1, "zeros")
    if not plain or pointwise.weight.shape != (dim, dim, 1, 1) or pointwise.bias.shape != (dim,):
        return "a convolution is not as ConvMixer has it"
    exact = type(activation) is nn.GELU and activation.approximate == "none"
    if not exact and type(activation) is not nn.ReLU:
        return f"the activation {activation} is neither exact GELU nor ReLU"
    reason = altered(activation, (nn.GELU, nn.ReLU), NOTHING, device)
    for norm in (block.depthwise_norm, block.pointwise_norm):
        reason = reason or unfit_norm(norm, dim, device)
    return reason


def unfit_depthwise(pad: nn.Module, conv: nn.Conv2d, dim: int, device: torch.device = CPU) -> str | None:
    """Say why the kernels cannot be this padding and convolution of `dim` channels, or None where they can.

    Such a convolution keeps the map's size.
    """
    reason = altered(conv, (nn.Conv2d,), WEIGHTS, device)
    if reason is not None:
        return reason
    if conv.bias is None:
        return "a convolution has no bias"
    kernel = conv.kernel_size[0]
    if kernel > LARGEST_KERNEL:
        return f"kernel_size {kernel} is larger than {LARGEST_KERNEL}"
    half = (kernel - 1) // 2
    if (
        geometry(conv) != ((1, 1), (1, 1), (half, half), dim, "zeros")
        or conv.weight.shape != (dim, 1, kernel, kernel)
        or conv.bias.shape != (dim,)
    ):
        return "a convolution is not as ConvMixer has it"
    reason = altered(pad, (nn.Identity, nn.ZeroPad2d), NOTHING, device)
    if reason is not None:
        return reason
    if (pad.padding if isinstance(pad, nn.ZeroPad2d) else None) != (None if kernel % 2 else (0, 1, 0, 1)):
        return "the map is padded in another way than ConvMixer's"
    return None


def unfit_norm(norm: nn.Module, dim: int, device: torch.device = CPU) -> str | None:
    """Say why the kernels cannot be this norm over `dim` channels, or None where they can."""
    if type(norm) is not nn.BatchNorm2d or norm.weight is None or norm.bias is None:
        return f"{type(norm).__name__} is not BatchNorm with weight and bias"
    reason = altered(norm, (nn.BatchNorm2d,), WEIGHTS, device)
    running = (norm.running_mean, norm.running_var)
    if reason is None:
        reason = unreadable(running, device)
    if reason is None and any(
        each is not None and each.shape != (dim,) for each in (norm.weight, norm.bias, *running)
    ):
        reason = f"BatchNorm is not over {dim} channels"
    if reason is None and (norm.running_mean is None) != (norm.running_var is None):
        reason = "BatchNorm has one of two running statistics"
    return reason


def geometry(conv: nn.Conv2d) -> tuple[object, ...]:
    """What of a convolution is neither size nor weight."""
    return conv.stride, conv.dilation, conv.padding, conv.groups, conv.padding_mode
