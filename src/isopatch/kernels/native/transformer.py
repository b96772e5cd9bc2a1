"""A run of transformer blocks in native passes, forward and backward.

A block is x1 = x + proj(attention(qkv(norm(x)))), x2 = x1 + fc2(act(fc1(norm(x1)))) (Dosovitskiy et al. 2020,
equations 2 and 3): four linear steps, each one pass that normalises or activates its input where it reads it
and adds bias and residual where it writes, and attention between the first two. The residual stream is
float32; qkv, the heads' outputs and the hidden units are in the storage type.
B pictures, N tokens, C channels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from isopatch.kernels.native import norms
from isopatch.kernels.native.library import NativeLibrary, dtype_number, floats
from isopatch.kernels.native.shape import WEIGHT_SUMS, known_activation
from isopatch.nn.block import ResidualBranch, TwoStepBlock
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.token_mixers import Attention

Source = Literal["plain", "act", "norm"]

_SOURCES: Mapping[Source, int] = {"plain": 0, "act": 1, "norm": 2}
_GROUPS = 8  # partial sums of a weight's gradient, at most
_ROWS_IN_CACHE = 2**19  # bytes that a backward task's rows may take
_LARGEST_CHUNK = 192


@dataclass
class NormWeights:
    """A LayerNorm's weight and bias (C,), and its eps."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> NormWeights:
        """The memory of the norm's own parameters."""
        return cls(norm.weight.detach().contiguous(), norm.bias.detach().contiguous(), norm.eps)


@dataclass
class Step:
    """One linear step as the passes read it.

    matrix (columns, inner), float32; packed and turned: for the product and for its input's gradient.
    """

    source: Source
    act: int
    packed: Tensor
    turned: Tensor | None
    bias: Tensor
    inner: int
    columns: int
    norm: NormWeights | None = None


@dataclass
class Weights:
    """A block's four linear steps."""

    qkv: Step
    proj: Step
    fc1: Step
    fc2: Step
    heads: int


@dataclass
class Tokens:
    """What every pass is told of its tokens (B, N, C)."""

    images: int
    count: int
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        """Tokens of all pictures."""
        return self.images * self.count

    def empty(self, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for one activation (B, N, columns)."""
        return torch.empty(self.images, self.count, columns, dtype=dtype or self.dtype, device="cpu")


def weights_of(lib: NativeLibrary, block: TwoStepBlock, dtype: torch.dtype, *, backward: bool) -> Weights:
    """Lay a block's weights out; a branch's learned scale becomes part of its last step."""
    token, channel = cast(ResidualBranch, block.token), cast(ResidualBranch, block.channel)
    attention, mlp = cast(Attention, token.mixer), cast(Mlp, channel.mixer)
    act = known_activation(mlp.activation)

    def step(source: Source, linear: nn.Linear, branch: ResidualBranch) -> Step:
        matrix = linear.weight.detach()
        bias = floats(linear.out_features).zero_() if linear.bias is None else linear.bias.detach()
        if source != "norm" and branch.scale is not None:
            matrix, bias = matrix * branch.scale.detach()[:, None], bias * branch.scale.detach()
        return Step(
            source,
            act,
            lib.pack(matrix, dtype),
            lib.pack(matrix.t(), dtype) if backward else None,
            bias.contiguous(),
            linear.in_features,
            linear.out_features,
            NormWeights.of(cast(nn.LayerNorm, branch.norm)) if source == "norm" else None,
        )

    return Weights(
        step("norm", attention.qkv, token),
        step("plain", attention.proj, token),
        step("norm", mlp.fc1, channel),
        step("act", mlp.fc2, channel),
        attention.num_heads,
    )


def laid_out(lib: NativeLibrary, weights: list[Weights]) -> ctypes.Array[Any]:
    """All blocks' weights as `infer` takes them; `weights` must outlive it."""
    return lib.array("transformer_block", [_as_struct(w) for w in weights])


def _as_struct(w: Weights) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, step in (("qkv", w.qkv), ("proj", w.proj), ("fc1", w.fc1), ("fc2", w.fc2)):
        found |= {name: step.packed, f"{name}_bias": step.bias}
    for number, step in ((1, w.qkv), (2, w.fc1)):
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
        act=weights.fc2.act,
        images=tokens.images,
        tokens=tokens.count,
        dim=weights.proj.inner,
        hidden=weights.fc2.inner,
        heads=weights.heads,
        depth=len(blocks),
        blocks=blocks,
        stream=stream,
    )


