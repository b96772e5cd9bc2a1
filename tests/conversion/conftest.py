"""Small models with random weights, class names and an input contract of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier

VIT = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "image_size": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": VIT,
    "deit_tiny_distilled": VIT,
    "deit3_small": VIT,
    "convmixer": {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 8, "image_size": 32},
    "mlp_mixer": {"dim": 16, "depth": 2, "patch_size": 8, "image_size": 32},
    "resmlp": {"dim": 16, "depth": 2, "patch_size": 8, "image_size": 32},
    "gmlp": {"dim": 16, "depth": 2, "patch_size": 8, "image_size": 32},
    "metaformer": {"dim": 16, "depth": 2, "patch_size": 8, "image_size": 32},
}
CLASSES = ("ant", "bee", "cat")
INPUT = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "crop_fraction": 0.8, "interpolation": "bilinear"}

Make = Callable[..., Classifier]


def random_model(name: str, **more: Any) -> Classifier:
    contract = {**INPUT, **more.pop("input", {})}
    arguments = {**SHAPES[name], **more}
    model = build(make_spec(name, arguments, classes=CLASSES, input_overrides=contract)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.3 * torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


@pytest.fixture
def make() -> Make:
    return random_model


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """Save a model as isopatch does; return the folder."""

    def saved(name: str = "vit", **more: Any) -> Path:
        folder = tmp_path / "source"
        save_model(folder, random_model(name, **more))
        return folder

    return saved
