"""The small models that tests of the twins' behaviour share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import isopatch
from isopatch.kernels import swap
from isopatch.nn.skeleton import Isotropic

SIZES: dict[str, dict[str, Any]] = {
    "convmixer": {"dim": 48, "depth": 2, "kernel_size": 5, "patch_size": 2},
    "vit": {"dim": 64, "depth": 2, "num_heads": 2, "patch_size": 4},
    "mlp_mixer": {"dim": 64, "depth": 2, "patch_size": 4},
}
PLACES = {"convmixer": 64, "vit": 17, "mlp_mixer": 16}  # tokens of a picture of 16x16
GRIDS = {"convmixer": (8, 8), "vit": (4, 4), "mlp_mixer": (4, 4)}


def build(architecture: str, **changes: object) -> Isotropic:
    """A model for pictures of 16x16 whose weights are large enough that every part counts."""
    torch.manual_seed(0)
    given = {**SIZES[architecture], "image_size": 16, "num_classes": 4, **changes}
    model = isopatch.create_model(architecture, **given)
    assert isinstance(model, Isotropic)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
        elif name.endswith("bias"):
            nn.init.uniform_(parameter, -0.3, 0.3)
    return model


def both(architecture: str, **changes: object) -> tuple[Isotropic, Isotropic]:
    """A plain model and its copy on float32 twins."""
    plain = build(architecture, **changes)
    twin = copy.deepcopy(plain)
    swapped = swap(twin, kernels="native", precision="fp32")
    assert len(swapped.replaced) == 2, swapped
    return plain, twin


def pictures(count: int = 3, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def tokens(architecture: str, count: int = 3) -> Tensor:
    shape = count, PLACES[architecture], SIZES[architecture]["dim"]
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def off(found: Tensor, wanted: Tensor) -> float:
    """Relative distance."""
    return float((found.double() - wanted.double()).norm()) / float(wanted.double().norm())
