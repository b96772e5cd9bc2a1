"""Tiny models of every family, with weights large enough that their answers differ between pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier
from isopatch.nn.head import Head
from isopatch.nn.pool import MeanPool, TokenPool
from isopatch.nn.prefix import PrefixTokens
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem

_SMALL = {"dim": 12, "depth": 2, "num_classes": 4, "image_size": 16, "patch_size": 4}
_HEADS = {**_SMALL, "num_heads": 3}
# name -> (architecture, arguments)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", _HEADS),
    "vit-mean": ("vit", {**_HEADS, "class_token": False, "pool": "norm-mean"}),
    "vit-relative": ("vit", {**_HEADS, "position": "relative"}),
    "deit": ("deit", {**_HEADS, "distilled": True}),
    "deit3": ("deit3_small_patch16_224", {**_HEADS, "layer_scale": 0.5}),
    "hybrid": ("vit_tiny_r_s16_p8_224", {**_HEADS, "patch_size": 2}),
    "pyramid": ("bench", {**_HEADS, "stage_depths": (1, 1)}),
    "convmixer": ("convmixer", {**_SMALL, "kernel_size": 3}),
    "mixer": ("mlp_mixer", _SMALL),
    "resmlp": ("resmlp", _SMALL),
    "gmlp": ("gmlp", _SMALL),
    "resnet": ("cifar_resnet20", {"depth": 8, "width": 4, "num_classes": 4, "image_size": 16}),
}
WITH_ATTENTION = ("vit", "vit-mean", "vit-relative", "deit", "deit3", "hybrid", "pyramid")

Make = Callable[..., Classifier]


CLASSES = ("ant", "bee", "cat", "dog")


def make_model(
    family: str, *, seed: int = 0, class_names: tuple[str, ...] = CLASSES, **changed: Any
) -> Classifier:
    torch.manual_seed(seed)
    name, arguments = FAMILIES[family]
    changed = {key: value for key, value in changed.items() if value is not None}
    model = build(
        make_spec(name, {**arguments, "num_classes": len(class_names), **changed}, classes=class_names)
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.fixture
def make() -> Make:
    return make_model


@pytest.fixture(params=FAMILIES)
def every_model(request: pytest.FixtureRequest) -> Classifier:
    return make_model(request.param)


@pytest.fixture(params=WITH_ATTENTION)
def attending_model(request: pytest.FixtureRequest) -> Classifier:
    return make_model(request.param)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Nothing(nn.Module):
    """A block that leaves the tokens as they are."""

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return tokens


class ToClassToken(nn.Module):
    """A block in which the class token takes the mean of the patches, and nothing else happens."""

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return torch.cat((tokens[:, 1:].mean(1, keepdim=True), tokens[:, 1:]), dim=1)


SIDE = 16
CELLS = (4, 4)


def planted_model(*, class_token: bool = False, scale: float = 20.0, bias: float = 0.0) -> Classifier:
    """A linear model of 2 classes: logits (0, scale * mean red of the picture + bias)."""
    stem = PatchStem(3, 1, 4)
    head = Head(1, 2)
    with torch.no_grad():
        stem.proj.weight.zero_()
        stem.proj.bias.zero_()
        stem.proj.weight[0, 0] = 1 / 16  # the mean of a patch's red
        head.linear.weight.copy_(torch.tensor([[0.0], [scale]]))
        head.linear.bias.copy_(torch.tensor([0.0, bias]))
    pool = TokenPool(num_prefix=1) if class_token else MeanPool()
    model = Isotropic(
        stem=stem,
        prefix=PrefixTokens(1) if class_token else None,
        blocks=[ToClassToken()] if class_token else [Nothing()],
        norm=nn.Identity(),
        pool=pool,
        heads={"cls": head},
    )
    return model.eval()


@pytest.fixture
def plant() -> Callable[..., Classifier]:
    return planted_model


def with_red(*cells: tuple[int, int], strength: float = 1.0) -> torch.Tensor:
    """A black picture (1, 3, 16, 16) whose cells of 4 x 4 pixels are red where said."""
    picture = torch.zeros(1, 3, SIDE, SIDE)
    for row, column in cells:
        picture[0, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = strength
    return picture


@pytest.fixture
def red() -> Callable[..., torch.Tensor]:
    return with_red
