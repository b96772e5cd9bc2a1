"""The linear steps of a block in native passes, forward and backward.

A step is one pass: it normalises or activates its input where it reads it, and adds bias and residual where
it writes. The residual stream is float32; what lies between two steps of a branch is in the storage type.
B pictures, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from isopatch.kernels.native import norms
from isopatch.kernels.native.library import NativeLibrary, dtype_number, floats
from isopatch.kernels.native.shape import weight_groups
from isopatch.nn.block import ResidualBranch

Source = Literal["plain", "act", "norm"]

SOURCES: Mapping[Source, int] = {"plain": 0, "act": 1, "norm": 2}
_LEAST_ROWS = 512  # of a group of the weight's gradient, whose sums are set to zero and added up
# Bytes that the rows of a backward chunk take: as many as the sums that each chunk goes over once, in limits.
_LEAST_CHUNK, _LARGEST_CHUNK = 2**20, 2**22


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


def step_of(
    lib: NativeLibrary,
    source: Source,
    linear: nn.Linear,
    branch: ResidualBranch,
    act: int,
    dtype: torch.dtype,
    *,
    backward: bool,
) -> Step:
    """Lay a linear layer out; a branch's learned scale becomes part of its last step.

    source: what the layer reads: the branch's norm, or something of its inside. act: of "act".
    """
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


def _described(tokens: Tokens, step: Step, chunk: int) -> dict[str, Any]:
    return {
        "dtype": dtype_number(tokens.dtype),
        "act": step.act,
        "source": SOURCES[step.source],
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


def linear(
    lib: NativeLibrary,
    tokens: Tokens,
    step: Step,
    in_: Tensor,
    *,
    statistics: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Run a step: what it reads -> (B, N, columns); float32 where a residual is added."""
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


def of_branch(
    branch: ResidualBranch,
    first: tuple[str, Gradients],
    last: tuple[str, nn.Linear, Gradients],
) -> dict[str, Tensor]:
    """Gradients by the plain module's names. What was found for the last step is before the learned scale."""
    first_name, into = first
    last_name, linear, out_of = last
    of_norm = cast(Tensor, into.norm)
    found = {
        "norm.weight": of_norm[0],
        "norm.bias": of_norm[1],
        f"mixer.{first_name}.weight": into.matrix,
        f"mixer.{first_name}.bias": into.bias,
    }
    matrix, bias = out_of.matrix, out_of.bias
    if branch.scale is not None:
        scale, weight = branch.scale.detach(), linear.weight.detach()
        found["scale"] = (weight * matrix).sum(1) + linear.bias.detach() * bias
        matrix, bias = matrix * scale[:, None], bias * scale
    return found | {f"mixer.{last_name}.weight": matrix, f"mixer.{last_name}.bias": bias}


def back(
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
    """Run a step back: g, the gradient of its output -> its input's, in `out`, and its parameters'."""
    row_bytes = (3 * step.columns + 2 * step.inner) * tokens.dtype.itemsize
    sums_bytes = 4 * step.columns * step.inner
    chunk_bytes = min(max(_LEAST_CHUNK, sums_bytes), _LARGEST_CHUNK)
    chunk = max(32, chunk_bytes // row_bytes // 32 * 32)
    chunks = -(-tokens.rows // chunk)
    groups = max(1, min(weight_groups(tokens.rows, chunks, sums_bytes), tokens.rows // _LEAST_ROWS))
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
