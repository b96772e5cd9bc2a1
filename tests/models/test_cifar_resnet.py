"""CIFAR ResNets: published weights load and give the published accuracy; a plain version agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.data.open import open_data
from isopatch.data.sources.subset import Subset
from isopatch.errors import UsageError
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.training.evaluate import evaluate

FILES = {20: "12fca82f", 32: "d509ac18", 44: "014dd654", 56: "4bfd9763"}
CORRECT = {20: 9173, 32: 9263, 44: 9310, 56: 9339}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def weights(shared_data: Path, depth: int) -> Path:
    path = shared_data.parent / "weights" / "cifar-resnet" / f"resnet{depth}-{FILES[depth]}.th"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def correct(shared_data: Path, depth: int, pictures: int = 10_000) -> int:
    model = load(weights(shared_data, depth), name=f"cifar_resnet{depth}")
    test = open_data(shared_data / "cifar10", val_fraction=0.0).test
    assert test is not None and len(test) == 10_000
    first = Subset(test, np.arange(pictures))
    return int(evaluate(model, first, model.spec.input, classes=test.classes).scalars["num_correct"])


@pytest.mark.slow
@pytest.mark.parametrize("depth", sorted(CORRECT))
def test_published_weights_give_the_published_accuracy(shared_data: Path, depth: int) -> None:
    assert correct(shared_data, depth) == CORRECT[depth]


def test_published_weights_are_right_about_pictures(shared_data: Path) -> None:
    assert correct(shared_data, 20, pictures=500) >= 425  # of 91.7 % five standard deviations fewer


def plain(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Option A written out."""

    def step(x: Tensor, name: str, number: int, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv{number}.weight"], stride=stride, padding=1)
        mean, variance = (state[f"{name}.norm{number}.running_{key}"] for key in ("mean", "var"))
        scale = state[f"{name}.norm{number}.weight"] / (variance + 1e-5).sqrt()
        shift = state[f"{name}.norm{number}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    state = {
        key.replace("stem.conv.", "stem.conv0.").replace("stem.norm.", "stem.norm0."): v
        for key, v in state.items()
    }
    x = step(x, "stem", 0).clamp(min=0)
    for stage in range(3):
        for block in range(2):
            name = f"stages.{stage}.{block}"
            halves = stage > 0 and block == 0
            y = step(x, name, 1, 2 if halves else 1).clamp(min=0)
            y = step(y, name, 2)
            if halves:
                skip = torch.zeros_like(y)
                quarter = y.shape[1] // 4
                skip[:, quarter : 3 * quarter] = x[:, :, ::2, ::2]
                x = skip
            x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ state["heads.cls.linear.weight"].T + state["heads.cls.linear.bias"]


def test_equals_a_plain_implementation() -> None:
    model = build(make_spec("cifar_resnet20", {"depth": 14, "width": 8})).double().eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if "norm" in key and tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand_like(tensor))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(x, dict(model.state_dict()))
        assert float((model(x) - expected).abs().max() / expected.abs().max()) <= 1e-10
        assert model.features(x).map.shape == (2, 32, 8, 8)


def test_a_folder_of_ours_loads_alone(tmp_path: Path) -> None:
    model = build(make_spec("cifar_resnet20", {"depth": 8})).eval()
    save_model(tmp_path, model)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path)(x), model(x))
    assert load(tmp_path, image_size=48).spec.input.height == 48  # no part of it knows the pictures' size


def test_an_impossible_depth_is_refused() -> None:
    with pytest.raises(UsageError, match=r"depth 21: a CIFAR ResNet has 6 n \+ 2 layers"):
        build(make_spec("cifar_resnet20", {"depth": 21}))
