"""Some of the pictures of another source: a split cut from it, or what is left without unreadable files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.source import file_name_of, picture_of
from isopatch.data.stored import StoredSource, left_out_of


class Subset:
    """The pictures `indices` of `source`, in that order."""

    def __init__(self, source: StoredSource, indices: NDArray[np.int64]) -> None:
        """Select `indices` (M,) of `source`."""
        self.source = source
        self.indices = indices
        self.classes = source.classes
        self.labels = source.labels[indices]
        self.fingerprint = _digest(source.fingerprint, indices)
        self.state = _digest(source.state, indices)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name of the picture in the underlying source."""
        return self.source.name(int(self.indices[index]))

    def file_name(self, index: int) -> str | None:
        """What the picture's file is or was called."""
        return file_name_of(self.source, int(self.indices[index]))

    def read(self, index: int) -> Image.Image:
        """Decode picture `index` of this view."""
        return self.source.read(int(self.indices[index]))

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Decode picture `index` of this view for training."""
        return picture_of(self.source, int(self.indices[index]), short_side=short_side)

    def stored(self, index: int) -> Path | bytes | Image.Image:
        """Picture `index` of this view as stored."""
        return self.source.stored(int(self.indices[index]))


def without_left_out(source: StoredSource) -> StoredSource:
    """Return `source` without the pictures that it holds the places of alone (`stored.left_out_of`)."""
    left_out = left_out_of(source)
    if not left_out:
        return source
    return Subset(source, np.delete(np.arange(len(source), dtype=np.int64), list(left_out)))


def _digest(base: str, numbers: NDArray[np.int64]) -> str:
    digest = hashlib.blake2b(base.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()
