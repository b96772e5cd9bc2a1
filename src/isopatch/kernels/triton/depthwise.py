"""Launch the depthwise convolution, its input gradient and its weight gradient, in either form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isopatch.kernels.triton.device import direct, toeplitz
from isopatch.kernels.triton.forms import Form, Sizes, Step, power_of_two, sizes_of

# Elements of a tile that one thread of the direct form holds: 8 bf16 are one 16-byte load.
ELEMENTS_PER_THREAD = 8
# Partial weight gradients are added afterwards: enough programs for a large GPU, few enough to add quickly.
# A constant, not the GPU's number of processors, so that the order of additions does not depend on it.
WEIGHT_PROGRAMS = 2048


@dataclass(frozen=True)
class Partials:
    """Means (parts, C), squared deviations (parts, C) and counts (parts,) of disjoint sets of places."""

    mean: Tensor
    square: Tensor
    count: Tensor


def convolve(x: Tensor, weight: Tensor, step: Step) -> Tensor:
    """Depthwise convolution of a map, "same" padding, without its bias. weight: (C, 1, k, k)."""
    return _launch(x, weight, step)[0]


def convolve_statistics(x: Tensor, weight: Tensor, bias: Tensor, step: Step) -> tuple[Tensor, Partials]:
    """The same, with the statistics of act(result + bias)."""
    out, partials = _launch(x, weight, step, bias=bias, statistics=True)
    assert partials is not None
    return out, partials


def convolve_apply(x: Tensor, weight: Tensor, bias: Tensor, terms: Tensor, step: Step) -> Tensor:
    """x + scale * act(conv(x) + bias) + shift, in one pass. terms: (4, C), the last two scale and shift."""
    return _launch(x, weight, step, bias=bias, terms=terms, residual=x)[0]


def input_gradient(gradient: Tensor, weight: Tensor, residual: Tensor, step: Step) -> Tensor:
    """Gradient of the convolution's input, plus `residual`: what came through the skip."""
    return _launch(gradient, weight, step, residual=residual, backward=True)[0]


def weight_gradient(x: Tensor, gradient: Tensor, kernel_size: int, step: Step) -> Tensor:
    """Gradient of the weight, (C, 1, k, k) in float32."""
    form = step.form
    sizes = sizes_of(x, form.layout)
    taps = kernel_size * kernel_size
    pad = (kernel_size - 1) // 2
    if form.layout == "tokens":
        tile = _DirectTile(form, sizes)
        programs = tile.channel_tiles * kernel_size
        splits = max(1, min(tile.tiles, WEIGHT_PROGRAMS // programs))
        partial = _float32(x, splits, taps, sizes.channels)
        direct.weight_gradient[(splits * programs,)](
            x,
            gradient,
            partial,
            tile.tiles,
            sizes.rows,
            sizes.cols,
            sizes.channels,
            tile.row_tiles,
            tile.col_tiles,
            splits,
            K=kernel_size,
            PAD=pad,
            ROWS=form.rows,
            COLS=tile.cols,
            CHANNELS=form.channels,
            num_warps=tile.warps,
        )
    else:
        all_rows = sizes.pictures * sizes.rows
        tiles = _ceil(all_rows, form.rows)
        programs = sizes.channels * kernel_size
        splits = max(1, min(tiles, WEIGHT_PROGRAMS // programs))
        partial = _float32(x, splits, taps, sizes.channels)
        toeplitz.weight_gradient[(splits * programs,)](
            x,
            gradient,
            partial,
            all_rows,
            sizes.rows,
            sizes.channels,
            tiles,
            splits,
            W=sizes.cols,
            K=kernel_size,
            PAD=pad,
            ROWS=form.rows,
            SIDE=form.side(sizes.cols),
            WIDEN=_widen(x),
            num_warps=4,
        )
    return partial.sum(0).t().reshape(sizes.channels, 1, kernel_size, kernel_size)


def _launch(
    x: Tensor,
    weight: Tensor,
    step: Step,
    *,
    bias: Tensor | None = None,
    terms: Tensor | None = None,
    residual: Tensor | None = None,
    statistics: bool = False,
    backward: bool = False,
) -> tuple[Tensor, Partials | None]:
    """Run either form; what is not asked for is passed as x and never read."""
    form = step.form
    sizes = sizes_of(x, form.layout)
    kernel_size = weight.shape[-1]
    # An even kernel has one zero more below and right; turned round, above and left.
    pad = kernel_size // 2 if backward else (kernel_size - 1) // 2
    out = torch.empty_like(x)
    taps = weight.detach().reshape(sizes.channels, -1).float()
    scale, shift = (x, x) if terms is None else (terms[2], terms[3])
    tensors = (x if residual is None else residual, x if bias is None else bias, scale, shift, out)
    flags = {
        "K": kernel_size,
        "PAD": pad,
        "FLIP": backward,
        "ACTIVATION": step.activation,
        "APPLY": terms is not None,
        "RESIDUAL": residual is not None,
        "STATISTICS": statistics,
    }
    if form.layout == "tokens":
        tile = _DirectTile(form, sizes)
        partials = _partials(x, tile.tiles, sizes.channels) if statistics else None
        direct.convolve[(tile.tiles * tile.channel_tiles,)](
            x,
            taps.t().contiguous(),
            *tensors,
            *_pointers(partials, x),
            sizes.rows,
            sizes.cols,
            sizes.channels,
            tile.row_tiles,
            tile.col_tiles,
            **flags,
            ROWS=form.rows,
            COLS=tile.cols,
            CHANNELS=form.channels,
            num_warps=tile.warps,
        )
        return out, partials
    all_rows = sizes.pictures * sizes.rows
    tiles = _ceil(all_rows, form.rows)
    partials = _partials(x, tiles, sizes.channels) if statistics else None
    toeplitz.convolve[(tiles * sizes.channels,)](
        x,
        taps,
        *tensors,
        *_pointers(partials, x),
        all_rows,
        sizes.rows,
        sizes.channels,
        tiles,
        W=sizes.cols,
        **flags,
        ROWS=form.rows,
        SIDE=form.side(sizes.cols),
        WIDEN=_widen(x),
        num_warps=4,
    )
    return out, partials


class _DirectTile:
    """How the direct form cuts a map: narrow maps get narrow tiles, and fewer warps with them."""

    def __init__(self, form: Form, sizes: Sizes) -> None:
        self.cols = min(form.cols, max(4, power_of_two(sizes.cols)))
        self.row_tiles = _ceil(sizes.rows, form.rows)
        self.col_tiles = _ceil(sizes.cols, self.cols)
        self.tiles = sizes.pictures * self.row_tiles * self.col_tiles
        self.channel_tiles = _ceil(sizes.channels, form.channels)
        self.warps = max(1, self.cols * form.channels // (32 * ELEMENTS_PER_THREAD))


def _partials(like: Tensor, parts: int, channels: int) -> Partials:
    return Partials(_float32(like, parts, channels), _float32(like, parts, channels), _float32(like, parts))


def _pointers(partials: Partials | None, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (unused,) * 3 if partials is None else (partials.mean, partials.square, partials.count)


def _float32(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _widen(x: Tensor) -> bool:
    """Whether bf16 must be widened before a product: on the CPU, where the interpreter cannot multiply it."""
    return x.dtype == torch.bfloat16 and not x.is_cuda


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
