"""Launch activation and BatchNorm around a convolution, forward and backward, in either layout.

v is what a convolution stored, without its bias. terms (4, C) are mean, 1 / std, scale and shift in float32,
where scale * a + shift is the norm of a.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isopatch.kernels.triton.depthwise import Partials
from isopatch.kernels.triton.device import norm as device
from isopatch.kernels.triton.forms import Layout, Step, sizes_of

# Programs that share a sum over all places: several for each of a large GPU's processors; a constant, so that
# the order of additions does not depend on the GPU.
SUM_PROGRAMS = 1024
# Partial statistics joined by one program, and the channels it takes.
PARTS, PART_CHANNELS = 64, 32


@dataclass(frozen=True)
class _Tile:
    """Places and channels of an element-wise tile: long along whichever the layout makes contiguous."""

    places: int
    channels: int


# 16 elements a thread at 4 warps: two 16-byte loads in flight of each operand.
TILES: dict[Layout, _Tile] = {"tokens": _Tile(16, 128), "channels": _Tile(1024, 2)}


def statistics(v: Tensor, bias: Tensor, step: Step) -> Partials:
    """Statistics of act(v + bias)."""
    launch = _Launch(v, step)
    channels = launch.channels
    mean, square = v.new_empty((2, launch.splits, channels), dtype=torch.float32)
    count = v.new_empty(launch.splits, dtype=torch.float32)
    device.statistics[launch.summing](
        v, bias, mean, square, count, *launch.geometry, launch.splits, **launch.options
    )
    return Partials(mean, square, count)


def batch_terms(partials: Partials, norm: nn.BatchNorm2d) -> Tensor:
    """Join the statistics to terms and update the norm's running ones: unbiased variance, momentum, count."""
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    channels = partials.mean.shape[1]
    channel_tiles = -(-channels // PART_CHANNELS)
    mean, square, count = partials.mean, partials.square, partials.count
    while (parts := mean.shape[0]) > PARTS:
        fewer = -(-parts // PARTS)
        joined_mean, joined_square = mean.new_empty((2, fewer, channels))
        joined_count = mean.new_empty(fewer)
        device.join[(fewer * channel_tiles,)](
            mean,
            square,
            count,
            joined_mean,
            joined_square,
            joined_count,
            parts,
            channels,
            PARTS=PARTS,
            CHANNELS=PART_CHANNELS,
        )
        mean, square, count = joined_mean, joined_square, joined_count
    terms = mean.new_empty((4, channels))
    device.terms_of_batch[(channel_tiles,)](
        mean,
        square,
        count,
        norm.weight.detach(),
        norm.bias.detach(),
        norm.running_mean,
        norm.running_var,
        terms,
        parts,
        channels,
        norm.eps,
        norm.momentum,
        PARTS=PARTS,
        CHANNELS=PART_CHANNELS,
    )
    norm.num_batches_tracked.add_(1)
    return terms


def running_terms(norm: nn.BatchNorm2d) -> Tensor:
    """Terms from the running statistics, which stay as they are."""
    channels = norm.num_features
    terms = norm.weight.new_empty((4, channels), dtype=torch.float32)
    device.terms_of_running[(-(-channels // PART_CHANNELS),)](
        norm.weight.detach(),
        norm.bias.detach(),
        norm.running_mean,
        norm.running_var,
        terms,
        channels,
        norm.eps,
        CHANNELS=PART_CHANNELS,
    )
    return terms


def apply(v: Tensor, bias: Tensor, terms: Tensor, step: Step, *, residual: Tensor | None = None) -> Tensor:
    """scale * act(v + bias) + shift, and the residual where there is one."""
    launch = _Launch(v, step)
    out = torch.empty_like(v)
    device.apply[launch.all](
        v,
        bias,
        terms,
        v if residual is None else residual,
        out,
        *launch.geometry,
        RESIDUAL=residual is not None,
        **launch.options,
    )
    return out


def gradients(
    gradient: Tensor, v: Tensor, bias: Tensor, terms: Tensor, step: Step, *, batch: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of v, of the convolution's bias, of the norm's weight and bias, the last three (C,) float32.

    batch: the terms came from this batch, whose statistics then have gradients too.
    """
    launch = _Launch(v, step)
    partial = v.new_empty((2, launch.splits, launch.channels), dtype=torch.float32)
    device.gradient_sums[launch.summing](
        gradient, v, bias, terms, partial, *launch.geometry, launch.splits, **launch.options
    )
    sums = partial.sum(1)
    out = torch.empty_like(v)
    partial = v.new_empty((launch.splits, launch.channels), dtype=torch.float32)
    device.gradient[launch.summing](
        gradient,
        v,
        bias,
        terms,
        sums,
        out,
        partial,
        *launch.geometry,
        launch.splits,
        BATCH=batch,
        **launch.options,
    )
    return out, partial.sum(0), sums[1], sums[0]


class _Launch:
    """Grids and arguments that every kernel here shares."""

    def __init__(self, v: Tensor, step: Step) -> None:
        layout = step.form.layout
        sizes = sizes_of(v, layout)
        tile = TILES[layout]
        places, self.channels = sizes.places, sizes.channels
        strides = (self.channels, 1) if layout == "tokens" else (1, places)
        self.geometry = (places, self.channels, *strides)
        channel_tiles = -(-self.channels // tile.channels)
        place_tiles = -(-places // tile.places)
        self.splits = max(1, min(place_tiles, SUM_PROGRAMS // channel_tiles))
        self.summing = (self.splits * channel_tiles,)
        self.all = (place_tiles * channel_tiles,)
        self.options = {
            "ACTIVATION": step.activation,
            "PLACES": tile.places,
            "CHANNELS": tile.channels,
            "num_warps": 4,
        }
