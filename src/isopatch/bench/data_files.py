"""What the peers can read: a folder of class folders with picture files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from isopatch.data.find import find_data
from isopatch.data.sources.folder import FolderSource, split_folders
from isopatch.data.sources.subset import without_left_out
from isopatch.data.stored import StoredSource
from isopatch.errors import UsageError
from isopatch.image.decode import MAX_PIXELS

QUALITY = 95  # of pictures that have no file: pixels of a pack, digits


@contextmanager
def picture_folder(data: str | Path) -> Iterator[Path]:
    """Yield a folder of class folders with the training pictures of `data`: its own, or one written for this.

    Encoded pictures are written as they are, pixels as JPEG of quality 95 in PIL's default subsampling.
    """
    train = find_data(data, max_pixels=MAX_PIXELS).train
    if train is None:
        raise UsageError(f"{data}: no training split")
    if isinstance(train, FolderSource):
        root = Path(data).expanduser()
        yield split_folders(root).get("train", root)
        return
    folder = Path(tempfile.mkdtemp(prefix="isopatch-bench-"))
    try:
        write_files(without_left_out(train), folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_files(source: StoredSource, folder: Path) -> None:
    """Write every picture as folder/<class number>/<number>.<suffix>."""
    for label in range(len(source.classes)):
        (folder / f"{label:04d}").mkdir()
    for index, label in enumerate(source.labels.tolist()):
        place = folder / f"{label:04d}" / f"{index:08d}"
        stored = source.stored(index)
        if isinstance(stored, Image.Image):
            stored.save(place.with_suffix(".jpg"), quality=QUALITY)
        elif isinstance(stored, Path):
            os.symlink(stored.resolve(), place.with_suffix(stored.suffix))
        else:
            place.with_suffix(".jpg" if stored[:2] == b"\xff\xd8" else ".png").write_bytes(stored)
