"""The twin of a run of transformer blocks: ViT's and DeiT's."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from isopatch.kernels.native import transformer
from isopatch.kernels.native.library import NativeLibrary, loaded
from isopatch.kernels.native.norms import LANES
from isopatch.kernels.native.shape import activation_number
from isopatch.kernels.native.transformer import Kept, Tokens, Weights
from isopatch.kernels.twin import Precision, Unfit
from isopatch.nn.block import ResidualBranch, TwoStepBlock, drop_path
from isopatch.nn.blocks import Blocks
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.layout import Grid
from isopatch.nn.token_mixers import Attention

HEAD_LANES = 16  # a head's width is a multiple of this


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of `Blocks` that are all pre-norm attention and MLP."""
    if type(module) is not Blocks or not len(module) or not all(_is_transformer(block) for block in module):
        return None
    for block in module:
        reason = _unfit(cast(TwoStepBlock, block))
        if reason is not None:
            return Unfit(reason)
    return NativeTransformerBlocks(module, precision, loaded())


def _is_transformer(block: nn.Module) -> bool:
    if type(block) is not TwoStepBlock:
        return False
    branches = (block.token, block.channel)
    return (
        all(type(branch) is ResidualBranch for branch in branches)
        and type(block.token.mixer) is Attention
        and type(block.channel.mixer) is Mlp
    )


def _unfit(block: TwoStepBlock) -> str | None:
    token, channel = cast(ResidualBranch, block.token), cast(ResidualBranch, block.channel)
    attention, mlp = cast(Attention, token.mixer), cast(Mlp, channel.mixer)
    dim, hidden, width = attention.proj.in_features, mlp.fc1.out_features, attention.proj.in_features
    width //= attention.num_heads
    for name, size, lanes in (("dim", dim, LANES), ("mlp", hidden, LANES), ("head", width, HEAD_LANES)):
        if size % lanes:
            return f"{name} width {size} is not a multiple of {lanes}"
    if attention.relative_bias is not None:
        return "relative positions are added to the scores"
    if activation_number(mlp.activation) is None:
        return f"the activation {mlp.activation} is neither exact GELU nor ReLU"
    for norm in (token.norm, channel.norm):
        if type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None:
            return f"{type(norm).__name__} is not LayerNorm with weight and bias"
    if any(parameter.dtype != torch.float32 for parameter in block.parameters()):
        return "parameters are not float32"
    return None


def _drops(block: TwoStepBlock) -> bool:
    """Whether single values are dropped in training, which the passes do not do."""
    attention, mlp = cast(Attention, block.token.mixer), cast(Mlp, block.channel.mixer)
    return bool(attention.dropout or attention.projection_dropout.p or mlp.dropout.p)


def _drops_branches(block: TwoStepBlock) -> bool:
    return bool(cast(ResidualBranch, block.token).drop_path or cast(ResidualBranch, block.channel).drop_path)


class NativeTransformerBlocks(Blocks):
    """Holds the plain blocks and computes them in C++. Tokens (B, N, C); the residual stream is float32.

    Returns the tokens' own type, as the plain blocks do. The plain blocks run where activations are to be
    recomputed, in training with dropout, and on devices other than the CPU.
    """

    def __init__(self, blocks: Blocks, precision: Precision, lib: NativeLibrary) -> None:
        """Take over the blocks, without a copy."""
        super().__init__(blocks)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.twin_name = f"native transformer blocks, {precision}, {lib.instructions}"
        self._fixed: tuple[Any, tuple[list[Weights], ctypes.Array[Any]]] | None = None

    def train(self, mode: bool = True) -> NativeTransformerBlocks:
        """Set the mode; what was laid out for inference is made anew."""
        self._fixed = None
        super().train(mode)
        return self

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks."""
        blocks = cast("list[TwoStepBlock]", list(self))
        drops = any(block.training and _drops(block) for block in blocks)
        if recompute or drops or tokens.device.type != "cpu":
            return super().forward(tokens, grid, recompute=recompute)
        with torch.autocast("cpu", enabled=False):
            out = self._run(tokens.float().contiguous(), blocks)
        return out.to(tokens.dtype)

    def _run(self, stream: Tensor, blocks: list[TwoStepBlock]) -> Tensor:
        parameters = [parameter for block in blocks for parameter in block.parameters()]
        shape = Tokens(stream.shape[0], stream.shape[1], self.dtype)
        if torch.is_grad_enabled() and (stream.requires_grad or any(p.requires_grad for p in parameters)):
            out: Tensor = _TransformerRun.apply(stream, shape, self, *parameters)  # type: ignore[no-untyped-call]
            return out
        lib = loaded()
        weights, structs = self._laid_out(lib, parameters)
        if any(block.training and _drops_branches(block) for block in blocks):
            for block, each in zip(blocks, weights, strict=True):
                stream, _ = transformer.forward(lib, shape, stream, each, keep_factors(block, shape))
            return stream
        stream = stream.clone()
        transformer.infer(lib, shape, stream, weights[0], structs)
        return stream

    def _laid_out(
        self, lib: NativeLibrary, parameters: list[nn.Parameter]
    ) -> tuple[list[Weights], ctypes.Array[Any]]:
        """Weights for inference, made once and again when any of them changed."""
        key = (lib.instructions, [(p.data_ptr(), p._version) for p in parameters])
        if self._fixed is None or self._fixed[0] != key:
            blocks = cast("list[TwoStepBlock]", list(self))
            weights = [transformer.weights_of(lib, block, self.dtype, backward=False) for block in blocks]
            self._fixed = (key, (weights, transformer.laid_out(lib, weights)))
        return self._fixed[1]


def keep_factors(block: TwoStepBlock, shape: Tokens) -> tuple[Tensor | None, Tensor | None]:
    """Draw which pictures' branches are dropped, as the plain block does: factors (B,), or None."""
    token, channel = cast(ResidualBranch, block.token), cast(ResidualBranch, block.channel)
    return _factors(token, shape), _factors(channel, shape)


def _factors(branch: ResidualBranch, shape: Tokens) -> Tensor | None:
    if not (branch.training and branch.drop_path > 0):
        return None
    ones = torch.ones(shape.images, 1, 1, dtype=shape.dtype)
    return drop_path(ones, branch.drop_path).flatten().float()


class _TransformerRun(torch.autograd.Function):
    """All blocks as one step of autograd: the stream and every parameter -> the stream."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, shape: Tokens, twin: NativeTransformerBlocks, *_: Tensor) -> Tensor:
        """Run; keep each block's streams, qkv, heads' outputs and hidden units."""
        lib = loaded()
        ctx.shape, ctx.blocks, ctx.kept = shape, cast("list[TwoStepBlock]", list(twin)), []
        for block in ctx.blocks:
            weights = transformer.weights_of(lib, block, shape.dtype, backward=True)
            stream, kept = transformer.forward(lib, shape, stream, weights, keep_factors(block, shape))
            ctx.kept.append(kept)
        return stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back; activations are freed as they are used."""
        remaining: list[Kept] | None = ctx.kept
        if remaining is None:
            raise RuntimeError("the native kernels go back once: their activations are freed by then")
        ctx.kept = None
        lib, g = loaded(), gradient.clone(memory_format=torch.contiguous_format)
        found: list[Tensor] = []
        for block in reversed(ctx.blocks):
            g, by_name = transformer.backward(lib, ctx.shape, g, remaining.pop(), block)
            found = [by_name[name] for name, _ in block.named_parameters()] + found
        return (g, None, None, *found)
