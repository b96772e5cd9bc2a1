"""A run of transformer blocks in native passes, forward and backward.

A block is x1 = x + proj(attention(qkv(norm(x)))), x2 = x1 + fc2(act(fc1(norm(x1)))) (Dosovitskiy et al. 2020,
equations 2 and 3): four linear steps, and attention between the first two. The residual stream is float32;
qkv, the heads' outputs and the hidden units are in the storage type.
B pictures, N tokens, C channels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from isopatch.kernels.native import mlp
from isopatch.kernels.native.library import NO_TENSOR, NativeLibrary, dtype_number, floats
from isopatch.kernels.native.linear import NormWeights, Step, Tokens, back, linear, of_branch, step_of
from isopatch.kernels.native.mlp import KeptMlp, MlpSteps
from isopatch.nn.block import ResidualBranch, TwoStepBlock
from isopatch.nn.token_mixers import Attention


@dataclass
class Weights:
    """A block's four linear steps."""

    qkv: Step
    proj: Step
    mlp: MlpSteps
    heads: int


def weights_of(lib: NativeLibrary, block: TwoStepBlock, dtype: torch.dtype, *, backward: bool) -> Weights:
    """Lay a block's weights out."""
    token, channel = cast(ResidualBranch, block.token), cast(ResidualBranch, block.channel)
    attention = cast(Attention, token.mixer)
    return Weights(
        step_of(lib, "norm", attention.qkv, token, 0, dtype, backward=backward),
        step_of(lib, "plain", attention.proj, token, 0, dtype, backward=backward),
        mlp.steps_of(lib, channel, dtype, backward=backward),
        attention.num_heads,
    )


def laid_out(lib: NativeLibrary, weights: list[Weights]) -> ctypes.Array[Any]:
    """All blocks' weights as `infer` takes them; `weights` must outlive it."""
    return lib.array("transformer_block", [_as_struct(w) for w in weights])


def _as_struct(w: Weights) -> dict[str, Any]:
    found: dict[str, Any] = {}
    steps = {"qkv": w.qkv, "proj": w.proj, "fc1": w.mlp.fc1, "fc2": w.mlp.fc2}
    for name, step in steps.items():
        found |= {name: step.packed, f"{name}_bias": step.bias}
    for number, step in ((1, w.qkv), (2, w.mlp.fc1)):
        norm = cast(NormWeights, step.norm)
        found |= {
            f"norm{number}_weight": norm.weight,
            f"norm{number}_bias": norm.bias,
            f"eps{number}": norm.eps,
        }
    return found


def infer(
    lib: NativeLibrary, tokens: Tokens, stream: Tensor, weights: Weights, blocks: ctypes.Array[Any]
) -> None:
    """Run all blocks over the stream (B, N, C), float32, in place. weights: any block's, for the sizes."""
    lib.call(
        "transformer_infer",
        dtype=dtype_number(tokens.dtype),
        act=weights.mlp.fc2.act,
        images=tokens.images,
        tokens=tokens.count,
        dim=weights.proj.inner,
        hidden=weights.mlp.fc2.inner,
        heads=weights.heads,
        depth=len(blocks),
        blocks=blocks,
        stream=stream,
    )


@dataclass
class Kept:
    """What a block's backward pass reads.

    x: the stream before the block. statistics: mean and 1 / deviation of its rows. log_sums: of the softmaxes
    (B, heads, N). keep: factors of each picture's attention branch, where some are dropped.
    """

    weights: Weights
    x: Tensor
    statistics: tuple[Tensor, Tensor]
    qkv: Tensor
    mixed: Tensor
    log_sums: Tensor
    keep: Tensor | None
    mlp: KeptMlp

    def without_activations(self) -> tuple[list[Tensor], Kept]:
        """Return the activations, for PyTorch to keep, and the rest."""
        found = [self.x, self.qkv, self.mixed, self.mlp.x, self.mlp.hidden]
        rest = replace(self.mlp, x=NO_TENSOR, hidden=NO_TENSOR)
        return found, replace(self, x=NO_TENSOR, qkv=NO_TENSOR, mixed=NO_TENSOR, mlp=rest)

    def with_activations(self, saved: Iterator[Tensor]) -> Kept:
        """Return the whole again, from activations in the order they were returned in."""
        x, qkv, mixed = next(saved), next(saved), next(saved)
        whole = replace(self.mlp, x=next(saved), hidden=next(saved))
        return replace(self, x=x, qkv=qkv, mixed=mixed, mlp=whole)


def forward(
    lib: NativeLibrary,
    tokens: Tokens,
    x: Tensor,
    w: Weights,
    keep: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Kept]:
    """Run one block over the stream x (B, N, C), float32."""
    statistics = floats(tokens.rows), floats(tokens.rows)
    qkv = linear(lib, tokens, w.qkv, x, statistics=statistics)
    mixed, log_sums = tokens.empty(w.proj.inner), floats(tokens.images, w.heads, tokens.count)
    lib.call("attention_forward", **_heads(tokens, w), qkv=qkv, out=mixed, log_sums=log_sums)
    x1 = linear(lib, tokens, w.proj, mixed, residual=x, keep=keep[0])
    x2, kept = mlp.forward(lib, tokens, x1, w.mlp, keep[1])
    return x2, Kept(w, x, statistics, qkv, mixed, log_sums, keep[0], kept)


def _heads(tokens: Tokens, w: Weights) -> dict[str, Any]:
    width = w.proj.inner // w.heads
    return {
        "dtype": dtype_number(tokens.dtype),
        "images": tokens.images,
        "tokens": tokens.count,
        "heads": w.heads,
        "width": width,
        "factor": width**-0.5,
    }


def backward(
    lib: NativeLibrary, tokens: Tokens, g: Tensor, kept: Kept, block: TwoStepBlock
) -> tuple[Tensor, dict[str, Tensor]]:
    """From the gradient of the block's output to its input's and, by name, its parameters'.

    g (B, N, C), float32, is overwritten.
    """
    w = kept.weights
    token, channel = cast(ResidualBranch, block.token), cast(ResidualBranch, block.channel)
    of_channel = mlp.backward(lib, tokens, g, kept.mlp, w.mlp, channel)
    g_mixed, g_qkv = tokens.empty(w.proj.inner), tokens.empty(w.qkv.columns)
    proj = back(lib, tokens, w.proj, g, kept.mixed, out=g_mixed, keep=kept.keep)
    lib.call(
        "attention_backward",
        **_heads(tokens, w),
        qkv=kept.qkv,
        out=kept.mixed,
        g=g_mixed,
        log_sums=kept.log_sums,
        g_qkv=g_qkv,
    )
    qkv = back(lib, tokens, w.qkv, g_qkv, kept.x, out=g, statistics=kept.statistics)
    of_token = of_branch(token, ("qkv", qkv), ("proj", cast(Attention, token.mixer).proj, proj))
    return g, {
        f"{part}.{name}": value
        for part, found in (("token", of_token), ("channel", of_channel))
        for name, value in found.items()
    }
