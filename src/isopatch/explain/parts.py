"""The parts of a model that mix places, by their types and in the order in which pictures meet them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isopatch.explain.depths import blocks_of
from isopatch.models.cycle_mlp import CycleMixer
from isopatch.models.vision_permutator import PermuteMixer
from isopatch.nn.classifier import Classifier
from isopatch.nn.fixed_mixers import IdentityMixer, PoolMixer, RandomMixer
from isopatch.nn.layout import Grid
from isopatch.nn.token_mixers import Attention
from isopatch.nn.token_mlp import SpatialGate, TokenLinear, TokenMlp

ON_TOKENS = (
    Attention, TokenMlp, TokenLinear, SpatialGate, PoolMixer, RandomMixer, IdentityMixer, CycleMixer,
    PermuteMixer,
)  # fmt: skip


class Part(NamedTuple):
    """A part that mixes places. block: 1 for the first; of another library's model, a running number."""

    block: int
    module: nn.Module


class Seen(NamedTuple):
    """Where a part stands. grid: places it writes. reads: places it reads. prefix: tokens before the grid.

    cell: pixels that one place it reads covers, down and across.
    """

    grid: Grid
    reads: Grid
    prefix: int
    cell: tuple[float, float]


def mixing_parts(model: Classifier) -> list[Part]:
    """Return every part that mixes places: those of `ON_TOKENS` and convolutions wider than 1 x 1.

    A depthwise convolution of 1 x 1 stands where a wider one would, as an identity mixer does: both look
    nowhere but at their own place, and are among them. A full one of 1 x 1 mixes channels and is not.
    Stems and the merging steps of pyramids are not among them: they make places, they do not mix them.
    Of another library's model every convolution after the one that reads the picture.
    """
    blocks = blocks_of(model)
    if blocks:
        return [Part(i, part) for i, block in enumerate(blocks, 1) for part in _mixing(block)]
    convolutions = [part for part in _mixing(model) if not _looks_at_itself(part)]
    return [Part(i, part) for i, part in enumerate(convolutions[1:], 1)]


def is_mixing_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution that reads more than one place."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution with a kernel of its own for every channel, wider than 1 x 1."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels
        and max(module.kernel_size) > 1
    )


def look(model: Classifier, parts: list[Part], x: Tensor) -> dict[nn.Module, Seen]:
    """Return where each part stands for pictures of the size of x (1, C, H, W), from one forward pass.

    A part that the pass never reaches is left out.
    """
    seen: dict[nn.Module, Seen] = {}

    def note(part: nn.Module, inputs: tuple[object, ...], output: Tensor) -> None:
        if isinstance(part, nn.Conv2d):
            down, across = part.stride
            grid = (output.shape[2], output.shape[3])
            reads = (grid[0] * down, grid[1] * across)  # not the input's: it may be padded by hand
            prefix = 0
        else:
            tokens, given = inputs[0], inputs[1]
            assert isinstance(tokens, Tensor)
            assert isinstance(given, tuple)
            grid = reads = given
            prefix = tokens.shape[1] - grid[0] * grid[1]
        # Rounded: what fills no patch is no part of a cell; `depths.seen_size` cuts it off beforehand.
        cell = tuple(float(max(round(s / g), 1)) for s, g in zip(x.shape[2:], reads, strict=True))
        seen[part] = Seen(grid, reads, prefix, (cell[0], cell[1]))

    handles = [part.module.register_forward_hook(note) for part in parts]
    try:
        with torch.no_grad():
            for _ in model.features_by_depth(x):
                pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _mixing(module: nn.Module) -> Iterator[nn.Module]:
    """Yield mixing parts in the order of their registration, without looking inside one."""
    if isinstance(module, ON_TOKENS) or is_mixing_convolution(module) or _looks_at_itself(module):
        yield module
        return
    for child in module.children():
        yield from _mixing(child)


def _looks_at_itself(module: nn.Module) -> bool:
    """Whether a module is a depthwise convolution of 1 x 1: a ConvMixer's of kernel size 1."""
    if not isinstance(module, nn.Conv2d) or max(module.kernel_size) > 1:
        return False
    return module.groups == module.in_channels == module.out_channels > 1
