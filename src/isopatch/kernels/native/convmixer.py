"""The run of ConvMixer blocks in native passes, forward and backward.

A block is y = x + norm(act(depthwise(x))), x' = norm(act(W y)) (Trockman and Kolter, arXiv 2201.09792,
section 2). Batch statistics cut it into passes: behind each activation all places must have been seen. A pass
reads what the one before it wrote, applies the norm on the way in, and writes the next activation's input u.
A block keeps x, u1 and u2 in the storage type, and nothing else, for its backward pass.
B pictures, N places, C channels, padded to a multiple of 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.kernels.native import norms
from isopatch.kernels.native.library import NativeLibrary, floats
from isopatch.kernels.native.norms import Norm, known, pad_last, padded
from isopatch.kernels.native.shape import CHUNK, FEW_GROUPS, Shape, known_activation, weight_groups
from isopatch.models.convmixer import ConvMixerBlock


@dataclass
class Weights:
    """A block's convolutions as the passes read them. taps: (k * k, C). matrix, turned: packed."""

    act: int
    kernel: int
    taps: Tensor
    depthwise_bias: Tensor
    matrix: Tensor
    pointwise_bias: Tensor
    turned: Tensor | None  # for the gradient of the 1x1 step's input


def weights_of(lib: NativeLibrary, block: ConvMixerBlock, dtype: torch.dtype, *, backward: bool) -> Weights:
    """Lay a block's weights out."""
    dim = block.pointwise.out_channels
    size, kernel = padded(dim), block.depthwise.kernel_size[0]
    taps = pad_last(block.depthwise.weight.detach().reshape(dim, kernel * kernel).t(), size)
    matrix = block.pointwise.weight.detach().float().reshape(dim, dim)
    matrix = F.pad(matrix, (0, size - dim, 0, size - dim)).contiguous()
    return Weights(
        known_activation(block.activation),
        kernel,
        taps,
        pad_last(known(block.depthwise.bias), size),
        lib.pack(matrix, dtype),
        pad_last(known(block.pointwise.bias), size),
        lib.pack(matrix.t(), dtype) if backward else None,
    )


@dataclass
class Kept:
    """What a block's backward pass reads."""

    weights: Weights
    x: Tensor
    u1: Tensor
    norm1: Norm
    u2: Tensor
    norm2: Norm


@dataclass
class Fixed:
    """A block for inference: weights, and both norms by their running statistics."""

    weights: Weights
    norm1: Norm
    norm2: Norm


def laid_out(lib: NativeLibrary, blocks: list[ConvMixerBlock], dtype: torch.dtype) -> list[Fixed]:
    """Lay blocks out for inference."""
    return [
        Fixed(
            weights_of(lib, block, dtype, backward=False),
            norms.fixed(block.depthwise_norm),
            norms.fixed(block.pointwise_norm),
        )
        for block in blocks
    ]


def infer(lib: NativeLibrary, shape: Shape, x: Tensor, blocks: list[Fixed]) -> Tensor:
    """Run blocks whose norms are fixed: two passes each, both norms applied where their input is made."""
    tile = 32 if "amx" in lib.instructions else 6  # `TileRows`
    for block in blocks:
        w = block.weights
        y, out = shape.empty(), shape.empty()
        lib.call(
            "depthwise_forward",
            **shape.mapwise(w.act, w.kernel),
            in_=x,
            weight=w.taps,
            bias=w.depthwise_bias,
            out=y,
            scale=block.norm1.scale,
            shift=block.norm1.shift,
        )
        lib.call(
            "pointwise_forward",
            **shape.shared_rows(w.act, tile),
            inner=shape.channels,
            channels=shape.channels,
            x=y,
            weight=w.matrix,
            bias=w.pointwise_bias,
            out=out,
            scale=block.norm2.scale,
            shift=block.norm2.shift,
        )
        x = out
    return x


