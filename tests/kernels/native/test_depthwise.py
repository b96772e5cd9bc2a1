"""The gradients of a depthwise token step, native, are the plain ones, on every instruction set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.native.comparison import off, violations
from tests.kernels.native.drawn import Drawn, draws, pictures, small, spread
from torch import Tensor, nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native.depthwise import NativeDepthwise
from isopatch.kernels.native.library import INSTRUCTIONS, NativeLibrary
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.token_mixers import Depthwise

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
    dim=st.integers(16, 90),
    kernel=st.integers(4, 15),
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


def test_the_stem_stays_plain_beside_it_however_often_it_is_asked(native: NativeLibrary) -> None:
    twin = model(dim=40)
    before = type(twin.stem)
    swapped = swap(twin, kernels="native")
    assert [each.path for each in swapped.replaced] == ["blocks.0.token.mixer", "blocks.1.token.mixer"]
    assert swapped.kept[1:] == ("stem: a twin gains nothing beside plain blocks",)
    assert swapped.kept[0].startswith("blocks: ")
    again = swap(twin, kernels="native")
    assert again.replaced == () and type(twin.stem) is before


def test_for_inference_there_is_no_twin(native: NativeLibrary) -> None:
    swapped = swap(model(dim=40), kernels="native", gradients=False)
    assert swapped.kernels == "plain" and not swapped.replaced


def test_a_twin_of_the_blocks_holds_those_of_their_token_steps(native: NativeLibrary) -> None:
    """The blocks' twin does the MLPs of inference, the steps' the gradients: neither disturbs the other."""
    case = Case(64, 5, 8, 8, 2, "gelu", "fp32", native.instructions)
    plain, twin, swapped = case.both(native, training=True)
    steps = ["blocks.0.token.mixer", "blocks.1.token.mixer"]
    assert [each.path for each in swapped.replaced if each.path != "stem"] == ["blocks", *steps]
    assert violations(twin, plain, case.pictures(), case.tolerance()) == []
    again = swap(twin, kernels="native")
    assert again.replaced == () and all(path in str(again.note) for path in ("blocks (", *steps))
    with torch.no_grad():
        assert off(twin.eval()(case.pictures()), plain.eval()(case.pictures())) < 1e-5
    swapped.undo()
    assert [type(module) for module in twin.modules()] == [type(module) for module in plain.modules()]
    inference = swap(twin, kernels="native", gradients=False)
    assert [each.path for each in inference.replaced if each.path != "stem"] == ["blocks"]


def step(kernel_size: int = 5) -> nn.ModuleDict:
    """A single depthwise step of 40 channels, in something that can be swapped."""
    torch.manual_seed(0)
    return nn.ModuleDict({"step": Depthwise(40, kernel_size)})


def tokens() -> Tensor:
    return torch.randn(3, 48, 40, generator=torch.Generator().manual_seed(0))


def both() -> tuple[nn.ModuleDict, nn.ModuleDict]:
    plain, twin = step(), step()
    assert swap(twin, kernels="native", precision="fp32").replaced
    return plain, twin


Change = Callable[[Any], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda step: setattr(step, "conv", nn.Sequential(step.conv)),
        lambda step: setattr(step.conv, "bias", None),
        lambda step: nn.utils.parametrizations.spectral_norm(step.conv),
        lambda step: step.conv.requires_grad_(False),
    ],
    ids=["wrapped", "without-bias", "spectral-norm", "frozen"],
)
def test_what_is_changed_after_the_swap_gives_the_plain_result(native: NativeLibrary, change: Change) -> None:
    found = []
    for holder in both():
        torch.manual_seed(1)
        change(holder["step"])
        given = tokens().requires_grad_()
        out = holder["step"](given, (6, 8))
        out.square().sum().backward()
        found.append((out.detach(), given.grad))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda step: setattr(step, "forward", lambda tokens, grid: tokens),
        lambda step: step.register_parameter("gain", nn.Parameter(torch.ones(1))),
        lambda step: step.register_buffer("count", torch.ones(1)),
        lambda step: step.add_module("more", nn.Identity()),
        lambda step: step.register_forward_hook(lambda *given: None),
    ],
    ids=["forward", "parameter", "buffer", "module", "hook"],
)
def test_a_step_with_something_of_its_own_stays_plain(native: NativeLibrary, change: Change) -> None:
    holder = step()
    change(holder["step"])
    swapped = swap(holder, kernels="native", precision="fp32")
    assert type(holder["step"]) is Depthwise and len(swapped.kept) == 1


def test_the_result_can_be_changed_in_place(native: NativeLibrary) -> None:
    found = []
    for holder in both():
        given = tokens().requires_grad_()
        out = holder["step"](given, (6, 8))
        out[:, 0].zero_()
        out.mul_(2).square().sum().backward()
        found.append(given.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forward_is_pytorchs_own_with_and_without_gradients(
    native: NativeLibrary, precision: str, half: bool
) -> None:
    plain, twin = step(), step()
    swap(twin, kernels="native", precision=precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = [plain["step"](tokens(), (6, 8)), twin["step"](tokens(), (6, 8))]
        with torch.no_grad():
            found.append(twin["step"](tokens(), (6, 8)))
    assert all(torch.equal(each, found[0]) and each.dtype == found[0].dtype for each in found)


@pytest.mark.parametrize("kind", ["negative", "zero", "strided"])
def test_gradients_of_every_kind_are_read_right(native: NativeLibrary, kind: str) -> None:
    made = {
        "negative": lambda: torch._neg_view(torch.ones(3, 48, 40)),
        "zero": lambda: torch._efficientzerotensor((3, 48, 40)),
        "strided": lambda: torch.randn(40, 48, 3, generator=torch.Generator().manual_seed(2)).permute(
            2, 1, 0
        ),
    }
    found = []
    for holder in both():
        given = tokens().requires_grad_()
        holder["step"](given, (6, 8)).backward(made[kind]())
        found.append((given.grad, holder["step"].conv.weight.grad, holder["step"].conv.bias.grad))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["convmixer", "vit"])
@pytest.mark.parametrize("kind", ["negative", "zero"])
def test_the_other_twins_read_them_too(native: NativeLibrary, architecture: str, kind: str) -> None:
    plain = small(architecture, **({"num_heads": 2} if architecture == "vit" else {"kernel_size": 5})).train()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="fp32")
    found = []
    for each in (plain, twin):
        places = (each.stem(pictures())[0].shape[1],)
        given = torch.randn(2, *places, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = each.blocks(given, (8, 8))
        gradient = torch._neg_view(torch.ones_like(out)) if kind == "negative" else None
        out.backward(torch._efficientzerotensor(out.shape) if gradient is None else gradient)
        found.append(given.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


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


@pytest.mark.parametrize(
    ("kernel_size", "why"),
    [(17, "kernel_size 17 is larger than 15"), (3, "PyTorch's own gradients are as fast")],
)
def test_other_kernels_stay_plain(native: NativeLibrary, kernel_size: int, why: str) -> None:
    swapped = swap(model(kernel_size=kernel_size), kernels="native", precision="fp32")
    assert any(why in each for each in swapped.kept), swapped
    assert not any("mixer" in each.path for each in swapped.replaced)
