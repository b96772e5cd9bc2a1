"""The native ConvMixer is the plain one: outputs, gradients, running statistics, on every instruction set."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.native.comparison import Tolerance, off, violations
from tests.kernels.native.drawn import Drawn, draws, infers_alike
from torch import Tensor, nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native import convmixer
from isopatch.kernels.native.library import INSTRUCTIONS, NativeLibrary
from isopatch.nn.skeleton import Isotropic


@dataclass
class Case(Drawn):
    """One model and batch."""

    dim: int
    depth: int
    kernel: int
    patch: int
    height: int
    width: int
    batch: int
    activation: str
    training: bool
    precision: str
    instructions: str = field(default="avx512_bf16")

    def model(self) -> Isotropic:
        torch.manual_seed(self.dim * 1000 + self.kernel)
        model = isopatch.create_model(
            "convmixer",
            dim=self.dim,
            depth=self.depth,
            kernel_size=self.kernel,
            patch_size=self.patch,
            image_size=self.size(),
            num_classes=3,
            activation=self.activation,
        )
        assert isinstance(model, Isotropic)
        for norm in model.modules():  # statistics and weights that differ from channel to channel
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_mean.uniform_(-0.2, 0.2)
                norm.running_var.uniform_(0.5, 2)
        return model.train(self.training)

    def size(self) -> tuple[int, int]:
        return self.height * self.patch, self.width * self.patch


CASES = st.builds(
    Case,
    dim=st.integers(4, 40),
    depth=st.integers(1, 2),
    kernel=st.integers(1, 15),
    patch=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 18),
    batch=st.integers(1, 3),
    activation=st.sampled_from(["gelu", "relu"]),
    training=st.booleans(),
    precision=st.sampled_from(["fp32", "bf16"]),
    instructions=st.sampled_from(INSTRUCTIONS[1:]),
).filter(lambda case: case.batch * case.height * case.width >= 12)  # of few values a norm leaves only signs


@draws(25)
@given(case=CASES)
def test_twins_equal_the_plain_modules(native: NativeLibrary, case: Case) -> None:
    plain, twin, swapped = case.both(native, training=case.training)
    assert [each.path for each in swapped.replaced] == ["stem", "blocks"], swapped
    assert violations(twin, plain, case.pictures(), case.tolerance()) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("dim", "kernel", "patch", "height", "width", "batch"),
    [
        (96, 9, 1, 32, 32, 2),  # CIFAR-10 without patches
        (160, 7, 2, 16, 40, 2),  # wider than a row of sums, no multiple of a panel
        (256, 5, 2, 16, 16, 5),  # several chunks of rows and groups of pictures
        (130, 15, 1, 20, 3, 3),  # narrower than the kernel, padded channels
        (16, 3, 1, 32, 32, 38),  # rows enough for more than a few groups of a weight's gradient
    ],
)
def test_larger_models_equal_the_plain_modules(
    native: NativeLibrary,
    precision: str,
    dim: int,
    kernel: int,
    patch: int,
    height: int,
    width: int,
    batch: int,
) -> None:
    case = Case(dim, 1, kernel, patch, height, width, batch, "gelu", True, precision)
    plain = case.model()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision=precision)
    assert violations(twin, plain, case.pictures(), case.tolerance()) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_small_difference_would_be_seen(native: NativeLibrary, precision: str) -> None:
    case = Case(40, 1, 5, 2, 9, 7, 2, "gelu", True, precision)
    plain = case.model()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision=precision)
    with torch.no_grad():
        twin.blocks[0].depthwise.weight[0] += 0.2  # one channel of forty
    assert violations(twin, plain, case.pictures(), case.tolerance())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", [*range(8)])
def test_a_gradient_that_is_missing_or_a_fifth_too_large_would_be_seen(
    native: NativeLibrary, precision: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(40, 2, 5, 2, 9, 7, 2, "gelu", True, precision)
    of_parameters = convmixer.Gradients.of_parameters
    for factor in (1.0, 0.0, 1.2):

        def changed(self: convmixer.Gradients, dim: int, kernel: int, factor: float = factor) -> list[Tensor]:
            found = of_parameters(self, dim, kernel)
            found[part] = factor * found[part]
            return found

        monkeypatch.setattr(convmixer.Gradients, "of_parameters", changed)
        plain = case.model()
        twin = copy.deepcopy(plain)
        swap(twin, kernels="native", precision=precision)
        seen = violations(twin, plain, case.pictures(), case.tolerance())
        assert bool(seen) == (factor != 1), (factor, seen)


@draws(8)
@given(case=CASES)
def test_inference_equals_the_plain_modules(native: NativeLibrary, case: Case) -> None:
    plain, twin, _ = case.both(native, training=False)
    assert infers_alike(twin, plain, case.pictures(), case.tolerance())


def far_from_zero(model: Isotropic, pictures: Tensor) -> Isotropic:
    """Shift each channel so far that with these pictures its activation stays on one side of 0."""

    def shift(convolution: nn.Module, given: object, out: Tensor) -> Tensor:
        assert isinstance(convolution.bias, Tensor)
        free = out - convolution.bias.view(-1, 1, 1)
        sign = torch.where(torch.arange(out.shape[1]) % 4 == 0, -1.0, 1.0)
        convolution.bias.copy_(1.3 * sign * free.abs().amax((0, 2, 3)))
        return free + convolution.bias.view(-1, 1, 1)

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [convolution.register_forward_hook(shift) for convolution in convolutions]
    with torch.no_grad():
        model.final_features(pictures)
    for hook in hooks:
        hook.remove()
    return model


@pytest.mark.parametrize("instructions", INSTRUCTIONS[1:])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("dim", "kernel", "height", "width"), [(40, 4, 5, 9), (33, 7, 8, 8), (48, 9, 6, 20)])
def test_relus_gradients_in_bf16_where_none_is_at_its_jump(
    native: NativeLibrary, instructions: str, training: bool, dim: int, kernel: int, height: int, width: int
) -> None:
    case = Case(dim, 2, kernel, 2, height, width, 2, "relu", training, "bf16", instructions)
    native.choose(instructions)
    plain = far_from_zero(case.model(), case.pictures())
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="bf16")
    assert violations(twin, plain, case.pictures(), Tolerance.of("bf16", "relu", far=True)) == []


def test_the_gradient_of_the_picture(native: NativeLibrary) -> None:
    case = Case(40, 2, 5, 2, 9, 7, 2, "gelu", True, "fp32")
    plain = case.model()
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision="fp32")
    gradients = []
    for model in (plain, twin):
        pictures = case.pictures().requires_grad_()
        model(pictures).square().sum().backward()
        assert pictures.grad is not None
        gradients.append(pictures.grad)
    assert off(gradients[1], gradients[0].double()) < 1e-4
