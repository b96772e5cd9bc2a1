"""A tiny model on disk that tells pictures apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.predict import Predictor

CLASSES = ("ant", "=bee()", "cat", "'dog", "e\nel", "fox")


def save_tiny(folder: Path, seed: int = 0, classes: tuple[str, ...] | None = CLASSES) -> Path:
    """Save a ConvMixer of 8 x 8 pictures and 6 classes that predicts several of them."""
    torch.manual_seed(seed)
    sizes = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8, "num_classes": 6}
    model = build(make_spec("convmixer", sizes, classes=classes))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.6)
    save_model(folder, model)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def predictor(model_folder: Path) -> Predictor:
    return Predictor(model_folder, top_k=2, batch_size=4)


@pytest.fixture
def save_model_without_names(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "nameless", classes=None)
