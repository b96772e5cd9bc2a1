"""Tiny models of every family, with weights large enough that their answers differ between pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier

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


def make_model(family: str, *, seed: int = 0, **changed: Any) -> Classifier:
    torch.manual_seed(seed)
    name, arguments = FAMILIES[family]
    model = build(make_spec(name, {**arguments, **changed}, classes=("ant", "bee", "cat", "dog")))
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
