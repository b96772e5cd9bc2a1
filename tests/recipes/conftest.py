"""Tiny models the recipes are built for."""

from __future__ import annotations

import pytest

from isopatch.training.config import ModelNode

VIT = {"dim": 48, "depth": 2, "num_heads": 3, "patch_size": 4, "image_size": 16}
CONVMIXER = {"dim": 32, "depth": 2, "kernel_size": 3, "patch_size": 2, "image_size": 16}


@pytest.fixture
def tiny_vit() -> ModelNode:
    return ModelNode.model_validate({"name": "vit", **VIT})


@pytest.fixture
def tiny_convmixer() -> ModelNode:
    return ModelNode.model_validate({"name": "convmixer", **CONVMIXER})
