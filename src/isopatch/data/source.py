"""The contract of a data source: a fixed sequence of labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class ImageSource(Protocol):
    """Labelled pictures in a fixed order; index i is the same picture in every process.

    classes: class names; `labels` index into them.
    labels: (N,) int64.
    fingerprint: hex digest of names, sizes and labels: two sources with one fingerprint give one run.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where the picture comes from (a path, or `shard:row`): used in messages and reports."""
        ...

    def read(self, index: int) -> Image.Image:
        """Decode picture `index` to 8-bit RGB; a file that cannot be read raises `DecodeError`."""
        ...


@dataclass(frozen=True)
class DataSplits:
    """The three roles of a data set. `val` selects; `test` never does.

    val: None when no validation split exists and none was cut: then the last checkpoint is the final one.
    notes: what a reader of the report must know, in whole sentences (a split was cut from train, a class
        folder is missing in val, files were skipped).
    skipped: split name -> [(file, reason)] left out under `bad="skip"`.
    """

    classes: tuple[str, ...]
    train: ImageSource | None
    val: ImageSource | None
    test: ImageSource | None
    notes: tuple[str, ...] = ()
    skipped: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
