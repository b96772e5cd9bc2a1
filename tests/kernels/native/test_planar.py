"""ConvMixer blocks for inference on AMX, in a layout of their own, are the blocks."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from tests.kernels.native.comparison import Tolerance
from tests.kernels.native.drawn import draws, infers_alike
from tests.kernels.native.models import build
from torch import Tensor

from isopatch.kernels import swap
from isopatch.kernels.native import convmixer, planar
from isopatch.kernels.native.library import NativeLibrary
from isopatch.kernels.native.shape import Shape
from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.skeleton import Isotropic

INSTRUCTIONS = pytest.mark.parametrize("instructions", ["amx", "amx_emulated"])
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


def choose(native: NativeLibrary, instructions: str) -> None:
    if native.choose(instructions) != instructions:
        pytest.skip(f"this CPU has {native.supported}")


@dataclass(frozen=True)
class Case:
    """One block and its input."""

    height: int
    width: int
    kernel: int
    dim: int
    activation: str = "gelu"
    images: int = 1

    def model(self) -> Isotropic:
        grid = (self.height, self.width)
        sizes = {"dim": self.dim, "kernel_size": self.kernel, "activation": self.activation}
        return build("convmixer", depth=1, patch_size=1, image_size=grid, **sizes).eval()

    def block(self) -> ConvMixerBlock:
        found = next(each for each in self.model().modules() if isinstance(each, ConvMixerBlock))
        for norm in (found.depthwise_norm, found.pointwise_norm):
            torch.nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
        return found

    def tokens(self) -> Tensor:
        """Values that bf16 holds."""
        draw = torch.Generator().manual_seed(self.height)
        return torch.randn(self.images, self.height * self.width, self.dim, generator=draw).bfloat16()


def exact(case: Case, block: ConvMixerBlock, tokens: Tensor) -> Tensor:
    """The block in float64, with only those roundings to bf16 that the pass has: of weights, and of y."""
    act, block = ACTIVATIONS[case.activation], copy.deepcopy(block).double()
    for convolution in (block.depthwise, block.pointwise):
        convolution.weight.data = convolution.weight.data.float().bfloat16().double()
    x = tokens.double().transpose(1, 2).unflatten(2, (case.height, case.width))
    before, after = (case.kernel - 1) // 2, case.kernel // 2
    u = F.conv2d(
        F.pad(x, (before, after, before, after)),
        block.depthwise.weight,
        block.depthwise.bias,
        groups=case.dim,
    )
    y = (x + block.depthwise_norm(act(u))).float().bfloat16().double()
    u = F.conv2d(y, block.pointwise.weight, block.pointwise.bias)
    found: Tensor = block.pointwise_norm(act(u)).flatten(2).transpose(1, 2).detach()
    return found


def answer(native: NativeLibrary, case: Case, block: ConvMixerBlock, tokens: Tensor) -> Tensor:
    """What the pass makes of it, without the channels it is padded with."""
    padded = -(-case.dim // 32) * 32
    shape = Shape(case.images, (case.height, case.width), padded, torch.bfloat16)
    assert planar.suits(native, shape, [block])
    weights = planar.laid_out(native, [block], torch.bfloat16)
    given = F.pad(tokens, (0, padded - case.dim)).contiguous()
    kept = given.clone()
    out = planar.infer(native, shape, given, weights)
    assert torch.equal(given, kept)  # the caller's
    return out[..., : case.dim]


def error(native: NativeLibrary, case: Case, *, wrong: float = 0.0) -> float:
    """The largest error beside that of rounding the result, in deviations. wrong: added to a tap."""
    block, tokens = case.block(), case.tokens()
    true = exact(case, block, tokens)
    block.depthwise.weight.data[0, 0, 0, 0] += wrong
    ours = answer(native, case, block, tokens).double()
    return float(((ours - true).abs() - 2.0**-8 * true.abs()).max() / true.std())


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[None]:
    """An entry for each call of the module's `infer` from now on."""
    calls: list[None] = []
    plain = module.infer

    def infer(*arguments: object) -> object:
        calls.append(None)
        return plain(*arguments)

    monkeypatch.setattr(module, "infer", infer)
    return calls


