"""The native transformer is the plain one, on every instruction set."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kernels.native.comparison import Tolerance, off, violations
from tests.kernels.native.drawn import Drawn, draws, infers_alike, pictures, small, spread
from torch import Tensor

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native import linear, mlp, transformer
from isopatch.kernels.native.library import INSTRUCTIONS, NativeLibrary
from isopatch.nn.skeleton import Isotropic


@dataclass
class Case(Drawn):
    """One model and batch. width: of a head, in sixteens; scale: initial layer scale, or None."""

    width: int
    heads: int
    hidden: int
    depth: int
    height: int
    columns: int
    batch: int
    tokens: str
    activation: str
    bias: bool
    scale: float | None
    drop_path: float
    precision: str
    instructions: str

    def model(self) -> Isotropic:
        torch.manual_seed(self.width * 100 + self.hidden)
        heads = self.heads * (1 + self.width % 2)  # the model's width is a multiple of 32
        dim = 16 * self.width * heads
        distilled = self.tokens == "distilled"
        model = isopatch.create_model(
            "deit" if distilled else "vit",
            dim=dim,
            depth=self.depth,
            num_heads=heads,
            mlp_ratio=32 * self.hidden / dim,
            patch_size=2,
            image_size=(2 * self.height, 2 * self.columns),
            num_classes=3,
            activation=self.activation,
            qkv_bias=self.bias,
            drop_path=self.drop_path,
            **({} if distilled else {"layer_scale": self.scale}),
        )
        assert isinstance(model, Isotropic)
        return spread(model)

    def size(self) -> tuple[int, int]:
        return 2 * self.height, 2 * self.columns


CASES = st.builds(
    Case,
    width=st.integers(1, 5),
    heads=st.integers(1, 3),
    hidden=st.integers(1, 8),
    depth=st.integers(1, 2),
    height=st.integers(1, 12),
    columns=st.integers(1, 12),
    batch=st.integers(1, 3),
    tokens=st.sampled_from(["class", "distilled"]),
    activation=st.sampled_from(["gelu", "relu"]),
    bias=st.booleans(),
    scale=st.sampled_from([None, 0.1, 1.0]),
    drop_path=st.sampled_from([0.0, 0.4]),
    precision=st.sampled_from(["fp32", "bf16"]),
    instructions=st.sampled_from(INSTRUCTIONS[1:]),
)


@draws(40)
@given(case=CASES)
def test_twins_equal_the_plain_modules(native: NativeLibrary, case: Case) -> None:
    plain, twin, swapped = case.both(native, training=True)
    assert [each.path for each in swapped.replaced] == ["stem", "blocks"], swapped
    assert violations(twin, plain, case.pictures(), case.tolerance()) == []


@draws(40)
@given(case=CASES)
def test_inference_equals_the_plain_modules(native: NativeLibrary, case: Case) -> None:
    plain, twin, _ = case.both(native, training=False)
    assert infers_alike(twin, plain, case.pictures(), case.tolerance())


def vit(**changes: object) -> Isotropic:
    return small("vit", **({"num_heads": 2} | changes))


def gradients(model: Isotropic, images: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(images).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", ["token.mixer.qkv", "channel.mixer.fc2", "token.norm"])
def test_a_small_difference_would_be_seen(native: NativeLibrary, precision: str, part: str) -> None:
    plain = spread(vit())
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision=precision)
    with torch.no_grad():
        twin.blocks[1].get_submodule(part).weight[:4] += 0.3
    assert violations(twin, plain, pictures(), Tolerance.of(precision, "gelu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("field", ["matrix", "bias", "norm"])
def test_a_gradient_that_is_missing_would_be_seen(
    native: NativeLibrary, precision: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = linear.back

    def changed(*given: Any, **named: Any) -> linear.Gradients:
        found = back(*given, **named)
        if getattr(found, field) is not None:
            setattr(found, field, 0 * getattr(found, field))
        return found

    for module in (transformer, mlp):
        monkeypatch.setattr(module, "back", changed)
    plain = spread(vit())
    twin = copy.deepcopy(plain)
    swap(twin, kernels="native", precision=precision)
    seen = "\n".join(violations(twin, plain, pictures(), Tolerance.of(precision, "gelu")))
    parts = {"matrix": ("qkv.weight", "fc1.weight"), "bias": ("fc2.bias", "proj.bias")}
    for of in parts.get(field, ("token.norm.weight", "channel.norm.bias")):
        assert seen.count(of) == 2, seen  # both blocks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_change_no_bit(native: NativeLibrary, precision: str) -> None:
    model = vit(layer_scale=0.5)
    swap(model, kernels="native", precision=precision)
    tokens = torch.randn(9, 65, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for threads in (1, 2, 3):  # the blocks alone: the stem's and the heads' gradients are PyTorch's
        torch.set_num_threads(threads)
        model.zero_grad()
        given = tokens.clone().requires_grad_()
        model.blocks(given, (8, 8)).square().sum().backward()
        of_parameters = [parameter.grad.clone() for parameter in model.blocks.parameters()]
        with torch.no_grad():
            inferred = [model.blocks(tokens, (8, 8)), model.stem(pictures())[0]]
        found.append([given.grad, *of_parameters, *inferred])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_inference_and_training_compute_the_same(native: NativeLibrary) -> None:
    model = vit().eval()
    swap(model, kernels="native", precision="fp32")
    with torch.no_grad():
        inferred = model(pictures())
    trained = model(pictures())
    assert trained.requires_grad and torch.allclose(trained, inferred, rtol=1e-5, atol=1e-6)


def test_dropout_trains_on_the_plain_blocks(native: NativeLibrary) -> None:
    plain, twin = vit(dropout=0.3), vit(dropout=0.3)
    swap(twin, kernels="native", precision="fp32")
    found = []
    for model in (plain, twin):
        torch.manual_seed(1)
        found.append(gradients(model, pictures()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with torch.no_grad():
        assert off(twin.eval()(pictures()), plain.eval()(pictures())) < 1e-5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dim": 72, "num_heads": 3}, "dim width 72 is not a multiple of 32"),
        ({"dim": 96, "num_heads": 4}, "head width 24 is not a multiple of 16"),
        ({"mlp_ratio": 0.75}, "mlp width 48 is not a multiple of 32"),
        ({"activation": "gelu_tanh"}, "neither exact GELU nor ReLU"),
    ],
)
def test_what_has_no_twin_says_why(native: NativeLibrary, changes: dict[str, object], why: str) -> None:
    model = vit(**changes)
    swapped = swap(model, kernels="native", precision="fp32")
    assert any(why in each for each in swapped.kept), swapped
    assert type(model.blocks).__name__ == "Blocks"
