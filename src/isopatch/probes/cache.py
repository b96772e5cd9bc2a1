"""Features kept on disk, so that another probe of the same weights and pictures runs no model.

One safetensors file for a split: `features` (M, C) float32, and in its metadata the fingerprint of what they
are (weights, model, pictures, preprocessing, precision) and the digest of their bytes. The file's name has
the fingerprint's digest in it, so features of other weights or data lie beside each other and are never mixed
up.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from isopatch.errors import UsageError
from isopatch.files import replace_file

log = logging.getLogger("isopatch")

FORMAT = "isopatch-features-1"
Fingerprint = Mapping[str, Any]


class FeatureCache:
    """A folder of features; made when the first are written."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError where `folder` is a file."""
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--probe-cache {folder}: is a file; give a folder")
        self.folder = folder

    def file(self, fingerprint: Fingerprint) -> Path:
        """Where features of this fingerprint lie, or would."""
        key = hashlib.blake2b(_canonical(fingerprint).encode(), digest_size=8).hexdigest()
        return self.folder / f"features-{fingerprint['split']}-{key}.safetensors"

    def read(self, fingerprint: Fingerprint, rows: int) -> NDArray[np.float32] | None:
        """Return the kept features (rows, C), or None; says in the log what is kept instead, or damaged."""
        path = self.file(fingerprint)
        if not path.is_file():
            self._say_what_is_there(fingerprint)
            return None
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                values: NDArray[np.float32] = file.get_tensor("features")
        except (OSError, SafetensorError) as error:
            log.warning("%s: damaged (%s); the features are computed anew", path, error)
            return None
        if metadata.get("fingerprint") != _canonical(fingerprint):
            log.warning("%s: holds features of something else; they are computed anew", path)
            return None
        whole = values.dtype == np.float32 and values.ndim == 2 and len(values) == rows
        if not whole or metadata.get("digest") != _digest(values):
            log.warning("%s: damaged (its content is not what was written); computed anew", path)
            return None
        return values

    def write(self, fingerprint: Fingerprint, values: NDArray[np.float32]) -> Path:
        """Keep features (M, C) in one rename and return their file."""
        metadata = {"format": FORMAT, "fingerprint": _canonical(fingerprint), "digest": _digest(values)}
        path = self.file(fingerprint)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, save({"features": np.ascontiguousarray(values)}, metadata))
        except OSError as error:
            raise UsageError(
                f"--probe-cache {self.folder}: cannot be written to ({error.strerror}); give another folder"
            ) from None
        return path

    def _say_what_is_there(self, fingerprint: Fingerprint) -> None:
        """Name what differs from the kept features of this split that come nearest."""
        others = []
        for path in sorted(self.folder.glob(f"features-{fingerprint['split']}-*.safetensors")):
            try:
                with safe_open(path, framework="np") as file:
                    kept = json.loads((file.metadata() or {})["fingerprint"])
            except (OSError, SafetensorError, KeyError, ValueError):
                continue  # no file of ours, or a damaged one, which is nobody's but its own reader's business
            others.append([key for key in fingerprint if kept.get(key) != fingerprint[key]])
        if others:
            differing = min(others, key=len)
            log.info(
                "%s: kept features of the %s split are of other %s: computed anew",
                self.folder,
                fingerprint["split"],
                ", ".join(differing) or "fields",
            )


def _canonical(fingerprint: Fingerprint) -> str:
    return json.dumps(dict(fingerprint), sort_keys=True, separators=(",", ":"))


def _digest(values: NDArray[np.float32]) -> str:
    shape = ",".join(map(str, values.shape)).encode()
    return hashlib.blake2b(shape + b"\0" + np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()
