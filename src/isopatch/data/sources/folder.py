"""Class folders on disk: DATA/train/<class>/..., val and test beside it, or DATA/<class>/... alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.classmap import check_train_classes, match_classes
from isopatch.data.roles import ROLE_NAMES, folder_role
from isopatch.data.scan import SplitScan, scan_split
from isopatch.data.stored import RawData
from isopatch.errors import UsageError
from isopatch.image.decode import MAX_PIXELS, decode, decode_picture
from isopatch.image.names import printable


class FolderSource:
    """The pictures of one scanned split, decoded from their files when read."""

    def __init__(
        self, scan: SplitScan, labels: NDArray[np.int64], classes: tuple[str, ...], max_pixels: int
    ) -> None:
        """Label the files of `scan` with `labels` (N,), which index into `classes`."""
        self.classes = classes
        self.labels = labels
        self._folder = os.fsencode(scan.folder)
        self._files = scan.files
        self._max_pixels = max_pixels
        digest = hashlib.blake2b(scan.fingerprint.encode(), digest_size=16)
        digest.update(labels.tobytes())
        self.fingerprint = digest.hexdigest()
        self.state = scan.state

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._files)

    def name(self, index: int) -> str:
        """Path of the picture, printable."""
        return printable(os.path.join(self._folder, self._files[index]))

    def read(self, index: int) -> Image.Image:
        """Decode picture `index`; raises `DecodeError`."""
        return decode(self.stored(index), name=self.name(index), max_pixels=self._max_pixels)

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Decode picture `index` for training; raises `DecodeError`."""
        name = self.name(index)
        return decode_picture(
            self.stored(index), name=name, max_pixels=self._max_pixels, short_side=short_side
        )

    def stored(self, index: int) -> Path:
        """Path of the picture as it is on disk."""
        return Path(os.fsdecode(os.path.join(self._folder, self._files[index])))


def split_folders(root: Path) -> dict[str, Path]:
    """Return role -> folder for the split folders in `root`; two folders for one role raise `UsageError`."""
    found: dict[str, Path] = {}
    for child in sorted(p for p in root.iterdir() if p.is_dir()):
        role = folder_role(child.name)
        if role is None:
            continue
        if role in found:
            raise UsageError(
                f"{root}: '{found[role].name}' and '{child.name}' both stand for {role}; keep one"
            )
        found[role] = child
    return found


def open_folder(root: Path, *, max_pixels: int = MAX_PIXELS) -> RawData:
    """Open a tree of class folders; raises `UsageError` where labels would be missing or ambiguous.

    Without a train folder beside it, the classes of val and test together are the class map (to measure a
    model that brings its own).
    """
    splits = split_folders(root)
    if not splits:
        return _pooled(root, max_pixels)
    scans = {role: scan_split(splits[role]) for role in ("train", "val", "test") if role in splits}
    for scan in scans.values():
        if not len(scan.files):
            raise UsageError(f"{scan.folder}: no pictures in class folders; fill it or remove it{_why(scan)}")
    notes = [f"{_shown(p)} is not a split ({ROLE_NAMES}) and was ignored." for p in _strangers(root, splits)]
    if "train" in scans:
        classes = check_train_classes(scans["train"].counts, str(scans["train"].folder))
    else:
        classes = tuple(sorted({c for scan in scans.values() for c, n in scan.counts.items() if n}))
    sources: dict[str, FolderSource] = {}
    for role, scan in scans.items():
        mapping, missing = match_classes(classes, scan.counts, str(scan.folder), role)
        if "train" in scans:
            notes += missing
        notes += _left_out_notes(scan, role)
        sources[role] = FolderSource(scan, mapping[scan.labels], classes, max_pixels)
    return RawData(classes, sources.get("train"), sources.get("val"), sources.get("test"), notes=tuple(notes))


def _pooled(root: Path, max_pixels: int) -> RawData:
    scan = scan_split(root)
    if not len(scan.files):
        raise UsageError(
            f"{root}: no pictures in class folders; expected {root}/<class>/<picture>, "
            f"{root}/train/<class>/<picture> or Parquet files{_why(scan)}"
        )
    classes = check_train_classes(scan.counts, str(root))
    source = FolderSource(scan, scan.labels, classes, max_pixels)
    return RawData(classes, source, None, None, pooled=True, notes=tuple(_left_out_notes(scan, "data")))


def _strangers(root: Path, splits: dict[str, Path]) -> list[Path]:
    others = (p for p in root.iterdir() if p.is_dir() and p not in set(splits.values()))
    return sorted(p for p in others if not p.name.startswith((".", "__MACOSX")))


def _why(scan: SplitScan) -> str:
    """What lies there instead of pictures in class folders, for an error message."""
    left = scan.left_out
    if left.loose:
        return f" ({len(left.loose)} pictures lie outside class folders)"
    if left.unread:
        return f" ({len(left.unread)} pictures are in formats that are not read)"
    return ""


def _left_out_notes(scan: SplitScan, role: str) -> list[str]:
    left, notes = scan.left_out, []
    if left.loose:
        notes.append(f"{role}: {len(left.loose)} pictures outside class folders were ignored.")
    if left.unread:
        kinds = sorted({os.path.splitext(printable(p))[1].lower() for p in left.unread})
        notes.append(
            f"{role}: {len(left.unread)} pictures in formats that are not read were ignored "
            f"({', '.join(kinds)})."
        )
    if left.hidden:
        notes.append(f"{role}: {left.hidden} hidden files or folders were ignored.")
    return notes


def _shown(path: Path) -> str:
    return f"The folder '{printable(path.name)}'"
