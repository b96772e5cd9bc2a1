"""Data sets of the Hugging Face hub, through the `datasets` library (an extra): `cifar10`, `owner/name`.

The library downloads once and keeps memory-mapped Arrow files of its own; pictures are taken from them as
encoded bytes and decoded by our rules. `owner/name:config` chooses a configuration.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.sources.parquet_schema import choose_column
from isopatch.data.sources.tables import SplitTable, assemble
from isopatch.data.stored import RawData
from isopatch.errors import UsageError
from isopatch.image.decode import MAX_PIXELS, DecodeError, decode, decode_picture

SHORT_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}

_ROLE_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
_LABEL_PREFERENCE = ("label", "labels", "fine_label", "class", "target")


class HubSource:
    """One split of a hub data set; `rows` is a `datasets.Dataset` whose picture column is not decoded."""

    def __init__(
        self,
        rows: Any,
        column: str,
        title: str,
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        max_pixels: int,
    ) -> None:
        """Read pictures from `column` of `rows`; `title` names the split in messages."""
        self.classes = classes
        self.labels = labels
        self._rows = rows
        self._column = column
        self._title = title
        self._max_pixels = max_pixels
        digest = hashlib.blake2b(f"{title}\0{len(labels)}\0".encode(), digest_size=16)
        digest.update(labels.tobytes())
        self.fingerprint = digest.hexdigest()
        self.state = self.fingerprint

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """`<data set>/<split>:<row>`."""
        return f"{self._title}:{index}"

    def file_name(self, index: int) -> str | None:
        """What the row says its file was called; None where it does not."""
        path = self._rows[index][self._column].get("path")
        return path if isinstance(path, str) and path else None

    def read(self, index: int) -> Image.Image:
        """Decode picture `index`; raises `DecodeError`."""
        return decode(self.stored(index), name=self.name(index), max_pixels=self._max_pixels)

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Decode picture `index` for training; raises `DecodeError`."""
        name = self.name(index)
        return decode_picture(
            self.stored(index), name=name, max_pixels=self._max_pixels, short_side=short_side
        )

    def stored(self, index: int) -> bytes:
        """Encoded bytes of picture `index`."""
        data = self._rows[index][self._column]["bytes"]
        if not isinstance(data, bytes):
            raise DecodeError(self.name(index), "no picture is stored in this row")
        return data


def open_hub(name: str, *, max_pixels: int = MAX_PIXELS) -> RawData:
    """Download (once) and open a hub data set; raises `UsageError` saying what to do when that fails."""
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f"data '{name}': no such file or folder, and a hub data set of this name needs the 'datasets' "
            "package (pip install 'isopatch[hub]')"
        ) from None
    repository, _, config = name.partition(":")
    repository = SHORT_NAMES.get(repository, repository)
    try:
        splits = datasets.load_dataset(repository, config or None)
    except Exception as error:  # network, authorisation, unknown name, broken repository: one line each
        lines = str(error).splitlines()
        raise UsageError(
            f"data '{name}': not a path here, and the hub could not provide it "
            f"({lines[0] if lines else type(error).__name__}); check the name and the connection, "
            "or give a folder or Parquet files"
        ) from None
    return _assemble(dict(splits), repository, datasets.Image(decode=False), max_pixels)


def _assemble(splits: dict[str, Any], repository: str, undecoded: Any, max_pixels: int) -> RawData:
    tables: dict[str, SplitTable] = {}
    opened: dict[str, tuple[Any, str, str]] = {}
    for role, split in _roles(splits, repository).items():
        rows, title = splits[split], f"{repository}/{split}"
        kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
        image = choose_column(
            [c for c, kind in kinds.items() if kind == "Image"],
            ("image", "img"),
            f"{title}: no picture column",
        )
        label = choose_column(
            [c for c, kind in kinds.items() if kind == "ClassLabel"]
            or [c for c in kinds if c in _LABEL_PREFERENCE],
            _LABEL_PREFERENCE,
            f"{title}: no label column",
        )
        labels, names, declared = _labels(rows, label, title)
        tables[role] = SplitTable(labels, names, declared=declared, where=title)
        opened[role] = (rows.cast_column(image, undecoded), image, title)
    classes, numbered, notes = assemble(tables)
    sources = {
        role: HubSource(*opened[role], labels, classes, max_pixels) for role, labels in numbered.items()
    }
    return RawData(
        classes,
        sources.get("train") or sources.get("pool"),
        sources.get("val"),
        sources.get("test"),
        pooled="pool" in sources,
        notes=tuple(notes),
    )


def _roles(splits: dict[str, Any], repository: str) -> dict[str, str]:
    """Return role -> split name; a data set of one split of another name is a pool."""
    found = {
        role: next(name for name in names if name in splits)
        for role, names in _ROLE_SPLITS.items()
        if any(name in splits for name in names)
    }
    if found:
        return found
    if len(splits) == 1:
        return {"pool": next(iter(splits))}
    raise UsageError(f"{repository}: its splits {sorted(splits)} are none of train, validation, test")


def _labels(rows: Any, column: str, title: str) -> tuple[NDArray[np.int64], tuple[str, ...] | None, bool]:
    """Return (labels, names, declared) of one label column."""
    values = list(rows[column])
    if any(value is None for value in values):
        raise UsageError(f"{title}: a row has no label in column '{column}'")
    if values and isinstance(values[0], str):
        number: dict[str, int] = {}
        labels = np.array([number.setdefault(value, len(number)) for value in values], dtype=np.int64)
        return labels, tuple(number), False
    names = getattr(rows.features[column], "names", None)
    return np.array(values, dtype=np.int64), tuple(names) if names else None, bool(names)
