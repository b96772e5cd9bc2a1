"""The contract of a data source: a fixed sequence of labelled pictures, and what tells two of them apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class ImageSource(Protocol):
    """Labelled pictures in a fixed order; index i is the same picture in every process.

    classes: class names; `labels` index into them.
    labels: (N,) int64.
    fingerprint: hex digest of the labels and of what tells pictures apart without decoding them: their
        content (digits, Parquet), paths and sizes in bytes (folders), the data set's name (hub). It stays
        the same on another machine. Two fingerprints mean other data; one fingerprint does not prove equal
        pixels: a file replaced by another of the same size keeps it. `state_of` and `KeptSource.digest`
        tell more.
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


@runtime_checkable
class HasState(Protocol):
    """A source that can tell whether its stored files may have changed."""

    @property
    def state(self) -> str | None:
        """Hex digest that changes whenever a stored file may have; None where that cannot be told."""
        ...


def state_of(source: ImageSource) -> str | None:
    """Return the state of the stored pictures under `source`, through views of it and what is in memory.

    For folders a digest of paths, sizes and modification times, for packs of the content and the same of its
    shards: another state may also come from files that were copied or touched and hold what they held.
    Elsewhere what the fingerprint is a digest of: the
    content (digits, Parquet) or the data set's name and labels (hub). None where `source`, or what it is a
    view of, has no state.
    """
    return source.state if isinstance(source, HasState) else None


@runtime_checkable
class HasFileNames(Protocol):
    """A source whose pictures were files once, called otherwise than `name` says."""

    def file_name(self, index: int) -> str | None:
        """Return the original file's name or path of picture `index`; None where it is not stored."""
        ...


def file_name_of(source: ImageSource, index: int) -> str | None:
    """Return what picture `index`'s file is or was called, through views; None where that is not stored."""
    return source.file_name(index) if isinstance(source, HasFileNames) else source.name(index)


@runtime_checkable
class HasPictures(Protocol):
    """A source that can hand a picture over in the form that costs least."""

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Return picture `index` as an RGB image or (h, w, 3) uint8 array that must not be written to.

        short_side: as in `isopatch.image.decode.decode_picture`; None: the pixels of `read`.
        """
        ...


def picture_of(
    source: ImageSource, index: int, *, short_side: int | None = None
) -> Image.Image | NDArray[np.uint8]:
    """Return picture `index` of any source, in the form that costs least (see `HasPictures`)."""
    if isinstance(source, HasPictures):
        return source.picture(index, short_side=short_side)
    return source.read(index)


@dataclass(frozen=True)
class DataSplits:
    """The three roles of a data set. `val` selects; `test` never does.

    val: None when no validation split exists and none was cut: then the last checkpoint is the final one.
    notes: what a reader of the report must know, in whole sentences (a split was cut from train, a class
        folder is missing in val, files were skipped).
    skipped: split name -> [(file, reason)] left out under `bad="skip"`, or when the data were packed.
    cut: the roles that were cut from train by seed, because the data has no such split.
    """

    classes: tuple[str, ...]
    train: ImageSource | None
    val: ImageSource | None
    test: ImageSource | None
    notes: tuple[str, ...] = ()
    skipped: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    cut: tuple[str, ...] = ()