def forward(
    lib: NativeLibrary, shape: Shape, x: Tensor, blocks: list[ConvMixerBlock]
) -> tuple[Tensor, list[Kept]]:
    """Run blocks whose norms take the batch's statistics (or whose gradients are wanted)."""
    kept: list[Kept] = []
    for block in blocks:
        w = weights_of(lib, block, shape.dtype, backward=True)
        before = kept[-1] if kept else None
        here = x if before is None else shape.empty()
        u1, u2 = shape.empty(), shape.empty()
        found = _statistics(block.depthwise_norm, shape.rows // shape.images, shape.rows)
        lib.call(
            "depthwise_forward",
            **shape.mapwise(w.act, w.kernel),
            in_=x if before is None else before.u2,
            in_scale=before and before.norm2.scale,
            in_shift=before and before.norm2.shift,
            x=None if before is None else here,
            weight=w.taps,
            bias=w.depthwise_bias,
            out=u1,
            sums=found and found.sums,
        )
        norm1 = _norm(lib, block.depthwise_norm, found)
        found = _statistics(block.pointwise_norm, CHUNK, shape.rows)
        lib.call(
            "pointwise_forward",
            **shape.rowwise(w.act),
            inner=shape.channels,
            channels=shape.channels,
            x=here,
            u1=u1,
            scale1=norm1.scale,
            shift1=norm1.shift,
            weight=w.matrix,
            bias=w.pointwise_bias,
            out=u2,
            sums=found and found.sums,
        )
        norm2 = _norm(lib, block.pointwise_norm, found)
        kept.append(Kept(w, here, u1, norm1, u2, norm2))
    last = kept[-1]
    out = shape.empty()
    lib.call(
        "normalise",
        **shape.rowwise(last.weights.act),
        channels=shape.channels,
        u=last.u2,
        scale=last.norm2.scale,
        shift=last.norm2.shift,
        x=out,
    )
    return out, kept


def _statistics(norm: nn.BatchNorm2d, each: int, count: int) -> norms.Statistics | None:
    return norms.statistics(norm, each=each, count=count) if norms.uses_batch(norm) else None


def _norm(lib: NativeLibrary, norm: nn.BatchNorm2d, found: norms.Statistics | None) -> Norm:
    return norms.fixed(norm) if found is None else norms.finish(lib, norm, found)


@dataclass
class Gradients:
    """Of one block's parameters, channels padded, in the order of `ConvMixerBlock`'s parameters."""

    depthwise_weight: Tensor  # (k * k, C)
    depthwise_bias: Tensor
    depthwise_norm: norms.NormGradient
    pointwise_weight: Tensor  # (C out, C in)
    pointwise_bias: Tensor
    pointwise_norm: norms.NormGradient

    def of_parameters(self, dim: int, kernel: int) -> list[Tensor]:
        """In the shapes of the plain module's parameters."""
        taps = self.depthwise_weight[:, :dim].t().reshape(dim, 1, kernel, kernel)
        matrix = self.pointwise_weight[:dim, :dim].reshape(dim, dim, 1, 1)
        vectors = (
            self.depthwise_bias,
            self.depthwise_norm.weight,
            self.depthwise_norm.bias,
            self.pointwise_bias,
            self.pointwise_norm.weight,
            self.pointwise_norm.bias,
        )
        dw_bias, dw_gain, dw_shift, pw_bias, pw_gain, pw_shift = (each[:dim] for each in vectors)
        return [taps, dw_bias, dw_gain, dw_shift, matrix, pw_bias, pw_gain, pw_shift]


def backward(lib: NativeLibrary, shape: Shape, g: Tensor, kept: list[Kept]) -> tuple[Tensor, list[Gradients]]:
    """From the gradient of the last block's output to those of the first one's input and every parameter."""
    last = kept[-1]
    size, count = shape.channels, shape.rows
    sums = floats(shape.chunks, 2, size)
    lib.call(
        "gradient_sums",
        **shape.rowwise(last.weights.act),
        channels=size,
        g=g,
        u=last.u2,
        mean=last.norm2.mean,
        rstd=last.norm2.rstd,
        sums=sums,
    )
    found: list[Gradients] = []
    for index in reversed(range(len(kept))):
        here = kept[index]
        before = kept[index - 1] if index else None
        w = here.weights
        norm2 = norms.finish_gradient(lib, here.norm2, sums, count)
        gy, sums = shape.empty(), floats(shape.chunks, 2, size)
        groups = weight_groups(shape.rows, shape.chunks, 4 * size * size)
        matrix = floats(groups, size, size)
        pointwise_bias = floats(shape.chunks, size)
        lib.call(
            "pointwise_backward",
            **shape.rowwise(w.act),
            inner=size,
            channels=size,
            groups=groups,
            g=g,
            u=here.u2,
            **_through(here.norm2, norm2),
            x=here.x,
            u1=here.u1,
            mean1=here.norm1.mean,
            rstd1=here.norm1.rstd,
            scale1=here.norm1.scale,
            shift1=here.norm1.shift,
            weight=w.turned,
            gy=gy,
            sums=sums,
            weight_sums=matrix,
            bias_sums=pointwise_bias,
        )
        norm1 = norms.finish_gradient(lib, here.norm1, sums, count)
        groups = min(shape.images, FEW_GROUPS)  # times the blocks of channels
        taps, depthwise_bias = floats(groups, w.kernel**2, size), floats(groups, size)
        g, sums = shape.empty(), floats(shape.images, 2, size)
        lib.call(
            "depthwise_backward",
            **shape.mapwise(w.act, w.kernel),
            groups=groups,
            gy=gy,
            u=here.u1,
            **_through(here.norm1, norm1),
            x=here.x,
            weight=w.taps,
            gx=g,
            before_u=before and before.u2,
            before_mean=before and before.norm2.mean,
            before_rstd=before and before.norm2.rstd,
            before_sums=before and sums,
            weight_sums=taps,
            bias_sums=depthwise_bias,
        )
        parts = (taps, depthwise_bias, matrix, pointwise_bias)
        dw, dw_bias, pw, pw_bias = (norms.add_up(lib, each) for each in parts)
        found.append(Gradients(dw, dw_bias, norm1, pw, pw_bias, norm2))
    return g, found[::-1]


def _through(norm: Norm, gradient: norms.NormGradient) -> dict[str, Tensor]:
    return {
        "mean": norm.mean,
        "rstd": norm.rstd,
        "scale": norm.scale,
        "mean_g": gradient.mean_g,
        "mean_gx": gradient.mean_gx,
    }
