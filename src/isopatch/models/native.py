"""The layout isopatch writes: model.safetensors beside a config.json that describes and digests it.

config.json  {"format": "isopatch-model-1", "model": spec, "weights_sha256": hex, ...}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import sha256_of
from isopatch.models.spec import ModelSpec

FORMAT = "isopatch-model-1"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json (ours or foreign); a damaged one raises IsopatchError naming it."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IsopatchError(f"{path}: damaged or unreadable ({error})") from None
    if not isinstance(config, dict):
        raise IsopatchError(f"{path}: damaged, expected a JSON object")
    return config


def is_native(config: dict[str, Any]) -> bool:
    """Whether a config.json was written by isopatch; a newer format raises IsopatchError."""
    written = config.get("format")
    if isinstance(written, str) and written.startswith("isopatch-model-") and written != FORMAT:
        raise IsopatchError(f"config.json has format {written}, this version reads {FORMAT}: update isopatch")
    return written == FORMAT


def read_spec(folder: Path) -> ModelSpec:
    """Read the model description of a native folder."""
    config = read_config(folder / CONFIG)
    try:
        return ModelSpec.from_json(config["model"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IsopatchError(f"{folder / CONFIG}: damaged model description ({error})") from None


def verify_weights(folder: Path) -> None:
    """Compare model.safetensors with the digest in config.json; raise IsopatchError naming the file."""
    path = folder / WEIGHTS
    digest = read_config(folder / CONFIG).get("weights_sha256")
    if not isinstance(digest, str):
        raise IsopatchError(f"{folder / CONFIG}: damaged, it carries no weights_sha256")
    if not path.is_file():
        raise IsopatchError(f"{path}: missing")
    if sha256_of(path) != digest:
        raise IsopatchError(
            f"{path}: damaged, its SHA-256 differs from the one in {CONFIG}; restore it or use another "
            f"checkpoint"
        )