@dataclass
class Kept:
    """What a block's backward pass reads.

    x, x1: the stream before each branch. statistics: mean and 1 / deviation of their rows. log_sums: of the
    softmaxes (B, heads, N). keep: factors of each picture's branches, where some are dropped.
    """

    weights: Weights
    x: Tensor
    statistics: tuple[Tensor, Tensor]
    qkv: Tensor
    mixed: Tensor
    log_sums: Tensor
    x1: Tensor
    statistics1: tuple[Tensor, Tensor]
    hidden: Tensor
    keep: tuple[Tensor | None, Tensor | None]


def forward(
    lib: NativeLibrary,
    tokens: Tokens,
    x: Tensor,
    w: Weights,
    keep: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Kept]:
    """Run one block over the stream x (B, N, C), float32."""
    statistics = floats(tokens.rows), floats(tokens.rows)
    qkv = _linear(lib, tokens, w.qkv, x, statistics=statistics)
    mixed, log_sums = tokens.empty(w.proj.inner), floats(tokens.images, w.heads, tokens.count)
    lib.call("attention_forward", **_heads(tokens, w), qkv=qkv, out=mixed, log_sums=log_sums)
    x1 = _linear(lib, tokens, w.proj, mixed, residual=x, keep=keep[0])
    statistics1 = floats(tokens.rows), floats(tokens.rows)
    hidden = _linear(lib, tokens, w.fc1, x1, statistics=statistics1)
    x2 = _linear(lib, tokens, w.fc2, hidden, residual=x1, keep=keep[1])
    return x2, Kept(w, x, statistics, qkv, mixed, log_sums, x1, statistics1, hidden, keep)


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


def _described(tokens: Tokens, step: Step, chunk: int) -> dict[str, Any]:
    return {
        "dtype": dtype_number(tokens.dtype),
        "act": step.act,
        "source": _SOURCES[step.source],
        "rows": tokens.rows,
        "inner": step.inner,
        "columns": step.columns,
        "chunk": chunk,
        "rows_per_image": tokens.count,
    }


