"""What the sources of this package offer beyond `ImageSource`: access to a picture as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from isopatch.data.source import ImageSource


class StoredSource(ImageSource, Protocol):
    """A source whose pictures can be examined as stored: for checks, verification and duplicates.

    state: hex digest that changes whenever a stored file may have: the fingerprint, and for files on disk
        their modification times too. Cached verdicts about pictures hang on it.
    """

    @property
    def state(self) -> str:
        """Hex digest of everything a cached verdict hangs on."""
        ...

    def stored(self, index: int) -> Path | bytes | Image.Image:
        """Return the file, the encoded bytes or (where nothing is encoded) the picture itself."""
        ...


@runtime_checkable
class HasLeftOut(Protocol):
    """A source that holds places of pictures which could not be read when it was made."""

    @property
    def left_out(self) -> Mapping[int, str]:
        """Index -> why the picture could not be read, in ascending order; reading it raises `DecodeError`."""
        ...


def left_out_of(source: StoredSource) -> Mapping[int, str]:
    """Return the pictures of `source` that it holds the places of alone, index -> reason; mostly none."""
    return source.left_out if isinstance(source, HasLeftOut) else {}


@dataclass(frozen=True)
class RawData:
    """A data set as found, before any cut: one source per role it has a split for.

    pooled: the data has no splits of its own; everything is in `train`, and a test split is still to be cut.
    """

    classes: tuple[str, ...]
    train: StoredSource | None
    val: StoredSource | None
    test: StoredSource | None
    pooled: bool = False
    notes: tuple[str, ...] = ()

    def roles(self) -> dict[str, StoredSource]:
        """Return the splits that exist, by name, train first."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {role: source for role, source in found.items() if source is not None}
