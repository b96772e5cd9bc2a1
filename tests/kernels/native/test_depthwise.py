"""The gradients of a depthwise token step, native, are the plain ones, on every instruction set."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.native.comparison import violations
from tests.kernels.native.drawn import Drawn, draws, pictures, small, spread
from torch import nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native.depthwise import NativeDepthwise
from isopatch.kernels.native.library import INSTRUCTIONS, NativeLibrary
from isopatch.nn.skeleton import Isotropic

DEPTHWISE = {"token_mixer": "depthwise", "kernel_size": 5, "class_token": False, "pool": "norm-mean"}


@dataclass
class Case(Drawn):
    """One model and batch: norm, depthwise step, MLP; any number of channels."""

    dim: int
    kernel: int
    height: int
    columns: int
    batch: int
    activation: str
    precision: str
    instructions: str

    def model(self) -> Isotropic:
        torch.manual_seed(self.dim * 100 + self.kernel)
        model = isopatch.create_model(
            "bench",
            **DEPTHWISE | {"kernel_size": self.kernel},
            dim=self.dim,
            depth=2,
            patch_size=2,
            image_size=(2 * self.height, 2 * self.columns),
            num_classes=3,
            activation=self.activation,
        )
        assert isinstance(model, Isotropic)
        return spread(model)

    def size(self) -> tuple[int, int]:
        return 2 * self.height, 2 * self.columns


CASES = st.builds(
    Case,
    dim=st.integers(3, 90),
    kernel=st.integers(1, 15),
    height=st.integers(1, 17),
    columns=st.integers(1, 17),
    batch=st.integers(1, 3),
    activation=st.just("gelu"),
    precision=st.sampled_from(["fp32", "bf16"]),
    instructions=st.sampled_from(INSTRUCTIONS[1:]),
)


@draws(40)
@given(case=CASES)
def test_gradients_equal_the_plain_modules(native: NativeLibrary, case: Case) -> None:
    plain, twin, swapped = case.both(native, training=True)
    paths = [each.path for each in swapped.replaced]
    assert paths[-2:] == ["blocks.0.token.mixer", "blocks.1.token.mixer"], swapped
    assert violations(twin, plain, case.pictures(), case.tolerance()) == []


def model(**changes: object) -> Isotropic:
    return small("bench", **DEPTHWISE | changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_small_difference_would_be_seen(native: NativeLibrary, precision: str) -> None:
    case = Case(48, 5, 8, 8, 2, "gelu", precision, native.instructions)
    plain, twin, _ = case.both(native, training=True)
    with torch.no_grad():
        twin.blocks[1].token.mixer.conv.weight[:, 0, 1, 2] += 0.1
    assert violations(twin, plain, case.pictures(), case.tolerance())


def test_without_gradients_it_is_the_plain_step(native: NativeLibrary) -> None:
    plain = spread(model()).eval()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="fp32")
    tokens = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    steps = [each.blocks[0].token.mixer for each in (plain, twin)]
    assert isinstance(steps[1], NativeDepthwise)
    with torch.no_grad():
        assert torch.equal(steps[0](tokens, (8, 8)), steps[1](tokens, (8, 8)))


def test_the_stem_stays_plain_beside_it(native: NativeLibrary) -> None:
    twin = model()
    before = type(twin.stem)
    swapped = swap(twin, kernels="native")
    assert [each.path for each in swapped.replaced] == ["blocks.0.token.mixer", "blocks.1.token.mixer"]
    assert type(twin.stem) is before
    assert swapped.kept == ("stem: a twin gains nothing beside plain blocks",)


def test_undo_puts_all_plain_modules_back(native: NativeLibrary) -> None:
    plain = model()
    kinds = {name: type(module) for name, module in plain.named_modules()}
    swapped = swap(plain, kernels="native", precision="fp32")
    assert {name: type(module) for name, module in plain.named_modules()} != kinds
    swapped.undo()
    assert {name: type(module) for name, module in plain.named_modules()} == kinds


@pytest.mark.parametrize("part", ["weight", "bias", "tokens"])
def test_what_is_frozen_gets_no_gradient(native: NativeLibrary, part: str) -> None:
    found = []
    for twin in (False, True):
        step = spread(model(depth=1)).blocks[0].token.mixer
        holder = nn.ModuleDict({"step": step})
        if twin:
            swap(holder, kernels="native", precision="fp32")
            assert isinstance(holder["step"], NativeDepthwise)
        tokens = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        parts = {"tokens": tokens, "weight": step.conv.weight, "bias": step.conv.bias}
        parts[part].requires_grad_(False)
        holder["step"](tokens, (8, 8)).square().sum().backward()
        found.append({name: each.grad for name, each in parts.items()})
    assert found[1][part] is None
    for name in found[0].keys() - {part}:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-4, atol=1e-4)


def test_a_hook_on_the_convolution_is_called(native: NativeLibrary, caplog: pytest.LogCaptureFixture) -> None:
    twin = model()
    swap(twin, kernels="native", precision="fp32")
    seen: list[torch.Size] = []
    conv = twin.blocks[0].token.mixer.conv
    conv.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    for _ in range(2):
        twin(pictures()).sum().backward()
    assert seen == [torch.Size((5, 64, 8, 8))] * 2
    assert caplog.text.count("the plain depthwise step runs, because Conv2d has hooks") == 1


def test_a_kernel_too_large_stays_plain(native: NativeLibrary) -> None:
    swapped = swap(model(kernel_size=17), kernels="native", precision="fp32")
    assert any("kernel_size 17 is larger than 15" in each for each in swapped.kept), swapped
    assert not any("mixer" in each.path for each in swapped.replaced)
