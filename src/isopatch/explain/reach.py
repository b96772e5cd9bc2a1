"""How far a part of a model looks: mean distance in pixels, weighted by its mixing weights.

    distance = mean over queries of  sum over keys |w(query, key)| * |place(query) - place(key)|
                                     / sum over keys |w(query, key)|

N places on a grid; a place's centre is where its cell's centre lies in the picture. The weights of attention
are given per picture; those of everything else are fixed, and their absolute values are normalised per query,
over the places that exist: beyond the border there is nothing to look at. Queries that look nowhere (all
weights zero) do not count; where none counts there is no distance (NaN).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from isopatch.explain.parts import Seen
from isopatch.models.cycle_mlp import CycleMixer
from isopatch.models.vision_permutator import PermuteMixer
from isopatch.nn.fixed_mixers import IdentityMixer, PoolMixer, RandomMixer
from isopatch.nn.layout import Grid
from isopatch.nn.token_mlp import SpatialGate, TokenLinear, TokenMlp

Distances = NDArray[np.float64]


class Reach(NamedTuple):
    """kind: of the part, in words. unit: what each distance belongs to ("head", "channel", "layer").
    distances: in pixels, one per unit."""

    kind: str
    unit: str
    distances: Distances


def place_distances(grid: Grid, cell: tuple[float, float]) -> Tensor:
    """Return the distance of every two places' centres in pixels, (N, N) float64."""
    rows, cols = grid
    y = torch.arange(rows, dtype=torch.float64).repeat_interleave(cols) * cell[0]
    x = torch.arange(cols, dtype=torch.float64).repeat(rows) * cell[1]
    return torch.hypot(y[:, None] - y, x[:, None] - x)


def uniform_distance(grid: Grid, cell: tuple[float, float]) -> float:
    """Return the distance of a part that looks everywhere alike: the mean over all pairs of places."""
    return float(place_distances(grid, cell).mean())


def matrix_distance(weights: Tensor, grid: Grid, cell: tuple[float, float], *, prefix: int = 0) -> Tensor:
    """Return the distance (...) of weights (..., P + N, P + N), queries in rows.

    prefix: P tokens before the grid, whose rows and columns are dropped; the rest is normalised again.
    """
    among = weights[..., prefix:, prefix:].abs().double()  # a sum of many small numbers
    total = among.sum(dim=-1)
    far = (among * place_distances(grid, cell).to(among.device)).sum(dim=-1)
    return _mean_of_queries(far, total, dims=1)


def kernel_distance(
    kernels: Tensor,
    reads: Grid,
    cell: tuple[float, float],
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    before: tuple[int, int],
) -> Tensor:
    """Return the distance (K,) of convolution kernels (K, rows, cols) over a map.

    reads, cell: the map that is read and the pixels one of its places covers. before: places of padding above
    and left. A strided result stands in the middle of the places that it takes the place of.
    """
    weights = kernels.cpu().double().abs()
    offsets = [
        (torch.arange(size, dtype=torch.float64) * spread - first - (step - 1) / 2) * pixels
        for size, spread, first, step, pixels in zip(
            weights.shape[1:], dilation, before, stride, cell, strict=True
        )
    ]
    distance = torch.hypot(offsets[0][:, None], offsets[1][None, :])
    after = [
        max((size - 1) * spread - first, 0)
        for size, spread, first in zip(weights.shape[1:], dilation, before, strict=True)
    ]
    there = F.pad(torch.ones(1, 1, *reads, dtype=torch.float64), (before[1], after[1], before[0], after[0]))
    total, far = (
        F.conv2d(there, w.unsqueeze(1), stride=stride, dilation=dilation)[0]
        for w in (weights, weights * distance)
    )
    return _mean_of_queries(far, total, dims=2)


def reach_of(part: nn.Module, seen: Seen) -> Reach:
    """Return the distances of a part whose mixing weights do not depend on the picture."""
    if isinstance(part, nn.Conv2d):
        weight = part.weight.detach().abs().sum(dim=1)  # over the channels that are read
        kind = "depthwise" if part.groups == part.in_channels else "convolution"
        return _reach(kind, "channel", kernel_distance(
            weight, seen.reads, seen.cell, stride=_two(part.stride), dilation=_two(part.dilation),
            before=_padding_before(part),
        ))  # fmt: skip
    if isinstance(part, CycleMixer):
        kernels = cycle_kernels(part)
        centre = part.step_size // 2
        return _reach(
            "cycle", "channel", kernel_distance(kernels, seen.reads, seen.cell, before=(centre, centre))
        )
    if isinstance(part, IdentityMixer):
        return Reach("identity", "layer", np.zeros(1))
    kind, matrix = mixing_matrix(part, seen.grid)
    return _reach(kind, "layer", matrix_distance(matrix, seen.grid, seen.cell).reshape(1))


