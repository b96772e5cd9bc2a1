"""Finding the pictures of one split: class folders, recursive, in one fixed order.

A picture is known by its extension (`formats.EXTENSIONS`); hidden files and folders (a leading dot, and
`__MACOSX`) are left out and counted. Links are followed. Order: classes by name, then files by the bytes
of their path.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isopatch.data.classmap import class_name
from isopatch.data.file_index import FileIndex
from isopatch.errors import UsageError
from isopatch.image.formats import EXTENSIONS, UNREAD_EXTENSIONS
from isopatch.image.names import printable

_PICTURE = frozenset(os.fsencode(extension) for extension in EXTENSIONS)
_UNREAD = frozenset(os.fsencode(extension) for extension in UNREAD_EXTENSIONS)


@dataclass
class LeftOut:
    """What a scan saw and did not take.

    other: extension -> files that are no pictures. unread: paths (relative to the split) of pictures in
    formats that are not read. loose: pictures outside class folders. hidden: files and folders.
    """

    hidden: int = 0
    other: Counter[str] = field(default_factory=Counter)
    unread: list[bytes] = field(default_factory=list)
    loose: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class SplitScan:
    """The pictures of one split folder.

    classes: class names in order, those of empty folders included; labels (N,) int64 index into them.
    files: N paths relative to `folder`. fingerprint: digest of paths and sizes; state: of modification
    times as well.
    """

    folder: Path
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    files: FileIndex
    fingerprint: str
    state: str
    left_out: LeftOut

    @property
    def counts(self) -> dict[str, int]:
        """Pictures per class, in class order."""
        numbers = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, numbers, strict=True))


def scan_split(folder: Path) -> SplitScan:
    """List the pictures under `folder`/<class>/; raises `UsageError` for names that cannot be classes."""
    base = os.fsencode(folder)
    left_out = LeftOut()
    folders: dict[str, bytes] = {}
    with _listing(base) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if _hidden(entry.name):
                left_out.hidden += 1
            elif _is_folder(entry):
                name = class_name(os.fsdecode(entry.name), str(folder))
                if name in folders:
                    raise UsageError(
                        f"{folder}: two folders are called '{name}', in different Unicode forms; merge them"
                    )
                folders[name] = entry.name
            else:
                _sort_in(entry.name, entry.name, left_out, left_out.loose)
    names: list[bytes] = []
    labels: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    digest, state = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    classes = tuple(sorted(folders))
    for label, name in enumerate(classes):
        found: list[bytes] = []
        _walk(base, folders[name], left_out, found, ancestors=())
        found.sort()
        for path in found:
            size, modified = _size_and_time(os.path.join(base, path))
            entry_key = b"%s\0%d\0" % (path, size)
            digest.update(entry_key)
            state.update(b"%s%d\0" % (entry_key, modified))
        names += found
        labels.append(np.full(len(found), label, dtype=np.int64))
    return SplitScan(
        folder=folder,
        classes=classes,
        labels=np.concatenate(labels),
        files=FileIndex(names),
        fingerprint=digest.hexdigest(),
        state=state.hexdigest(),
        left_out=left_out,
    )


def _walk(
    base: bytes, folder: bytes, left_out: LeftOut, found: list[bytes], ancestors: tuple[tuple[int, int], ...]
) -> None:
    """Collect pictures under base/folder, paths relative to `base`; a link back to a parent is refused."""
    path = os.path.join(base, folder)
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        raise UsageError(f"{printable(path)}: a link that leads back to a folder above it; remove it")
    with _listing(path) as entries:
        for entry in entries:
            relative = os.path.join(folder, entry.name)
            if _hidden(entry.name):
                left_out.hidden += 1
            elif _is_folder(entry):
                _walk(base, relative, left_out, found, (*ancestors, identity))
            else:
                _sort_in(entry.name, relative, left_out, found)


def _sort_in(name: bytes, relative: bytes, left_out: LeftOut, pictures: list[bytes]) -> None:
    extension = os.path.splitext(name)[1].lower()
    if extension in _PICTURE:
        pictures.append(relative)
    elif extension in _UNREAD:
        left_out.unread.append(relative)
    else:
        left_out.other[printable(extension) or "(none)"] += 1


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: left to the decoder, which names it
        return False


def _hidden(name: bytes) -> bool:
    return name.startswith(b".") or name == b"__MACOSX"


def _listing(path: bytes) -> os._ScandirIterator[bytes]:
    try:
        return os.scandir(path)
    except OSError as error:
        raise UsageError(f"{printable(path)}: cannot be listed: {error.strerror}") from None


def _size_and_time(path: bytes) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # a broken link: counted like any file, and refused by name when it is read
        return -1, 0
    return status.st_size, status.st_mtime_ns
