"""Whether the native passes can do a depthwise convolution that keeps the map's size."""

from __future__ import annotations

from torch import nn

from isopatch.kernels.native.fallback import NOTHING, WEIGHTS, altered

LARGEST_KERNEL = 15


def unfit_depthwise(pad: nn.Module, conv: nn.Conv2d, dim: int) -> str | None:
    """Say why the passes cannot be this padding and convolution of `dim` channels, or None where they can."""
    reason = altered(conv, (nn.Conv2d,), WEIGHTS)
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
    reason = altered(pad, (nn.Identity, nn.ZeroPad2d), NOTHING)
    if reason is not None:
        return reason
    if (pad.padding if isinstance(pad, nn.ZeroPad2d) else None) != (None if kernel % 2 else (0, 1, 0, 1)):
        return "the map is padded in another way than ConvMixer's"
    return None


def geometry(conv: nn.Conv2d) -> tuple[object, ...]:
    """What of a convolution is neither size nor weight."""
    return conv.stride, conv.dilation, conv.padding, conv.groups, conv.padding_mode
