"""Train, evaluate, study and ship isotropic patch models: ViT, DeiT, ConvMixer and their kin.

The public names below are loaded when they are first used: `import isopatch` itself imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isopatch.api import configure, convert, create_model, evaluate_checkpoint, train
    from isopatch.errors import IsopatchError, UsageError
    from isopatch.eval_sizes import evaluate_sizes
    from isopatch.explaining import explain_checkpoint
    from isopatch.models.describe import describe
    from isopatch.models.load import load
    from isopatch.models.spec import list_models
    from isopatch.nn.dense import Segmenter
    from isopatch.predict import Predictor
    from isopatch.training.config import RunConfig
    from isopatch.training.evaluate import evaluate

__version__ = "0.1.0"

_HOME = {
    "IsopatchError": "isopatch.errors",
    "Predictor": "isopatch.predict",
    "RunConfig": "isopatch.training.config",
    "Segmenter": "isopatch.nn.dense",
    "UsageError": "isopatch.errors",
    "configure": "isopatch.api",
    "convert": "isopatch.api",
    "create_model": "isopatch.api",
    "describe": "isopatch.models.describe",
    "evaluate": "isopatch.training.evaluate",
    "evaluate_checkpoint": "isopatch.api",
    "evaluate_sizes": "isopatch.eval_sizes",
    "explain_checkpoint": "isopatch.explaining",
    "list_models": "isopatch.models.spec",
    "load": "isopatch.models.load",
    "train": "isopatch.api",
}

__all__ = [
    "IsopatchError",
    "Predictor",
    "RunConfig",
    "Segmenter",
    "UsageError",
    "__version__",
    "configure",
    "convert",
    "create_model",
    "describe",
    "evaluate",
    "evaluate_checkpoint",
    "evaluate_sizes",
    "explain_checkpoint",
    "list_models",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'isopatch' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return list(__all__)
