"""Which file holds which architecture function. Imports no torch; looking one up does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from isopatch.errors import UsageError

if TYPE_CHECKING:
    from isopatch.nn.classifier import Classifier

# architecture function -> module in isopatch.models; the module's `no_weight_decay` is the architecture's.
MODULES = {
    "vit": "vit",
    "deit": "deit",
    "deit3": "deit",
    "convmixer": "convmixer",
    "mlp_mixer": "mlp_mixer",
    "resmlp": "resmlp",
    "gmlp": "gmlp",
    "hybrid": "hybrid",
    "metaformer": "metaformer",
    "mobilenet_v3": "mobilenet_v3",
    "cifar_resnet": "cifar_resnet",
    "cycle_mlp": "cycle_mlp",
    "vision_permutator": "vision_permutator",
    "bench": "bench_model",
    "timm": "external.timm",
    "torchvision": "external.torchvision",
}


def architecture_function(architecture: str) -> Callable[..., Classifier]:
    """Return the function that builds an architecture; its keyword arguments are the schema."""
    function: Callable[..., Classifier] = getattr(architecture_module(architecture), architecture)
    return function


def architecture_module(architecture: str) -> ModuleType:
    """Return the file of an architecture; an unknown one raises UsageError."""
    if architecture not in MODULES:
        raise UsageError(f"unknown architecture '{architecture}': expected one of {', '.join(MODULES)}")
    return importlib.import_module(f"isopatch.models.{MODULES[architecture]}")
