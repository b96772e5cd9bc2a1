"""The twin of a depthwise token step: PyTorch's forward pass, the gradients in one native pass.

PyTorch's own weight gradient of a depthwise convolution in bf16 takes most of a training step on the CPU.
Of blocks that are ConvMixer's own, `convmixer_blocks` has the twin.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from isopatch.kernels.convmixer_fit import unfit_depthwise
from isopatch.kernels.native import norms
from isopatch.kernels.native.fallback import NOTHING, altered, in_memory, served_type, watched
from isopatch.kernels.native.library import NativeLibrary, floats, loaded
from isopatch.kernels.native.native_twin import NativeTwin
from isopatch.kernels.native.norms import pad_last, padded
from isopatch.kernels.native.shape import FEW_GROUPS, Shape
from isopatch.kernels.twin import Precision, Unfit
from isopatch.nn.layout import Grid, as_map, as_tokens
from isopatch.nn.token_mixers import Depthwise

SMALLEST_KERNEL = 4  # below, PyTorch's gradients are as fast (measured)


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of a depthwise token step."""
    if type(module) is not Depthwise:
        return None
    reason = altered(module, (Depthwise,), NOTHING) or unfit(module)
    if module._modules.keys() != {"pad", "conv"} or module._buffers:
        reason = "the depthwise step has more parts than a convolution and its padding"
    return NativeDepthwise(module, precision, loaded()) if reason is None else Unfit(reason)


def unfit(module: nn.Module) -> str | None:
    """Say why the passes cannot go back through this step, or None where they can."""
    pad, conv = (cast(Any, module._modules[name]) for name in ("pad", "conv"))
    reason = unfit_depthwise(pad, conv, getattr(conv, "out_channels", 0))
    if reason is None and conv.kernel_size[0] < SMALLEST_KERNEL:
        reason = f"of kernel_size {conv.kernel_size[0]} PyTorch's own gradients are as fast"
    return reason


class NativeDepthwise(NativeTwin, Depthwise):
    """Holds the plain step. Where gradients are wanted they come from C++; tokens (B, N, C).

    All is in the type the plain step computes in.

    The plain step runs where none are, where PyTorch watches (`watched`), for tokens that such a step does
    not take, and, said once, where it is no longer what was replaced.
    """

    computes = "depthwise step, gradients"
    plain = "depthwise step runs"
    unfit = staticmethod(unfit)
    gradients_only = True

    def __init__(self, step: Depthwise, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the parts, without a copy."""
        nn.Module.__init__(self)
        self.pad, self.conv = step.pad, step.conv
        self._prepare(precision, lib)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places; channels stay apart."""
        if not torch.is_grad_enabled() or watched(tokens) or self._altered() or not self._takes(tokens, grid):
            return super().forward(tokens, grid)
        weight, bias = self.conv.weight, cast(Tensor, self.conv.bias)
        if not any(each.requires_grad for each in (tokens, weight, bias)):
            return super().forward(tokens, grid)
        own = torch.bfloat16 if torch.is_autocast_enabled("cpu") else tokens.dtype
        shape = Shape(tokens.shape[0], (int(grid[0]), int(grid[1])), padded(tokens.shape[2]), own)
        with torch.autocast("cpu", enabled=False):
            mixed: Tensor = _Step.apply(tokens.to(own), weight, bias, shape, self.pad)  # type: ignore[no-untyped-call]
        return as_tokens(mixed)

    def _takes(self, tokens: Tensor, grid: Grid) -> bool:
        """Whether these are tokens of such a step; what is not, the plain one refuses in its words."""
        if tokens.dim() != 3 or not served_type(tokens) or tokens.numel() == 0 or min(grid) < 1:
            return False
        return tokens.shape[1] == grid[0] * grid[1] and tokens.shape[2] == self.conv.out_channels


class _Step(torch.autograd.Function):
    """The convolution as one step of autograd."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor, shape: Shape, pad: nn.Module
    ) -> Tensor:
        """Convolve; keep what goes in."""
        ctx.save_for_backward(tokens, weight)
        ctx.shape = shape
        half = (weight.shape[-1] - 1) // 2
        taps, shift = weight.to(tokens.dtype), bias.to(tokens.dtype)
        return F.conv2d(pad(as_map(tokens, shape.grid)), taps, shift, padding=half, groups=taps.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tokens, the kernels and the biases."""
        tokens, weight = ctx.saved_tensors
        rows = in_memory(as_tokens(gradient))
        return (*_gradients(loaded(), ctx.shape, tokens, weight, rows), None, None)


def _gradients(
    lib: NativeLibrary, shape: Shape, tokens: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dim, kernel, size = tokens.shape[2], weight.shape[-1], shape.channels
    groups = min(shape.images, FEW_GROUPS)  # times the blocks of channels
    taps, shifts, out = floats(groups, kernel**2, size), floats(groups, size), shape.empty()
    lib.call(
        "depthwise_backward",
        **shape.mapwise(0, kernel),
        groups=groups,
        gy=_wide(gradient, size),
        x=_wide(tokens, size),
        weight=pad_last(weight.reshape(dim, kernel**2).t(), size),
        gx=out,
        weight_sums=taps,
        bias_sums=shifts,
    )
    of_weight = norms.add_up(lib, taps)[:, :dim].t().reshape(weight.shape)
    return out[..., :dim], of_weight, norms.add_up(lib, shifts)[:dim]


def _wide(tokens: Tensor, size: int) -> Tensor:
    """Tokens with channels of zeros up to `size`, without gaps."""
    more = size - tokens.shape[2]
    return (F.pad(tokens, (0, more)) if more else tokens).contiguous()
