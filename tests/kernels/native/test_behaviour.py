"""What users rely on beside equality: determinism, names, undo, fresh weights, non-finite numbers."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native.library import FIELDS, PACKED, STORED, NativeLibrary
from isopatch.nn.skeleton import Isotropic

SIZES: dict[str, dict[str, int]] = {
    "convmixer": {"dim": 48, "depth": 2, "kernel_size": 5, "patch_size": 2},
    "vit": {"dim": 64, "depth": 2, "num_heads": 2, "patch_size": 4},
}
# Modules of different kinds, the last with a bias.
PARTS = {
    "convmixer": ("blocks.1.pointwise", "stem.proj", "blocks.0.depthwise"),
    "vit": ("blocks.1.token.norm", "stem.proj", "blocks.0.channel.mixer.fc1"),
}
HEADER = Path(__file__).parents[3] / "native" / "kernels" / "passes.h"


@pytest.fixture(params=SIZES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(architecture: str, **changes: object) -> Isotropic:
    torch.manual_seed(0)
    model = isopatch.create_model(
        architecture, **{**SIZES[architecture], "image_size": 16, "num_classes": 4, **changes}
    )
    assert isinstance(model, Isotropic)
    return model


def convmixer(**changes: object) -> Isotropic:
    return build("convmixer", **changes)


def pictures(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def gradients(model: Isotropic, images: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(images).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_python_and_c_agree_on_every_struct() -> None:
    text = re.sub(r"//[^\n]*", "", HEADER.read_text())
    found, kinds = {}, {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, flags=re.S):
        members = re.sub(r"\b(?:const|void|float|int64_t|double|\w+Block)\b|\*", " ", body)
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        found[snake] = re.findall(r"\w+", members)
        untyped = re.findall(r"\bvoid\s*([^;]*);", body)
        kinds[snake] = set(re.findall(r"\w+", " ".join(untyped)))
    known = {name: set(f"{PACKED.get(name, '')} {STORED.get(name, '')}".split()) for name in FIELDS}
    assert {name: kinds[name] for name in FIELDS} == known  # what is no float array
    assert found == {name: fields.split() for name, fields in FIELDS.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_change_no_bit(native: NativeLibrary, precision: str) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        model = convmixer()
        swap(model, kernels="native", precision=precision)
        found.append([*gradients(model, pictures(9)), *(b.clone() for b in model.buffers())])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_gets_the_same_tokens_in_every_batch(
    native: NativeLibrary, architecture: str, precision: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    model = build(architecture).eval()
    swap(model, kernels="native", precision=precision)
    with torch.no_grad():
        together = model.final_features(pictures()).tokens
        apart = torch.cat([model.final_features(each[None]).tokens for each in pictures()])
    assert torch.equal(together, apart)


def test_names_parameters_and_checkpoints_stay(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture)
    before = copy.deepcopy(model.state_dict())
    parameters = [id(parameter) for parameter in model.parameters()]
    swapped = swap(model, kernels="native", precision="fp32")
    assert list(model.state_dict()) == list(before)
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert "native" in str(swapped) and "blocks" in str(swapped)
    gradients(model, pictures())
    swapped.undo()
    assert type(model.blocks).__name__ == "Blocks" and type(model.stem).__name__ == "PatchStem"
    assert [id(parameter) for parameter in model.parameters()] == parameters
    model.load_state_dict(before)


def test_changed_weights_count_at_once(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture).eval()
    swap(model, kernels="native", precision="fp32")
    found = []
    with torch.no_grad():
        found.append(model(pictures()))
        assert torch.equal(model(pictures()), found[0])
        for part in PARTS[architecture]:
            model.get_submodule(part).weight.mul_(0.5)
            found.append(model(pictures()))
        if architecture == "convmixer":
            model.blocks[0].depthwise_norm.running_mean.add_(0.1)
            found.append(model(pictures()))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(found))


def test_parts_that_are_not_trained_get_no_gradient(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture)
    swap(model, kernels="native", precision="fp32")
    first, _, last = (model.get_submodule(part) for part in PARTS[architecture])
    for parameter in (*model.stem.parameters(), first.weight):
        parameter.requires_grad_(False)
    gradients(model, pictures())
    assert model.stem.proj.weight.grad is None and first.weight.grad is None
    assert last.weight.grad is not None


def test_norms_may_be_frozen_one_by_one(native: NativeLibrary) -> None:
    plain, twin = convmixer(), convmixer()
    swap(twin, kernels="native", precision="fp32")
    for model in (plain, twin):
        model.blocks[0].depthwise_norm.eval()
    for a, b in zip(gradients(plain, pictures()), gradients(twin, pictures()), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert torch.equal(twin.blocks[0].depthwise_norm.running_mean, torch.zeros(48))
    assert not torch.equal(twin.blocks[0].pointwise_norm.running_mean, torch.zeros(48))


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_running_statistics_with_any_momentum(native: NativeLibrary, momentum: float | None) -> None:
    plain, twin = convmixer(), convmixer()
    swap(twin, kernels="native", precision="fp32")
    for model in (plain, twin):
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = momentum
        with torch.no_grad():
            model(pictures())
            model(2 * pictures())
    for (name, a), b in zip(plain.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_what_is_not_finite_stays_visible(
    native: NativeLibrary, architecture: str, precision: str, activation: str
) -> None:
    model = build(architecture, activation=activation).eval()
    swap(model, kernels="native", precision=precision)
    images = pictures()
    images[2, 0, 3, 3] = float("nan")
    with torch.no_grad():
        assert model(images).isfinite().all(dim=1).tolist() == [True, True, False, True, True]
        model.get_submodule(PARTS[architecture][-1]).bias[7] = float("nan")
        assert not model(pictures()).isfinite().any()


@pytest.mark.parametrize("kernels", ["plain", "native"])
def test_one_value_has_no_variance(native: NativeLibrary, kernels: str) -> None:
    model = convmixer(patch_size=16)
    swap(model, kernels=kernels, precision="fp32")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(pictures(1))


def test_the_activations_serve_as_many_backward_passes_as_they_are_retained_for(
    native: NativeLibrary, architecture: str
) -> None:
    model = build(architecture)
    swap(model, kernels="native", precision="fp32")
    loss = model(pictures()).square().sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    for parameter, first in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_training_goes_where_the_plain_modules_go(native: NativeLibrary, architecture: str) -> None:
    losses = {}
    for kernels in ("plain", "native"):
        model = build(architecture)
        swap(model, kernels=kernels, precision="fp32")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        found = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pictures()), torch.arange(5) % 4)
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        losses[kernels] = found
    assert losses["native"] == pytest.approx(losses["plain"], rel=1e-3)
    assert losses["native"][-1] < losses["native"][0]
