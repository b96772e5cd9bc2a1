"""Depthwise convolution as products of matrices (AMX, large kernels on wide maps) is the convolution."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from tests.kernels.native.comparison import Tolerance, violations
from tests.kernels.native.drawn import draws, infers_alike
from tests.kernels.native.models import build
from torch import Tensor

from isopatch.kernels import swap
from isopatch.kernels.native.library import NativeLibrary
from isopatch.nn.skeleton import Isotropic

CHANNELS = 64  # two blocks
HALF_A_STEP = 2.0**-8  # of rounding to bf16, relative to the value


def drawn(*size: int) -> Tensor:
    """Values that bf16 holds, so that a convolution's only rounding is that of its result."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).bfloat16()


@dataclass(frozen=True)
class Case:
    """Maps, a kernel and the zeros above and to the left of the map."""

    height: int
    width: int
    kernel: int
    top: int
    left: int
    images: int = 1

    def sizes(self) -> dict[str, int]:
        """What both passes take."""
        own = {"images": self.images, "height": self.height, "width": self.width, "kernel": self.kernel}
        return {**own, "dtype": 1, "act": 0, "channels": CHANNELS, "pad_top": self.top, "pad_left": self.left}

    def exact(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """The convolution in float64. tokens: (images, places, channels); weight: (taps, channels)."""
        maps = tokens.transpose(1, 2).unflatten(2, (self.height, self.width))
        right, bottom = self.kernel - 1 - self.left, self.kernel - 1 - self.top
        padded = F.pad(maps, (self.left, right, self.top, bottom))
        kernels = weight.t().reshape(-1, 1, self.kernel, self.kernel)
        return F.conv2d(padded, kernels, groups=CHANNELS).flatten(2).transpose(1, 2)


def errors(native: NativeLibrary, case: Case, *, rounded: bool, wrong: float = 0.0) -> dict[str, float]:
    """Of the forward pass and every gradient: the largest error, in what rounding the result allows.

    The taps are no bf16 numbers. rounded: compare with the convolution whose taps are rounded to bf16. wrong:
    what is added to one of the taps, and to one of the gradients, that the passes are given.
    """
    places = case.height * case.width
    x, g = drawn(case.images, places, CHANNELS), drawn(case.images, places + 1, CHANNELS)[:, 1:].contiguous()
    weight = torch.rand(case.kernel**2, CHANNELS, generator=torch.Generator().manual_seed(0)) - 0.5
    taken = weight.bfloat16() if rounded else weight
    inputs, weights = x.double().requires_grad_(), taken.double().requires_grad_()
    expected = case.exact(inputs, weights)
    expected.backward(g.double())
    assert inputs.grad is not None and weights.grad is not None
    total = g.double().sum((0, 1))
    weight[case.kernel, 0] += wrong
    g[0, 0, 0] += wrong
    out, gx = torch.empty_like(x), torch.empty_like(x)
    native.call(
        "depthwise_forward", **case.sizes(), in_=x, weight=weight, bias=torch.zeros(CHANNELS), out=out
    )
    taps, shifts = torch.empty(1, case.kernel**2, CHANNELS), torch.empty(1, CHANNELS)
    sums = {"weight_sums": taps, "bias_sums": shifts}
    native.call("depthwise_backward", **case.sizes(), groups=1, gy=g, x=x, weight=weight, gx=gx, **sums)
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


INSTRUCTIONS = pytest.mark.parametrize("instructions", ["amx", "amx_emulated"])


def choose(native: NativeLibrary, instructions: str) -> None:
    if native.choose(instructions) != instructions:
        pytest.skip(f"this CPU has {native.supported}")


@INSTRUCTIONS
@draws(10)
@given(
    images=st.integers(1, 2),
    height=st.integers(17, 40),
    width=st.integers(17, 32),
    kernel=st.integers(8, 15),
    top=st.integers(0, 14),
    left=st.integers(0, 14),
)
@example(images=2, height=32, width=32, kernel=9, top=4, left=4)
@example(images=1, height=32, width=32, kernel=15, top=0, left=14)
@example(images=1, height=33, width=17, kernel=15, top=14, left=0)
@example(images=1, height=17, width=31, kernel=8, top=3, left=0)
def test_only_taps_and_results_are_rounded(
    native: NativeLibrary,
    instructions: str,
    images: int,
    height: int,
    width: int,
    kernel: int,
    top: int,
    left: int,
) -> None:
    choose(native, instructions)
    case = Case(height, width, kernel, top % kernel, left % kernel, images)
    found = errors(native, case, rounded=True)
    assert max(found.values()) < 1.01, found
    sums = errors(native, case, rounded=False)  # it is the products that ran
    assert sums["out"] > 1.01 and sums["input"] > 1.01, sums


@pytest.mark.parametrize(
    "case",
    [Case(32, 33, 9, 4, 4), Case(32, 16, 9, 0, 8), Case(16, 32, 9, 8, 0), Case(32, 32, 7, 2, 3)],
    ids=["too-wide", "too-narrow", "too-low", "small-kernel"],
)
@INSTRUCTIONS
def test_elsewhere_sums_are_floats(native: NativeLibrary, instructions: str, case: Case) -> None:
    choose(native, instructions)
    found = errors(native, case, rounded=False)
    assert max(found.values()) < 1.01, found
    products = errors(native, case, rounded=True)
    assert products["out"] > 1.01 and products["input"] > 1.01, products


@INSTRUCTIONS
def test_a_tap_that_is_off_a_little_would_be_seen(native: NativeLibrary, instructions: str) -> None:
    choose(native, instructions)
    found = errors(native, Case(32, 32, 9, 4, 4), rounded=True, wrong=2.0**-4)
    assert min(found.values()) > 1.01, found


def model(kernel_size: int = 9) -> Isotropic:
    return build("convmixer", dim=40, kernel_size=kernel_size, patch_size=1, image_size=(18, 20))


def images() -> Tensor:
    return torch.randn(5, 3, 18, 20, generator=torch.Generator().manual_seed(0))


@INSTRUCTIONS
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_model_equals_the_plain_one(native: NativeLibrary, instructions: str, training: bool) -> None:
    choose(native, instructions)
    plain = model().train(training)
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="bf16")
    assert violations(twin, plain, images(), Tolerance.of("bf16", "gelu")) == []


@INSTRUCTIONS
@pytest.mark.parametrize("kernel_size", [8, 9])
def test_a_models_answers_equal_the_plain_ones(
    native: NativeLibrary, instructions: str, kernel_size: int
) -> None:
    choose(native, instructions)
    plain = model(kernel_size).eval()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="bf16")
    assert infers_alike(twin, plain, images(), Tolerance.of("bf16", "gelu"))


@INSTRUCTIONS
def test_threads_and_splits_change_no_bit(native: NativeLibrary, instructions: str) -> None:
    choose(native, instructions)
    twin = model()
    swap(twin, kernels="native", precision="bf16")
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        twin.train().zero_grad()
        twin.final_features(images()).tokens.square().sum().backward()
        found.append([parameter.grad for parameter in twin.parameters() if parameter.grad is not None])
    assert len(found[0]) > 8
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    with torch.no_grad():
        whole = twin.eval().final_features(images()).tokens
        parts = [twin.final_features(part).tokens for part in images().split((1, 3, 1))]
    assert torch.equal(whole, torch.cat(parts))
