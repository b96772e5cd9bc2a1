"""The run of ConvMixer blocks for inference on AMX, all in one pass, in a layout of its own.

Both steps of a block are products of tiles there, and a picture goes through all blocks before the next one
comes: `native/kernels/planar.h`. bfloat16, maps 17 to 32 wide; for others there are the passes of
`isopatch.kernels.native.convmixer`, with the same roundings but for the depthwise kernels, which are rounded
to bfloat16 here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.kernels.native import norms
from isopatch.kernels.native.library import NativeLibrary
from isopatch.kernels.native.norms import known, pad_last, padded
from isopatch.kernels.native.shape import Shape, known_activation
from isopatch.models.convmixer import ConvMixerBlock

TILE = 16  # rows of a tile
WIDE = 32  # bfloat16 values of a tile's row


@dataclass
class Planar:
    """All blocks' weights as the pass reads them; `tensors` is the memory of `blocks`."""

    act: int
    kernel: int
    depth: int
    blocks: ctypes.Array[Any]
    tensors: list[dict[str, Tensor]]


def suits(lib: NativeLibrary, shape: Shape, blocks: Sequence[ConvMixerBlock]) -> bool:
    """Whether there is such a pass for these maps and blocks."""
    height, width = shape.grid
    if "amx" not in lib.instructions or shape.dtype != torch.bfloat16:
        return False
    kinds = {(block.depthwise.kernel_size, known_activation(block.activation)) for block in blocks}
    return height > TILE and TILE < width <= WIDE and len(kinds) == 1


def laid_out(lib: NativeLibrary, blocks: Sequence[ConvMixerBlock], dtype: torch.dtype) -> Planar:
    """Lay blocks out for inference; dtype is bfloat16."""
    tensors = [_weights(block) for block in blocks]
    act, kernel = known_activation(blocks[0].activation), blocks[0].depthwise.kernel_size[0]
    return Planar(act, kernel, len(blocks), lib.array("convmixer_block", tensors), tensors)


def _weights(block: ConvMixerBlock) -> dict[str, Tensor]:
    dim = block.pointwise.out_channels
    size, kernel = padded(dim), block.depthwise.kernel_size[0]
    norm1, norm2 = norms.fixed(block.depthwise_norm), norms.fixed(block.pointwise_norm)
    taps = F.pad(
        block.depthwise.weight.detach().reshape(dim, kernel, kernel),
        (0, TILE - kernel, 0, 0, 0, size - dim),
    )
    matrix = F.pad(block.pointwise.weight.detach().reshape(dim, dim), (0, size - dim, 0, size - dim))
    tiles = matrix.reshape(size // WIDE, WIDE, size // WIDE, WIDE).transpose(1, 2)
    return {
        "taps": _as_bytes(taps),
        "depthwise_bias": pad_last(known(block.depthwise.bias), size),
        "scale1": norm1.scale,
        "shift1": norm1.shift,
        "matrix": _as_bytes(tiles),
        "pointwise_bias": pad_last(known(block.pointwise.bias), size),
        "scale2": norm2.scale,
        "shift2": norm2.shift,
    }


def _as_bytes(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).contiguous().view(torch.uint8)


def infer(lib: NativeLibrary, shape: Shape, x: Tensor, weights: Planar) -> Tensor:
    """Run all blocks over x (B, N, C)."""
    out = shape.empty()
    lib.call(
        "convmixer_infer",
        **shape.mapwise(weights.act, weights.kernel),
        depth=weights.depth,
        blocks=weights.blocks,
        in_=x,
        out=out,
    )
    return out