def mixing_matrix(part: nn.Module, grid: Grid) -> tuple[str, Tensor]:
    """Return (kind, absolute weights (N, N)) with which each place reads every other.

    Of a token-MLP the product of its two layers, its activation taken as a constant slope; of a permute-MLP
    the mean over segments' channels of its three branches, which weigh alike.
    """
    if isinstance(part, TokenMlp):
        first, second = (layer.weight.detach().cpu().double() for layer in (part.mlp.fc1, part.mlp.fc2))
        return "token-MLP", (second @ first).abs()
    if isinstance(part, TokenLinear):
        return "token-linear", _absolute(part.linear)
    if isinstance(part, SpatialGate):
        return "spatial gate", _absolute(part.linear)
    if isinstance(part, RandomMixer):
        return "fixed random", part.weights.detach().cpu().double().abs()
    if isinstance(part, PoolMixer):
        return "pooling", pool_matrix(grid, part.kernel_size)
    assert isinstance(part, PermuteMixer), type(part)
    return "permute", permute_matrix(part, grid)


def pool_matrix(grid: Grid, kernel_size: int) -> Tensor:
    """Return |mean over the window - the place itself|, (N, N), as `PoolMixer` computes it."""
    away = place_distances(grid, (1.0, 0.0)), place_distances(grid, (0.0, 1.0))
    inside = (torch.maximum(*away) <= kernel_size // 2).double()
    mean = inside / inside.sum(dim=1, keepdim=True)
    return (mean - torch.eye(len(mean), dtype=torch.float64)).abs()


def permute_matrix(part: PermuteMixer, grid: Grid) -> Tensor:
    """Return the mean absolute weights (N, N) of rows, columns and the place itself."""
    rows, cols = grid

    def along(linear: nn.Linear, count: int) -> Tensor:
        # (place, channel of the segment) that is written x that which is read: absolute weights, summed over
        # what is read and averaged over what is written
        weight = _absolute(linear).view(count, -1, count, linear.in_features // count)
        return weight.sum(dim=3).mean(dim=1)

    same_row, same_col = torch.eye(rows, dtype=torch.float64), torch.eye(cols, dtype=torch.float64)
    down = torch.einsum("ij,kl->ikjl", along(part.rows, rows), same_col)
    across = torch.einsum("ij,kl->ikjl", same_row, along(part.cols, cols))
    own = _absolute(part.place).sum(dim=1).mean()
    here = own * torch.einsum("ij,kl->ikjl", same_row, same_col)
    return ((down + across + here) / 3).reshape(rows * cols, rows * cols)


def cycle_kernels(part: CycleMixer) -> Tensor:
    """Return the absolute weights of a cycle-MLP as kernels (C, s, s), s its step, made odd.

    A channel that is read s // 2 places further on is a weight there; the three branches weigh alike.
    """
    half = part.step_size // 2
    kernels = torch.zeros(part.place.out_features, 2 * half + 1, 2 * half + 1, dtype=torch.float64)
    for channel in range(part.step_size):
        offset = (channel + half) % part.step_size
        read = slice(channel, None, part.step_size)
        kernels[:, half, offset] += _absolute(part.cols)[:, read].sum(dim=1) / 3
        kernels[:, offset, half] += _absolute(part.rows)[:, read].sum(dim=1) / 3
    kernels[:, half, half] += _absolute(part.place).sum(dim=1) / 3
    return kernels


def _absolute(layer: nn.Linear) -> Tensor:
    """Return a layer's absolute weights (out, in), float64 on the CPU."""
    return layer.weight.detach().cpu().double().abs()


def _reach(kind: str, unit: str, distances: Tensor) -> Reach:
    return Reach(kind, unit, distances.cpu().numpy())


def _mean_of_queries(far: Tensor, total: Tensor, *, dims: int) -> Tensor:
    """Mean of far / total over the last dims, where total is positive; NaN where it nowhere is."""
    over = tuple(range(-dims, 0))
    looks = total > 0
    each = torch.where(looks, far / torch.where(looks, total, 1.0), 0.0)
    count = looks.sum(dim=over)
    return torch.where(count > 0, each.sum(dim=over) / count.clamp(min=1), torch.nan)


def _padding_before(part: nn.Conv2d) -> tuple[int, int]:
    """Places of padding above and left of a convolution that keeps the size of the map (over its stride).

    A convolution that pads nothing itself has its map padded before it: what keeps the size, the odd place
    after.
    """
    if not isinstance(part.padding, str) and max(part.padding) > 0:
        return _two(part.padding)
    pairs = zip(part.kernel_size, part.dilation, part.stride, strict=True)
    down, across = (max((size - 1) * spread + 1 - step, 0) // 2 for size, spread, step in pairs)
    return down, across


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    down, across = values
    return down, across
