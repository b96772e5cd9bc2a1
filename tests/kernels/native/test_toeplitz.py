"""Depthwise convolution as products of matrices (AMX, large kernels on wide maps) is the convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from tests.kernels.native.drawn import draws
from torch import Tensor

from isopatch.kernels.native.library import NativeLibrary

CHANNELS = 64  # two blocks
HALF_A_STEP = 2.0**-8  # of rounding to bf16, relative to the value


def drawn(*size: int) -> Tensor:
    """Values that bf16 holds, so that a convolution's only rounding is that of its result."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).bfloat16()


def sizes(images: int, height: int, width: int, kernel: int) -> dict[str, int]:
    """A pass over maps of these sizes in bf16, padded as a layer with padding "same" is."""
    pad = (kernel - 1) // 2
    return {
        "dtype": 1,
        "act": 0,
        "images": images,
        "height": height,
        "width": width,
        "channels": CHANNELS,
        "kernel": kernel,
        "pad_top": pad,
        "pad_left": pad,
    }


def exact(tokens: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """The convolution in float64. tokens: (images, places, channels); weight: (taps, channels)."""
    kernel = round(weight.shape[0] ** 0.5)
    before = (kernel - 1) // 2
    maps = tokens.transpose(1, 2).unflatten(2, (height, width))
    padded = F.pad(maps, (before, kernel - 1 - before) * 2)
    out = F.conv2d(padded, weight.t().reshape(-1, 1, kernel, kernel), groups=CHANNELS)
    return out.flatten(2).transpose(1, 2)


def errors(
    native: NativeLibrary, images: int, height: int, width: int, kernel: int, *, wrong: float = 0.0
) -> dict[str, float]:
    """Of the forward pass and every gradient: the largest error, as a share of what rounding allows.

    wrong: what is added to one of the taps, and to one of the gradients, that the passes are given.
    """
    given_sizes = sizes(images, height, width, kernel)
    places = height * width
    x, g = drawn(images, places, CHANNELS), drawn(images, places + 1, CHANNELS)[:, 1:].contiguous()
    weight = drawn(kernel**2, CHANNELS).float()
    inputs, weights = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = exact(inputs, weights, height, width)
    expected.backward(g.double())
    assert inputs.grad is not None and weights.grad is not None
    total = g.double().sum((0, 1))
    weight[kernel, 0] += wrong
    g[0, 0, 0] += wrong
    out, gx = torch.empty_like(x), torch.empty_like(x)
    native.call(
        "depthwise_forward", **given_sizes, **{"in": x}, weight=weight, bias=torch.zeros(CHANNELS), out=out
    )
    taps, shifts = torch.empty(1, kernel**2, CHANNELS), torch.empty(1, CHANNELS)
    native.call(
        "depthwise_backward",
        **given_sizes,
        groups=1,
        gy=g,
        x=x,
        weight=weight,
        gx=gx,
        weight_sums=taps,
        bias_sums=shifts,
    )
    found = {
        "out": (out, expected.detach(), HALF_A_STEP),
        "input": (gx, inputs.grad, HALF_A_STEP),
        "weight": (taps[0], weights.grad, 1e-5),
        "bias": (shifts[0], total, 1e-5),
    }
    # Beside the rounding of the result there is that of float sums, of the size of all terms.
    return {
        name: float(((ours.double() - true).abs() / (share * true.abs() + 1e-5 * true.std() + 1e-12)).max())
        for name, (ours, true, share) in found.items()
    }


@pytest.mark.parametrize("instructions", ["amx", "amx_emulated"])
@draws(8)
@given(
    images=st.integers(1, 2),
    height=st.integers(1, 40),
    width=st.integers(17, 32),
    kernel=st.integers(8, 15),
)
@example(images=2, height=32, width=32, kernel=9)
@example(images=1, height=33, width=17, kernel=15)
@example(images=1, height=3, width=32, kernel=8)
@example(images=1, height=32, width=33, kernel=9)  # too wide: sums in float
@example(images=1, height=32, width=16, kernel=9)  # too narrow
def test_only_the_result_is_rounded(
    native: NativeLibrary, instructions: str, images: int, height: int, width: int, kernel: int
) -> None:
    if native.choose(instructions) != instructions:
        pytest.skip(f"this CPU has {native.supported}")
    found = errors(native, images, height, width, kernel)
    assert max(found.values()) < 1.01, found


def test_a_tap_that_is_off_a_little_would_be_seen(native: NativeLibrary) -> None:
    found = errors(native, 1, 32, 32, 9, wrong=2.0**-4)
    assert min(found.values()) > 1.01, found
