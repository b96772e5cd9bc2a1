"""The activation itself, value by value: what averages over channels would hide."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native.library import INSTRUCTIONS, NativeLibrary, dtype_number, floats
from isopatch.kernels.native.linear import SOURCES
from isopatch.nn.skeleton import Isotropic

SETS = pytest.mark.parametrize("instructions", INSTRUCTIONS[1:])
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
# Of GELU's value and slope, beside the rounding to the storage type: see normal_curve.h.
VALUE, SLOPE = {torch.float32: 1e-6, torch.bfloat16: 1.4e-4}, {torch.float32: 2e-6, torch.bfloat16: 5.3e-4}
ROUNDING = {torch.float32: 2**-22, torch.bfloat16: 2**-8}


def points(dtype: torch.dtype) -> Tensor:
    """Rows (n, 32) that the storage type holds exactly: dense about 0, and far out on both sides."""
    dense = torch.linspace(-6, 6, 6000)
    far = torch.tensor([5.0, 8.0, 20.0, 100.0, 1000.0, 1e4, 1e30])
    every = torch.cat([dense, far, -far, torch.tensor([0.0, -0.0, 1e-30, -1e-30])]).to(dtype)
    return torch.cat([every, every[: -len(every) % 32]]).view(-1, 32)


def values(native: NativeLibrary, u: Tensor, act: int = 0) -> Tensor:
    """act(u), through the pass that normalises, with scale 1 and shift 0."""
    out = torch.empty_like(u)
    sizes = {"dtype": dtype_number(u.dtype), "act": act, "rows": u.shape[0], "channels": 32, "chunk": 192}
    native.call("normalise", **sizes, u=u, scale=torch.ones(32), shift=torch.zeros(32), x=out)
    return out


def slopes(native: NativeLibrary, u: Tensor) -> Tensor:
    """act'(u), one value at a time: the gradient of a 1x1 depthwise step's bias for one picture each."""
    rows = u.shape[0]
    one, none = torch.ones(32), torch.zeros(32)
    gx, bias, weight = torch.empty_like(u), floats(rows, 32), floats(rows, 1, 32)
    native.call(
        "depthwise_backward",
        **{"dtype": dtype_number(u.dtype), "act": 0, "images": rows, "height": 1, "width": 1, "channels": 32},
        **{"kernel": 1, "groups": rows, "pad_top": 0, "pad_left": 0},
        gy=torch.ones_like(u),
        u=u,
        mean=none,
        rstd=one,
        scale=one,
        mean_g=none,
        mean_gx=none,
        x=torch.zeros_like(u),
        weight=torch.zeros(1, 32),
        gx=gx,
        weight_sums=weight,
        bias_sums=bias,
    )
    return bias


def exact(u: Tensor) -> tuple[Tensor, Tensor]:
    """GELU and its slope in double."""
    x = u.double().requires_grad_()
    y = nn.functional.gelu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


@SETS
@TYPES
def test_every_value_and_slope(native: NativeLibrary, instructions: str, dtype: torch.dtype) -> None:
    native.choose(instructions)
    u = points(dtype)
    wanted, wanted_slope = exact(u)
    error = (values(native, u).double() - wanted).abs() - ROUNDING[dtype] * wanted.abs()
    assert error.max() <= VALUE[dtype], u.flatten()[error.argmax()]
    error = (slopes(native, u).double() - wanted_slope).abs()
    assert error.max() <= SLOPE[dtype], u.flatten()[error.argmax()]


@SETS
@TYPES
def test_far_out_it_is_nothing_or_the_identity(
    native: NativeLibrary, instructions: str, dtype: torch.dtype
) -> None:
    native.choose(instructions)
    far = torch.tensor([-5.5, -8.0, -20.0, -1000.0, -1e4, 5.5, 8.0, 20.0, 1024.0, 8192.0]).to(dtype)
    u = far.repeat(32).view(-1, 32)
    found = values(native, u)
    assert torch.equal(found[u > 0], u[u > 0])
    assert found[u < 0].abs().max() <= 3e-7  # -5.5 Phi(-5.5) is 1e-7
    slope = slopes(native, u)
    like_float = dtype == torch.float32 or instructions == "avx2"
    assert (slope - (u > 0).float()).abs().max() <= (1e-6 if like_float else 0)
    assert torch.equal(values(native, u, act=1), u.clamp(min=0))


@SETS
def test_what_is_not_finite(native: NativeLibrary, instructions: str) -> None:
    native.choose(instructions)
    for dtype in (torch.float32, torch.bfloat16):
        u = torch.zeros(1, 32, dtype=dtype)
        u[0, :2] = torch.tensor([float("nan"), float("inf")])
        found = values(native, u)
        assert found[0, 0].isnan() and found[0, 1] == float("inf") and not found[0, 2:].any()


@SETS
@TYPES
def test_the_slope_of_nan_is_nan(native: NativeLibrary, instructions: str, dtype: torch.dtype) -> None:
    native.choose(instructions)
    u, out = torch.zeros(32, 32, dtype=dtype), torch.empty(32, 32, dtype=dtype)
    u[0, 0] = float("nan")
    native.call(
        "linear_backward",
        **{"dtype": dtype_number(dtype), "act": 0, "source": SOURCES["act"], "rows": 32, "inner": 32},
        **{"columns": 32, "chunk": 32, "groups": 1, "rows_per_image": 32, "residual": 0},
        g=torch.ones(32, 32, dtype=dtype),  # finite, as behind a loss that leaves a place out
        in_=u,
        weight=native.pack(torch.eye(32), dtype),
        g_in=out,
        weight_sums=floats(1, 32, 32),
        bias_sums=floats(1, 32),
    )
    assert out[0, 0].isnan() and (out.flatten()[1:] == 0.5).all()


def stem_of(precision: str) -> tuple[Isotropic, Isotropic]:
    """A ConvMixer whose stem passes its one-channel pixels on, and its twin."""
    model = isopatch.create_model(
        "convmixer", dim=32, depth=1, kernel_size=3, patch_size=1, image_size=16, num_classes=2, in_channels=1
    )
    assert isinstance(model, Isotropic)
    with torch.no_grad():
        model.stem.proj.weight.fill_(1)
        model.stem.proj.bias.zero_()
    twin = copy.deepcopy(model)
    swap(twin, kernels="native", precision=precision)
    return model, twin


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("mean", "deviation"), [(-8.0, 1.0), (-20.0, 4.0), (-60.0, 12.0), (-1000.0, 100.0)])
def test_a_dead_channel_stays_dead_through_its_norm(
    native: NativeLibrary, precision: str, mean: float, deviation: float
) -> None:
    """BatchNorm divides by almost nothing: whatever GELU leaves of a channel far below 0 would come alive."""
    draw = torch.Generator().manual_seed(0)
    images = (torch.randn(8, 1, 16, 16, generator=draw) * deviation + mean).clamp(max=-5.5)
    plain, twin = stem_of(precision)
    exact_tokens = copy.deepcopy(plain).double().train().stem(images.double())[0]
    direction = torch.randn(exact_tokens.shape, generator=draw)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = twin.train().stem(images)[0]
    found.float().backward(direction)
    exact_tokens.backward(direction.double())
    assert found.abs().max() < 1e-2 and exact_tokens.abs().max() < 1e-2
    gradient = twin.stem.proj.weight.grad
    assert isinstance(gradient, Tensor) and gradient.abs().max() < 1e-2 * direction.norm()
