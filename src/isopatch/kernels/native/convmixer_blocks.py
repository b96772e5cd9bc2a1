"""The twin of a run of ConvMixer blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from isopatch.kernels.convmixer_fit import unfit_blocks
from isopatch.kernels.fallback import CPU
from isopatch.kernels.native import convmixer, norms, planar
from isopatch.kernels.native.fallback import (
    NOTHING,
    altered,
    hooked,
    in_memory,
    served_type,
    watched,
)
from isopatch.kernels.native.laid_out import LaidOut
from isopatch.kernels.native.library import NO_TENSOR, NativeLibrary, loaded
from isopatch.kernels.native.native_twin import NativeBlocks
from isopatch.kernels.native.planar import Planar
from isopatch.kernels.native.shape import Shape, known_activation
from isopatch.kernels.twin import Precision, Unfit
from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.blocks import Blocks
from isopatch.nn.layout import Grid

T = TypeVar("T")
Make = Callable[[NativeLibrary, "list[ConvMixerBlock]", torch.dtype], T]  # lays blocks out for inference


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of `Blocks` that are all ConvMixer's."""
    if type(module) is not Blocks or not any(isinstance(block, ConvMixerBlock) for block in module):
        return None
    reason = "the blocks have hooks" if hooked(module) else altered(module, (Blocks,), NOTHING)
    reason = reason or unfit(module)
    return NativeConvMixerBlocks(module, precision, loaded()) if reason is None else Unfit(reason)


def unfit(blocks: nn.Module) -> str | None:
    """Say why the passes cannot do what these blocks do, or None where they can."""
    return unfit_blocks(blocks, CPU)


class NativeConvMixerBlocks(NativeBlocks):
    """Holds the plain blocks and computes them in C++. Tokens (B, N, C), in float32 or, inside, bfloat16.

    Returns what the plain blocks return: bfloat16 under autocast, else the tokens' own type. The plain blocks
    run where activations are to be recomputed, where PyTorch watches (`watched`), for tokens that such blocks
    do not take, and, said once, where the blocks are no longer what was replaced.
    """

    computes = "ConvMixer blocks"
    plain = "ConvMixer blocks run"
    unfit = staticmethod(unfit)

    def _prepare(self, precision: Precision, lib: NativeLibrary) -> None:
        super()._prepare(precision, lib)
        self._planar: LaidOut[Planar] = LaidOut()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what was laid out for inference is made anew."""
        self._planar.forget()
        return super().train(mode)

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks."""
        if recompute or watched(tokens) or self._altered() or not self._takes(tokens, grid):
            return super().forward(tokens, grid, recompute=recompute)
        dim = tokens.shape[2]
        wanted = torch.bfloat16 if torch.is_autocast_enabled("cpu") else tokens.dtype
        prepared = tokens.to(self.dtype)
        if norms.padded(dim) != dim:
            prepared = F.pad(prepared, (0, norms.padded(dim) - dim))
        shape = Shape(tokens.shape[0], (int(grid[0]), int(grid[1])), norms.padded(dim), self.dtype)
        with torch.autocast("cpu", enabled=False):
            out = self._run(prepared.contiguous(), shape)
        return out[..., :dim].to(wanted).contiguous()

    def _takes(self, tokens: Tensor, grid: Grid) -> bool:
        """Whether these are tokens of such blocks; what is not, the plain blocks refuse in their words."""
        if tokens.dim() != 3 or not served_type(tokens) or tokens.numel() == 0 or min(grid) < 1:
            return False
        dim = cast(ConvMixerBlock, self[0]).pointwise.out_channels
        return tokens.shape[1] == grid[0] * grid[1] and tokens.shape[2] == dim

    def _run(self, tokens: Tensor, shape: Shape) -> Tensor:
        parameters = [parameter for block in self for parameter in ordered(cast(ConvMixerBlock, block))]
        lib = loaded()
        if torch.is_grad_enabled() and (tokens.requires_grad or any(p.requires_grad for p in parameters)):
            out: Tensor = _ConvMixerRun.apply(tokens, shape, self, *parameters)  # type: ignore[no-untyped-call]
            return out
        blocks = cast("list[ConvMixerBlock]", list(self))
        if any(norms.uses_batch(norm) for block in blocks for norm in _norms(block)):
            return convmixer.forward(lib, shape, tokens, blocks)[0]
        if planar.suits(lib, shape, blocks):
            return planar.infer(
                lib, shape, tokens, self._laid_out(self._planar, lib, parameters, planar.laid_out)
            )
        return convmixer.infer(
            lib, shape, tokens, self._laid_out(self._fixed, lib, parameters, convmixer.laid_out)
        )

    def _laid_out(
        self, kept: LaidOut[T], lib: NativeLibrary, parameters: Sequence[Tensor], make: Make[T]
    ) -> T:
        """Weights and norms for inference, made once and again when any of them changed."""
        blocks = cast("list[ConvMixerBlock]", list(self))
        both = [norm for block in blocks for norm in _norms(block)]
        running = [cast(Tensor, each) for norm in both for each in (norm.running_mean, norm.running_var)]
        activations = [known_activation(block.activation) for block in blocks]
        settings = [norm.eps for norm in both], activations
        return kept.of(lib, [*parameters, *running], settings, lambda: make(lib, blocks, self.dtype))


def ordered(block: ConvMixerBlock) -> list[nn.Parameter]:
    """A block's parameters in the order of `Gradients.of_parameters`."""
    parts = (block.depthwise, block.depthwise_norm, block.pointwise, block.pointwise_norm)
    return [cast(nn.Parameter, each) for part in parts for each in (part.weight, part.bias)]


def _norms(block: ConvMixerBlock) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    return block.depthwise_norm, block.pointwise_norm


class _ConvMixerRun(torch.autograd.Function):
    """All blocks as one step of autograd: tokens and every parameter -> tokens."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, shape: Shape, twin: NativeConvMixerBlocks, *parameters: Tensor
    ) -> Tensor:
        """Run; keep three activations a block."""
        blocks = cast("list[ConvMixerBlock]", list(twin))
        out, kept = convmixer.forward(loaded(), shape, tokens, blocks)
        # Of the parameters the weights, as the plain modules keep them, not the biases: PyTorch refuses to go
        # back when what is the caller's was changed meanwhile.
        activations = [each for one in kept for each in (one.x, one.u1, one.u2)]
        ctx.save_for_backward(*activations, *parameters[::2])
        ctx.kept = [replace(one, x=NO_TENSOR, u1=NO_TENSOR, u2=NO_TENSOR) for one in kept]
        ctx.shape = shape
        ctx.dims = [(block.pointwise.out_channels, block.depthwise.kernel_size[0]) for block in blocks]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back; PyTorch frees the activations then, unless it is told to retain them."""
        saved = iter(ctx.saved_tensors)
        kept = [replace(one, x=next(saved), u1=next(saved), u2=next(saved)) for one in ctx.kept]
        tokens, found = convmixer.backward(loaded(), ctx.shape, in_memory(gradient), kept)
        flat = [g for each, dims in zip(found, ctx.dims, strict=True) for g in each.of_parameters(*dims)]
        return (tokens, None, None, *flat)