def _normed(step: Step, statistics: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    if step.norm is None or statistics is None:
        return {}
    return {
        "norm_weight": step.norm.weight,
        "norm_bias": step.norm.bias,
        "mean": statistics[0],
        "rstd": statistics[1],
    }


def _linear(
    lib: NativeLibrary,
    tokens: Tokens,
    step: Step,
    in_: Tensor,
    *,
    statistics: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    out = tokens.empty(step.columns, None if residual is None else torch.float32)
    lib.call(
        "linear_forward",
        **_described(tokens, step, 96 if tokens.rows > 1024 else 48),
        in_=in_,
        **_normed(step, statistics),
        eps=0.0 if step.norm is None else step.norm.eps,
        weight=step.packed,
        bias=step.bias,
        residual=residual,
        keep=keep,
        out=out,
    )
    return out


@dataclass
class Gradients:
    """Of one linear step: matrix (columns, inner), bias (columns,), norm (2, inner): weight, then bias."""

    matrix: Tensor
    bias: Tensor
    norm: Tensor | None = field(default=None)


def backward(
    lib: NativeLibrary, tokens: Tokens, g: Tensor, kept: Kept, block: TwoStepBlock
) -> tuple[Tensor, dict[str, Tensor]]:
    """From the gradient of the block's output to its input's and, by name, its parameters'.

    g (B, N, C), float32, is overwritten.
    """
    w = kept.weights
    g_hidden = tokens.empty(w.fc2.inner)
    fc2 = _back(lib, tokens, w.fc2, g, kept.hidden, out=g_hidden, keep=kept.keep[1])
    fc1 = _back(lib, tokens, w.fc1, g_hidden, kept.x1, out=g, statistics=kept.statistics1)
    g_mixed, g_qkv = tokens.empty(w.proj.inner), tokens.empty(w.qkv.columns)
    proj = _back(lib, tokens, w.proj, g, kept.mixed, out=g_mixed, keep=kept.keep[0])
    lib.call(
        "attention_backward",
        **_heads(tokens, w),
        qkv=kept.qkv,
        out=kept.mixed,
        g=g_mixed,
        log_sums=kept.log_sums,
        g_qkv=g_qkv,
    )
    qkv = _back(lib, tokens, w.qkv, g_qkv, kept.x, out=g, statistics=kept.statistics)
    token, channel = cast(ResidualBranch, block.token), cast(ResidualBranch, block.channel)
    attention, mlp = cast(Attention, token.mixer), cast(Mlp, channel.mixer)
    return g, {
        **_of_branch("token.", token, ("qkv", qkv), ("proj", attention.proj, proj)),
        **_of_branch("channel.", channel, ("fc1", fc1), ("fc2", mlp.fc2, fc2)),
    }


def _of_branch(
    prefix: str,
    branch: ResidualBranch,
    first: tuple[str, Gradients],
    last: tuple[str, nn.Linear, Gradients],
) -> dict[str, Tensor]:
    """Gradients by the plain module's names. What was found for the last step is before the learned scale."""
    first_name, into = first
    last_name, linear, out_of = last
    of_norm = cast(Tensor, into.norm)
    found = {
        f"{prefix}norm.weight": of_norm[0],
        f"{prefix}norm.bias": of_norm[1],
        f"{prefix}mixer.{first_name}.weight": into.matrix,
        f"{prefix}mixer.{first_name}.bias": into.bias,
    }
    matrix, bias = out_of.matrix, out_of.bias
    if branch.scale is not None:
        scale, weight = branch.scale.detach(), linear.weight.detach()
        found[f"{prefix}scale"] = (weight * matrix).sum(1) + linear.bias.detach() * bias
        matrix, bias = matrix * scale[:, None], bias * scale
    return found | {f"{prefix}mixer.{last_name}.weight": matrix, f"{prefix}mixer.{last_name}.bias": bias}


def _back(
    lib: NativeLibrary,
    tokens: Tokens,
    step: Step,
    g: Tensor,
    in_: Tensor,
    *,
    out: Tensor,
    statistics: tuple[Tensor, Tensor] | None = None,
    keep: Tensor | None = None,
) -> Gradients:
    row_bytes = (3 * step.columns + 2 * step.inner) * tokens.dtype.itemsize
    chunk = max(32, min(_LARGEST_CHUNK, _ROWS_IN_CACHE // row_bytes // 32 * 32))
    chunks = -(-tokens.rows // chunk)
    groups = max(1, min(chunks, _GROUPS, WEIGHT_SUMS // (4 * step.columns * step.inner)))
    matrix = floats(groups, step.columns, step.inner)
    bias = floats(chunks, step.columns)
    norm = None if step.norm is None else floats(chunks, 2, step.inner)
    lib.call(
        "linear_backward",
        **_described(tokens, step, chunk),
        groups=groups,
        g=g,
        residual=int(step.norm is None),
        keep=keep,
        in_=in_,
        **_normed(step, statistics),
        weight=step.turned,
        g_stream=None if step.norm is None else out,
        g_in=out,
        weight_sums=matrix,
        bias_sums=bias,
        norm_sums=norm,
    )
    return Gradients(
        norms.add_up(lib, matrix),
        norms.add_up(lib, bias),
        None if norm is None else norms.add_up(lib, norm),
    )
