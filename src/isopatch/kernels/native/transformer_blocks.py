"""The twin of a run of transformer blocks: ViT's and DeiT's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from isopatch.kernels.native import transformer
from isopatch.kernels.native.branch_fit import drops_values, keep_factors, unfit_attention, unfit_mlp
from isopatch.kernels.native.fallback import NOTHING, altered, hooked, in_memory, served_type, watched
from isopatch.kernels.native.laid_out import LaidOut
from isopatch.kernels.native.library import NativeLibrary, loaded
from isopatch.kernels.native.linear import Tokens
from isopatch.kernels.native.native_twin import NativeBlocks
from isopatch.kernels.native.shape import activation_number
from isopatch.kernels.native.transformer import Weights
from isopatch.kernels.twin import Precision, Unfit
from isopatch.nn.block import ResidualBranch, TwoStepBlock
from isopatch.nn.blocks import Blocks
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.layout import Grid
from isopatch.nn.token_mixers import Attention


def make(module: nn.Module, precision: Precision) -> nn.Module | Unfit | None:
    """Return the twin of `Blocks` that are all pre-norm attention and MLP."""
    if type(module) is not Blocks or not len(module) or not all(_is_transformer(block) for block in module):
        return None
    reason = "the blocks have hooks" if hooked(module) else altered(module, (Blocks,), NOTHING)
    reason = reason or unfit(module)
    return NativeTransformerBlocks(module, precision, loaded()) if reason is None else Unfit(reason)


def _is_transformer(block: nn.Module) -> bool:
    if not isinstance(block, TwoStepBlock):
        return False
    token: Any = block.token
    channel: Any = block.channel
    return (
        isinstance(token, ResidualBranch)
        and isinstance(channel, ResidualBranch)
        and isinstance(token.mixer, Attention)
        and isinstance(channel.mixer, Mlp)
    )


def unfit(blocks: nn.Module) -> str | None:
    """Say why the passes cannot do what these blocks do, or None where they can."""
    sizes = None
    for block in blocks._modules.values():
        reason = altered(cast(nn.Module, block), (TwoStepBlock,), NOTHING)
        if reason is None:
            token, channel = _branches((cast(nn.Module, block),))
            reason = unfit_attention(token) or unfit_mlp(channel)
        if reason is not None:
            return reason
        own = _sizes(cast(TwoStepBlock, block))
        if sizes not in (None, own):
            return f"the blocks differ in width, hidden width, heads or activation: {sizes}, {own}"
        sizes = own
    return None if sizes else "there are no blocks"


def _sizes(block: TwoStepBlock) -> tuple[int, int, int, int | None]:
    attention, mlp = (cast(Any, block._modules[name])._modules["mixer"] for name in ("token", "channel"))
    own = mlp._modules
    act = activation_number(own["activation"])
    return attention._modules["proj"].in_features, own["fc1"].out_features, attention.num_heads, act


def _branches(blocks: Iterable[nn.Module]) -> Iterator[ResidualBranch]:
    return (cast(ResidualBranch, block._modules[name]) for block in blocks for name in ("token", "channel"))


class NativeTransformerBlocks(NativeBlocks):
    """Holds the plain blocks and computes them in C++. Tokens (B, N, C); the residual stream is float32.

    Returns the tokens' own type, as the plain blocks do. The plain blocks run where activations are to be
    recomputed, where values are dropped, where PyTorch watches (`watched`), for tokens that such blocks do
    not take, and, said once, where the blocks are no longer what was replaced.
    """

    computes = "transformer blocks"
    plain = "transformer blocks run"
    unfit = staticmethod(unfit)
    _fixed: LaidOut[tuple[list[Weights], ctypes.Array[Any]]]

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks."""
        if recompute or watched(tokens) or self._altered() or not self._takes(tokens):
            return super().forward(tokens, grid, recompute=recompute)
        blocks = cast("list[TwoStepBlock]", list(self))
        if any(map(drops_values, _branches(blocks))):
            return super().forward(tokens, grid)
        with torch.autocast("cpu", enabled=False):
            out = self._run(tokens.float().contiguous(), blocks)
        return out.to(tokens.dtype)

    def _takes(self, tokens: Tensor) -> bool:
        """Whether these are tokens of such blocks; what is not, the plain blocks refuse in their words."""
        if tokens.dim() != 3 or not served_type(tokens) or tokens.numel() == 0:
            return False
        return tokens.shape[2] == _sizes(cast(TwoStepBlock, self[0]))[0]

    def _run(self, stream: Tensor, blocks: list[TwoStepBlock]) -> Tensor:
        shape = Tokens(stream.shape[0], stream.shape[1], self.dtype)
        if torch.is_grad_enabled():
            parameters = [parameter for block in blocks for _, parameter in _named_parameters(block)]
            if stream.requires_grad or any(p.requires_grad for p in parameters):
                out: Tensor = _TransformerRun.apply(stream, shape, self, *parameters)  # type: ignore[no-untyped-call]
                return out
        lib = loaded()
        weights, structs = self._laid_out(lib, self._intact.parameters())
        if any(branch.training and branch.drop_path for branch in _branches(blocks)):
            for block, each in zip(blocks, weights, strict=True):
                stream, _ = transformer.forward(lib, shape, stream, each, _keep(block, shape))
            return stream
        stream = stream.clone()
        transformer.infer(lib, shape, stream, weights[0], structs)
        return stream

    def _laid_out(
        self, lib: NativeLibrary, parameters: list[Tensor]
    ) -> tuple[list[Weights], ctypes.Array[Any]]:
        """Weights for inference, made once and again when any of them changed."""
        blocks = cast("list[TwoStepBlock]", list(self))
        settings = [cast(nn.LayerNorm, each.norm).eps for each in _branches(blocks)], _sizes(blocks[0])

        def make() -> tuple[list[Weights], ctypes.Array[Any]]:
            weights = [transformer.weights_of(lib, block, self.dtype, backward=False) for block in blocks]
            return weights, transformer.laid_out(lib, weights)

        return self._fixed.of(lib, parameters, settings, make)


