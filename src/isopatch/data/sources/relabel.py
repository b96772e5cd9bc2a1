"""The same pictures with labels in another class order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.source import ImageSource, file_name_of, picture_of, state_of
from isopatch.errors import UsageError


def relabel(source: ImageSource, classes: Sequence[str], *, where: str) -> ImageSource:
    """Return `source` with labels that index into `classes`, matched by name.

    Raises UsageError naming the classes of `source` that `classes` lacks, if any picture carries one.
    """
    if tuple(classes) == source.classes:
        return source
    position = {name: index for index, name in enumerate(classes)}
    used = {source.classes[i] for i in np.unique(source.labels)}
    unknown = sorted(used - position.keys())
    if unknown:
        raise UsageError(
            f"{where} has classes the model does not know: {', '.join(unknown[:5])}; "
            f"it knows {', '.join(list(classes)[:5])}{' ...' if len(classes) > 5 else ''}"
        )
    table = np.array([position.get(name, -1) for name in source.classes], dtype=np.int64)
    return Relabelled(source, tuple(classes), table)


@dataclass(frozen=True)
class Relabelled:
    """`source` seen through a table from its class indices to those of `classes`."""

    source: ImageSource
    classes: tuple[str, ...]
    table: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.source)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64 labels into `classes`."""
        return self.table[self.source.labels]

    @property
    def fingerprint(self) -> str:
        """The underlying source's."""
        return self.source.fingerprint

    @property
    def state(self) -> str | None:
        """The underlying source's."""
        return state_of(self.source)

    def name(self, index: int) -> str:
        """Where the picture comes from."""
        return self.source.name(index)

    def file_name(self, index: int) -> str | None:
        """What the picture's file is or was called."""
        return file_name_of(self.source, index)

    def read(self, index: int) -> Image.Image:
        """Decode picture `index` to RGB."""
        return self.source.read(index)

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Decode picture `index` for training."""
        return picture_of(self.source, index, short_side=short_side)
