"""Enumerating everything `data check` reads, and examining one picture."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from isopatch.data.find import find_data
from isopatch.data.pack_index import is_pack
from isopatch.data.scan import SplitScan, scan_split
from isopatch.data.sources.folder import split_folders
from isopatch.data.sources.parquet import find_shards
from isopatch.data.stored import RawData, StoredSource
from isopatch.errors import IsopatchError
from isopatch.image.decode import DecodeError, decode_described
from isopatch.image.names import printable


@dataclass(frozen=True)
class Item:
    """One picture to read.

    label: its class name, None outside class folders. name: what it is called. stored: a `DecodeError` where
    it cannot even be fetched.
    """

    split: str
    label: str | None
    name: str
    stored: Path | bytes | Image.Image | DecodeError


@dataclass(frozen=True)
class Verdict:
    """What reading one picture showed; `reason` is None for a readable one."""

    reason: str | None
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    remark: str | None = None
    sha256: bytes = b""


@dataclass
class Inventory:
    """Everything found.

    classes: per split its class names in order, empty ones included. problem: why training refuses the data.
    """

    classes: dict[str, list[str]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    notes: tuple[str, ...] = ()
    problem: str | None = None
    _raw: RawData | None = None
    _scans: dict[str, SplitScan] = field(default_factory=dict)

    def items(self) -> Iterator[Item]:
        """Yield every picture, split by split."""
        for role, scan in self._scans.items():
            yield from _scanned(role, scan)
        if self._raw is not None and not self._scans:
            for role, source in self._raw.roles().items():
                role = "all" if self._raw.pooled else role
                for index in range(len(source)):
                    label = source.classes[source.labels[index]]
                    yield Item(role, label, source.name(index), _fetched(source, index))


def _fetched(source: StoredSource, index: int) -> Path | bytes | Image.Image | DecodeError:
    try:
        return source.stored(index)
    except DecodeError as error:
        return error


def take_inventory(source: str | Path, *, max_pixels: int) -> Inventory:
    """Find the pictures of `source`; a folder is listed even where training would refuse its layout."""
    inventory = Inventory()
    path = Path(source).expanduser()
    listable = source != "digits" and path.is_dir() and not is_pack(path) and not find_shards(path)
    try:
        inventory._raw = find_data(source, max_pixels=max_pixels)
        inventory.notes = inventory._raw.notes
    except IsopatchError as error:
        if not listable:
            raise
        inventory.problem = str(error)
    if listable:
        _list_folder(path, inventory)
    elif inventory._raw is not None:
        for role, part in inventory._raw.roles().items():
            inventory.classes["all" if inventory._raw.pooled else role] = list(part.classes)
    return inventory


def _list_folder(root: Path, inventory: Inventory) -> None:
    try:
        found = split_folders(root)
        folders: dict[str, Path] = {role: found[role] for role in ("train", "val", "test") if role in found}
        folders = folders or {"all": root}
    except IsopatchError:  # two folders for one role: then each folder is simply listed under its name
        folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    for name, folder in folders.items():
        scan = scan_split(folder)
        inventory._scans[printable(name)] = scan
        inventory.classes[printable(name)] = list(scan.classes)
        inventory.ignored.update(scan.left_out.other)
        inventory.hidden += scan.left_out.hidden


def _scanned(role: str, scan: SplitScan) -> Iterator[Item]:
    left = scan.left_out
    for index in range(len(scan.files)):
        yield _file_item(role, scan.classes[scan.labels[index]], scan.folder, scan.files[index])
    for relative in sorted(left.loose + left.unread):
        yield _file_item(role, None, scan.folder, relative)


def _file_item(role: str, label: str | None, folder: Path, relative: bytes) -> Item:
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), relative)))
    return Item(role, label, printable(path), path)


def examine(item: Item, *, max_pixels: int) -> Verdict:
    """Decode one picture and hash what is stored; never raises for a bad picture."""
    if isinstance(item.stored, DecodeError):
        return Verdict(item.stored.reason)
    if isinstance(item.stored, Image.Image):
        image = item.stored
        digest = hashlib.sha256(image.tobytes()).digest()
        return Verdict(None, image.width, image.height, "array", image.mode, None, digest)
    try:
        decoded = decode_described(item.stored, name=item.name, max_pixels=max_pixels)
        digest = _sha256(item.stored)
    except DecodeError as error:
        return Verdict(error.reason)
    except OSError as error:  # the file went away between decoding and hashing
        return Verdict(error.strerror or type(error).__name__)
    width, height = decoded.image.size
    return Verdict(None, width, height, decoded.format, decoded.mode, decoded.remark, digest)


def _sha256(stored: Path | bytes) -> bytes:
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).digest()
    with open(stored, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file any more")
        return hashlib.file_digest(file, "sha256").digest()
