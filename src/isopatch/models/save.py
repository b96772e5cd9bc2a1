"""Write a model so that it loads alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from isopatch.errors import UsageError
from isopatch.files import fsync_folder, to_json, write_new
from isopatch.models.native import CONFIG, FORMAT, SPEC_DIGEST, WEIGHTS, spec_digest
from isopatch.nn.classifier import Classifier


def save_model(folder: Path, model: Classifier, extra: Mapping[str, Any] | None = None) -> str:
    """Write `model` into `folder` (created where it is missing) and flush it to the disk.

    extra: further JSON values for config.json; the keys format, model and weights_sha256 are ours.
    Returns the SHA-256 of model.safetensors. config.json is written last: without it the folder is no model.
    The caller owns the atomicity of the folder (write beside, then rename).
    """
    more = dict(extra or {})
    taken = sorted(more.keys() & {"format", "model", "weights_sha256"})
    if taken:
        raise UsageError(f"extra may not hold {', '.join(taken)}: save_model writes them")
    if model.spec is None:
        raise UsageError("this model has no spec: build it with create_model or isopatch.models.spec.build")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    description = model.spec.to_json()
    # One entry alone: safetensors writes several in an order that differs from run to run, and equal weights
    # must give equal bytes.
    content: bytes = save(tensors, metadata={SPEC_DIGEST: spec_digest(description)})
    digest = hashlib.sha256(content).hexdigest()
    config = {"format": FORMAT, "model": description, "weights_sha256": digest, **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    write_new(folder / WEIGHTS, content)
    write_new(folder / CONFIG, to_json(config))
    fsync_folder(folder)
    return digest
