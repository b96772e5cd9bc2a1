"""The layout isopatch writes: model.safetensors beside a config.json that describes and digests it.

config.json  {"format": "isopatch-model-1", "model": spec, "weights_sha256": hex, ...}
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import sha256_of
from isopatch.models.spec import ModelSpec

FORMAT = "isopatch-model-1"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MANIFEST = "manifest.json"
SPEC_DIGEST = "model_sha256"  # in the metadata of the safetensors file


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json (ours or foreign); a damaged one raises IsopatchError naming it."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise IsopatchError(f"{path}: damaged or unreadable ({error})") from None
    if not isinstance(config, dict):
        raise IsopatchError(f"{path}: damaged, expected a JSON object")
    return config


def is_native(config: dict[str, Any]) -> bool:
    """Whether a config.json was written by isopatch; a newer or damaged format raises IsopatchError."""
    written = config.get("format")
    if written != FORMAT and "weights_sha256" in config and "model" in config:
        raise IsopatchError(
            f"{CONFIG} has format {written}, this version reads {FORMAT}: damaged, or too new"
        )
    return written == FORMAT


def read_spec(folder: Path) -> ModelSpec:
    """Read the model description of a native folder."""
    config = read_config(folder / CONFIG)
    try:
        return ModelSpec.from_json(config["model"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IsopatchError(f"{folder / CONFIG}: damaged model description ({error})") from None


def spec_digest(description: Any) -> str:
    """Return the SHA-256 of a model description's canonical JSON."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def verify(weights: Path) -> None:
    """Compare a native weights file and its config.json with each other's digests and the manifest's.

    Raises IsopatchError naming the file that differs. Only model.safetensors has its digest in config.json;
    others (`ema.safetensors`) have it in the manifest alone.
    """
    folder = weights.parent
    config = read_config(folder / CONFIG)
    digest = config.get("weights_sha256")
    if not isinstance(digest, str):
        raise IsopatchError(f"{folder / CONFIG}: damaged, it carries no weights_sha256")
    if not weights.is_file():
        raise IsopatchError(f"{weights}: missing")
    if weights.name == WEIGHTS and sha256_of(weights) != digest:
        raise _damaged(weights, f"the one in {CONFIG}")
    _verify_manifest(folder, (weights.name, CONFIG))
    try:
        with safe_open(weights, framework="pt") as file:
            described = (file.metadata() or {}).get(SPEC_DIGEST)
    except (SafetensorError, OSError) as error:
        raise IsopatchError(f"{weights}: damaged ({error})") from None
    if described is not None and described != spec_digest(config.get("model")):
        raise _damaged(folder / CONFIG, f"the one in {weights.name}")


def _verify_manifest(folder: Path, names: tuple[str, ...]) -> None:
    path = folder / MANIFEST
    if not path.is_file():
        return
    files = read_config(path).get("files")
    for name in names:
        entry = files.get(name) if isinstance(files, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise IsopatchError(f"{path}: damaged, it has no digest of {name}")
        if sha256_of(folder / name) != entry["sha256"]:
            raise _damaged(folder / name, f"the one in {MANIFEST}")


def _damaged(path: Path, other: str) -> IsopatchError:
    return IsopatchError(
        f"{path}: damaged or changed, its SHA-256 differs from {other}; restore it or use another checkpoint"
    )