@INSTRUCTIONS
@draws(14)
@given(
    height=st.integers(17, 40),
    width=st.integers(17, 32),
    kernel=st.integers(3, 15),
    dim=st.sampled_from([8, 32, 40, 96]),
    activation=st.sampled_from(["gelu", "relu"]),
    images=st.integers(1, 3),
)
@example(height=32, width=32, kernel=7, dim=64, activation="gelu", images=2)
@example(height=33, width=17, kernel=15, dim=32, activation="relu", images=1)
@example(height=17, width=31, kernel=4, dim=33, activation="gelu", images=3)
@example(height=65, width=32, kernel=3, dim=32, activation="gelu", images=1)
@example(height=33, width=17, kernel=3, dim=448, activation="gelu", images=1)  # rows in two parts
def test_it_is_the_block(
    native: NativeLibrary,
    instructions: str,
    height: int,
    width: int,
    kernel: int,
    dim: int,
    activation: str,
    images: int,
) -> None:
    choose(native, instructions)
    assert error(native, Case(height, width, kernel, dim, activation, images)) < 0.01


@INSTRUCTIONS
def test_a_tap_that_is_off_a_little_would_be_seen(native: NativeLibrary, instructions: str) -> None:
    choose(native, instructions)
    assert error(native, Case(32, 32, 7, 32), wrong=0.1) > 0.02


@INSTRUCTIONS
def test_a_model_runs_on_it_and_equals_the_plain_one(
    native: NativeLibrary, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(native, instructions)
    plain = build("convmixer", dim=40, depth=3, patch_size=1, image_size=(18, 20)).eval()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="bf16")
    images = torch.randn(5, 3, 18, 20, generator=torch.Generator().manual_seed(0))
    calls = counted(monkeypatch, planar)
    assert infers_alike(twin, plain, images, Tolerance.of("bf16", "gelu"))
    assert len(calls) == 1
    with torch.no_grad():
        before = twin.final_features(images).tokens
        twin.load_state_dict({name: 1.5 * value for name, value in plain.state_dict().items()})
        assert not torch.equal(before, twin.final_features(images).tokens)


@pytest.mark.parametrize(
    ("grid", "precision", "instructions"),
    [
        ((18, 33), "bf16", "amx_emulated"),
        ((18, 16), "bf16", "amx_emulated"),
        ((16, 18), "bf16", "amx_emulated"),
        ((18, 18), "fp32", "amx_emulated"),
        ((18, 18), "bf16", "avx512_bf16"),
    ],
    ids=["too-wide", "too-narrow", "too-low", "fp32", "no-tiles"],
)
def test_elsewhere_the_passes_run(
    native: NativeLibrary,
    grid: tuple[int, int],
    precision: str,
    instructions: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(native, instructions)
    twin = build("convmixer", dim=32, patch_size=1, image_size=grid).eval()
    swap(twin, kernels="native", precision=precision)
    calls, others = counted(monkeypatch, convmixer), counted(monkeypatch, planar)
    with torch.no_grad():
        twin(torch.randn(2, 3, *grid))
    assert (len(calls), len(others)) == (1, 0)


@INSTRUCTIONS
def test_threads_and_splits_change_no_bit(native: NativeLibrary, instructions: str) -> None:
    choose(native, instructions)
    twin = build("convmixer", dim=96, depth=3, patch_size=1, image_size=(18, 20)).eval()
    swap(twin, kernels="native", precision="bf16")
    images = torch.randn(5, 3, 18, 20, generator=torch.Generator().manual_seed(0))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.no_grad():
            found.append(twin.final_features(images).tokens)
            parts = [twin.final_features(part).tokens for part in images.split((1, 3, 1))]
        found.append(torch.cat(parts))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_the_library_refuses_maps_that_do_not_fit(native: NativeLibrary) -> None:
    choose(native, "amx_emulated")
    case = Case(18, 18, 3, 32)
    weights = planar.laid_out(native, [case.block()], torch.bfloat16)
    tokens = torch.zeros(1, 18 * 33, 32, dtype=torch.bfloat16)
    for grid in ((18, 33), (18, 16), (16, 18)):
        with pytest.raises(RuntimeError, match="refuse these sizes"):
            planar.infer(native, Shape(1, grid, 32, torch.bfloat16), tokens, weights)
    native.choose("avx2")
    with pytest.raises(RuntimeError, match="refuse these sizes"):
        planar.infer(native, Shape(1, (18, 18), 32, torch.bfloat16), tokens, weights)
