"""The twin of a run of ConvMixer blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from isopatch.kernels.native import convmixer, norms
from isopatch.kernels.native.convmixer import Fixed, Kept
from isopatch.kernels.native.library import NativeLibrary, loaded
from isopatch.kernels.native.shape import Shape, activation_number
from isopatch.kernels.twin import Precision, Unfit
from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.blocks import Blocks
from isopatch.nn.layout import Grid

LARGEST_KERNEL = 15


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of `Blocks` that are all ConvMixer's."""
    if type(module) is not Blocks or not len(module):
        return None
    if not all(type(block) is ConvMixerBlock for block in module):
        return None
    for block in cast("list[ConvMixerBlock]", list(module)):
        reason = _unfit(block)
        if reason is not None:
            return Unfit(reason)
    return NativeConvMixerBlocks(module, precision, loaded())


def _unfit(block: ConvMixerBlock) -> str | None:
    kernel = block.depthwise.kernel_size[0]
    if kernel > LARGEST_KERNEL:
        return f"kernel_size {kernel} is larger than {LARGEST_KERNEL}"
    if activation_number(block.activation) is None:
        return f"the activation {block.activation} is neither exact GELU nor ReLU"
    for norm in (block.depthwise_norm, block.pointwise_norm):
        if type(norm) is not nn.BatchNorm2d or not norm.affine:
            return f"{type(norm).__name__} is not BatchNorm with weight and bias"
    if any(parameter.dtype != torch.float32 for parameter in block.parameters()):
        return "parameters are not float32"
    return None


class NativeConvMixerBlocks(Blocks):
    """Holds the plain blocks and computes them in C++. Tokens (B, N, C), in float32 or, inside, bfloat16.

    Returns what the plain blocks return: bfloat16 under autocast, else the tokens' own type. The plain blocks
    run where activations are to be recomputed, and on devices other than the CPU.
    """

    def __init__(self, blocks: Blocks, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the blocks, without a copy."""
        super().__init__(blocks)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.twin_name = f"native ConvMixer blocks, {precision}, {lib.instructions}"
        self._fixed: tuple[Any, list[Fixed]] | None = None

    def train(self, mode: bool = True) -> NativeConvMixerBlocks:
        """Set the mode; what was laid out for inference is made anew."""
        self._fixed = None
        super().train(mode)
        return self

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks."""
        if recompute or tokens.device.type != "cpu":
            return super().forward(tokens, grid, recompute=recompute)
        dim = tokens.shape[2]
        wanted = torch.bfloat16 if torch.is_autocast_enabled("cpu") else tokens.dtype
        prepared = tokens.to(self.dtype)
        if norms.padded(dim) != dim:
            prepared = F.pad(prepared, (0, norms.padded(dim) - dim))
        shape = Shape(tokens.shape[0], grid, norms.padded(dim), self.dtype)
        with torch.autocast("cpu", enabled=False):
            out = self._run(prepared.contiguous(), shape)
        return out[..., :dim].to(wanted).contiguous()

    def _run(self, tokens: Tensor, shape: Shape) -> Tensor:
        parameters = [parameter for block in self for parameter in ordered(cast(ConvMixerBlock, block))]
        lib = loaded()
        if torch.is_grad_enabled() and (tokens.requires_grad or any(p.requires_grad for p in parameters)):
            out: Tensor = _ConvMixerRun.apply(tokens, shape, self, *parameters)  # type: ignore[no-untyped-call]
            return out
        blocks = cast("list[ConvMixerBlock]", list(self))
        if any(norms.uses_batch(norm) for block in blocks for norm in _norms(block)):
            return convmixer.forward(lib, shape, tokens, blocks)[0]
        return convmixer.infer(lib, shape, tokens, self._laid_out(lib, parameters))

    def _laid_out(self, lib: NativeLibrary, parameters: Sequence[Tensor]) -> list[Fixed]:
        """Weights and norms for inference, made once and again when any of them changed."""
        versions = [(t.data_ptr(), t._version) for t in (*parameters, *self.buffers())]
        key = (lib.instructions, versions)
        if self._fixed is None or self._fixed[0] != key:
            blocks = cast("list[ConvMixerBlock]", list(self))
            laid_out = [
                Fixed(
                    convmixer.weights_of(lib, block, self.dtype, backward=False),
                    norms.fixed(block.depthwise_norm),
                    norms.fixed(block.pointwise_norm),
                )
                for block in blocks
            ]
            self._fixed = (key, laid_out)
        return self._fixed[1]


def ordered(block: ConvMixerBlock) -> list[nn.Parameter]:
    """A block's parameters in the order of `Gradients.of_parameters`."""
    parts = (block.depthwise, block.depthwise_norm, block.pointwise, block.pointwise_norm)
    return [cast(nn.Parameter, each) for part in parts for each in (part.weight, part.bias)]


def _norms(block: ConvMixerBlock) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    return block.depthwise_norm, block.pointwise_norm


class _ConvMixerRun(torch.autograd.Function):
    """All blocks as one step of autograd: tokens and every parameter -> tokens."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, shape: Shape, twin: NativeConvMixerBlocks, *_: Tensor) -> Tensor:
        """Run; keep three activations a block."""
        blocks = cast("list[ConvMixerBlock]", list(twin))
        out, ctx.kept = convmixer.forward(loaded(), shape, tokens, blocks)
        ctx.shape = shape
        ctx.dims = [(block.pointwise.out_channels, block.depthwise.kernel_size[0]) for block in blocks]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back; activations are freed."""
        kept: list[Kept] | None = ctx.kept
        if kept is None:
            raise RuntimeError("the native kernels go back once: their activations are freed by then")
        ctx.kept = None
        tokens, found = convmixer.backward(loaded(), ctx.shape, gradient.contiguous(), kept)
        flat = [g for each, dims in zip(found, ctx.dims, strict=True) for g in each.of_parameters(*dims)]
        return (tokens, None, None, *flat)
