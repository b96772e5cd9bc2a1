"""The ways one depthwise convolution can be computed; which is fastest depends on shape, type and GPU.

A form fixes the memory layout of the whole run of blocks too: "direct" multiplies and adds on tokens
(B, H, W, C), "toeplitz" uses tensor cores on channels (C, B, H, W). The 1x1 step is a plain matrix product in
both. No GPU has chosen between them yet: without a measurement (`choose.py`) the rule is the first that fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["tokens", "channels"]
Activation = Literal["gelu", "relu"]

# The least that `tl.dot` takes, and the widest map that the Toeplitz form is measured on.
SMALLEST_SIDE, LARGEST_SIDE = 16, 64


@dataclass(frozen=True)
class Form:
    """One way and its tile: `rows` x `cols` places of `channels` channels, or `rows` rows of one."""

    name: str
    layout: Layout
    rows: int
    cols: int = 0
    channels: int = 1
    largest_kernel: int = (
        15  # up to which the compiler keeps everything in registers (benchmarks/triton_code.py)
    )

    def side(self, width: int) -> int:
        """Side of the Toeplitz matrix for maps of this width."""
        return max(SMALLEST_SIDE, power_of_two(width))


FORMS = (
    Form("direct-8x16x64", "tokens", rows=8, cols=16, channels=64, largest_kernel=9),
    Form("direct-4x16x64", "tokens", rows=4, cols=16, channels=64),
    Form("toeplitz-128", "channels", rows=128, largest_kernel=9),
    Form("toeplitz-64", "channels", rows=64),
)


@dataclass(frozen=True)
class Step:
    """What a half block does beside its tensors: the form, and the activation."""

    form: Form
    activation: Activation


def form_named(name: str) -> Form:
    """Find a form. Raises KeyError for a name of another version's record."""
    return {form.name: form for form in FORMS}[name]


def candidates(width: int, kernel_size: int, dtype: torch.dtype) -> tuple[Form, ...]:
    """The forms worth measuring; the first is the rule where nothing can be measured.

    Tensor cores multiply no full float32, and a wide map's band fills too little of its Toeplitz matrix.
    """
    dense = dtype != torch.float32 and width <= LARGEST_SIDE
    return tuple(
        form for form in FORMS if kernel_size <= form.largest_kernel and (dense or form.layout == "tokens")
    )


def power_of_two(number: int) -> int:
    """Round up to a power of two."""
    return 1 << (number - 1).bit_length()


@dataclass(frozen=True)
class Sizes:
    """Of a map: B pictures, H x W places, C channels, M = B * H * W."""

    pictures: int
    rows: int
    cols: int
    channels: int

    @property
    def places(self) -> int:
        """M."""
        return self.pictures * self.rows * self.cols


def sizes_of(x: Tensor, layout: Layout) -> Sizes:
    """Read the sizes off a contiguous map in either layout."""
    assert x.is_contiguous() and x.dim() == 4, (x.shape, x.stride())
    if layout == "tokens":
        return Sizes(x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    return Sizes(x.shape[1], x.shape[2], x.shape[3], x.shape[0])