def _keep(block: TwoStepBlock, tokens: Tokens) -> tuple[Tensor | None, Tensor | None]:
    token, channel = _branches((block,))
    return keep_factors(token, tokens), keep_factors(channel, tokens)


class _TransformerRun(torch.autograd.Function):
    """All blocks as one step of autograd: the stream and every parameter -> the stream."""

    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, shape: Tokens, twin: NativeTransformerBlocks, *parameters: Tensor
    ) -> Tensor:
        """Run; keep each block's streams, qkv, heads' outputs and hidden units."""
        lib, blocks, activations = loaded(), cast("list[TwoStepBlock]", list(twin)), []
        ctx.shape, ctx.blocks, ctx.kept = shape, blocks, []
        for block in blocks:
            weights = transformer.weights_of(lib, block, shape.dtype, backward=True)
            stream, kept = transformer.forward(lib, shape, stream, weights, _keep(block, shape))
            found, light = kept.without_activations()
            activations += found
            ctx.kept.append(light)
        # With the parameters: PyTorch refuses to go back when what is the caller's was changed meanwhile.
        ctx.save_for_backward(*activations, *parameters)
        return stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back; PyTorch frees the activations then, unless it is told to retain them."""
        saved = iter(ctx.saved_tensors)
        remaining = [light.with_activations(saved) for light in ctx.kept]
        lib, g = loaded(), in_memory(gradient).clone()
        found: list[Tensor] = []
        for block in reversed(ctx.blocks):
            g, by_name = transformer.backward(lib, ctx.shape, g, remaining.pop(), block)
            found = [by_name[name] for name, _ in _named_parameters(block)] + found
        return (g, None, None, *found)


def _named_parameters(block: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter under every name: of one that has two the gradients are added up by PyTorch."""
    return block.named_parameters(remove_duplicate=False)
