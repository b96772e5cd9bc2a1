"""`isopatch data pack`: every picture decoded and resized once, stored in shards with an index.

Order, labels, splits and names are the source's, so that training sees the same pictures in the same order
and a split that is cut by seed is cut alike: an unreadable picture that is skipped keeps its place. Written
beside the target and renamed when complete.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image

from isopatch.data.crops import scaled
from isopatch.data.find import find_data
from isopatch.data.pack_files import Encoded, ShardWriter
from isopatch.data.pack_folder import check_target, clear_up, new_folder
from isopatch.data.pack_index import FORMAT, Rows, write_index, write_rows
from isopatch.data.stored import StoredSource, left_out_of
from isopatch.data.workers import load_in_order
from isopatch.errors import UsageError
from isopatch.image.decode import DECODE_VERSION, MAX_PIXELS, DecodeError, decode
from isopatch.image.jpeg import is_plain

Store = Literal["raw", "jpeg"]
SHORT_SIDE = 256  # what 224 pixels are cut from in evaluation, at the commonest crop_fraction 0.875
QUALITY = 95
MOST_QUALITY = 100
_SECONDS_BETWEEN_LINES = 10.0
_LOG = logging.getLogger("isopatch")


@dataclass(frozen=True)
class Encoder:
    """What is done with each picture; runs in the workers."""

    source: StoredSource
    short_side: int
    store: Store
    quality: int
    skip: bool
    max_pixels: int

    def __call__(self, index: int) -> Encoded | str:
        """Return the picture, or the reason why it cannot be read."""
        try:
            return self.encode(index)
        except DecodeError as error:
            left_out = left_out_of(self.source)
            if not self.skip and index not in left_out:
                raise
            return left_out.get(index, error.reason)

    def encode(self, index: int) -> Encoded:
        """Decode, resize where the shorter side is above `short_side`, encode."""
        stored = self.source.stored(index)
        name = self.source.name(index)
        if self.store == "jpeg" and not isinstance(stored, Image.Image):
            data = stored if isinstance(stored, bytes) else _content(stored, name)
            image = decode(data, name=name, max_pixels=self.max_pixels)
            if min(image.size) <= self.short_side and is_plain(data, self.max_pixels):
                return Encoded(data, image.height, image.width, as_it_was=True)
        else:
            image = self.source.read(index)
        size = resized(image.size, self.short_side)
        pixels = np.asarray(image)
        if size != image.size:
            pixels = scaled(image, (0, 0, *image.size), size, Image.Resampling.BICUBIC)
        height, width = pixels.shape[:2]
        if self.store == "raw":
            return Encoded(pixels.tobytes(), height, width)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
        return Encoded(file.getvalue(), height, width)


def resized(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side at most `short_side`; the longer one is rounded down."""
    width, height = size
    if min(size) <= short_side:
        return size
    if width < height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def pack_data(
    source: str | Path,
    out: str | Path,
    *,
    short_side: int = SHORT_SIDE,
    store: Store = "raw",
    quality: int = QUALITY,
    workers: int = 0,
    bad: Literal["fail", "skip"] = "fail",
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Pack the data `source` means into the folder `out` and return what was written, as JSON values.

    store: "raw", 8-bit pixels without loss, 3 bytes a pixel; "jpeg", a tenth of that, where a JPEG file that
        needs no change is stored as it is. bad: an unreadable picture stops the packing, or is left out and
        listed: its row is empty. What a source that is a pack left out is left out again in either case.
    quality: of pictures that become JPEG, 1 to 100. overwrite: a pack at `out` is replaced, where the folder
        holds nothing else.
    Raises `UsageError` for a wrong quality and where `out` is taken, `DecodeError` for an unreadable picture,
    `IsopatchError` where the disk is full; then nothing is left behind.
    """
    started = time.monotonic()
    target = Path(out).expanduser()
    if not 1 <= quality <= MOST_QUALITY:
        raise UsageError(f"quality {quality}: give a whole number from 1 to {MOST_QUALITY}")
    clear_up(target)
    check_target(target, overwrite)
    raw = find_data(source, max_pixels=max_pixels)
    sources = raw.roles()
    document: dict[str, Any] = {
        "format": FORMAT,
        "store": store,
        "short_side": short_side,
        "quality": quality if store == "jpeg" else None,
        "pooled": raw.pooled,
        "classes": list(raw.classes),
        "notes": list(raw.notes),
        "splits": {},
        "made_from": {
            "source": str(source),
            "fingerprints": {role: part.fingerprint for role, part in sources.items()},
            "pillow": PIL.__version__,
            "decode_version": DECODE_VERSION,
        },
    }
    pictures = sum(len(part) for part in sources.values())
    progress = _Progress(pictures)
    skip = bad == "skip"
    with new_folder(target, overwrite=overwrite) as folder:
        for role, part in sources.items():
            encoder = Encoder(part, short_side, store, quality, skip, max_pixels)
            document["splits"][role] = _write_split(folder, role, encoder, str(source), workers, progress)
        write_index(folder, document)
    skipped = {role: split["skipped"] for role, split in document["splits"].items() if split["skipped"]}
    return {
        "out": str(target),
        "store": store,
        "short_side": short_side,
        "quality": document["quality"],
        "splits": {role: split["pictures"] for role, split in document["splits"].items()},
        "as_they_were": sum(split["as_they_were"] for split in document["splits"].values()),
        "skipped": skipped,
        "bytes": sum(sum(split["shard_bytes"]) for split in document["splits"].values()),
        "seconds": round(time.monotonic() - started, 2),
    }


def _write_split(
    folder: Path, role: str, encoder: Encoder, root: str, workers: int, progress: _Progress
) -> dict[str, Any]:
    """Write the shards and the index of one split; return its part of pack.json."""
    source = encoder.source
    writer = ShardWriter(folder, role)
    skipped: list[list[str]] = []
    as_they_were = 0
    prefix = f"{root.rstrip('/')}/"
    names: list[bytes] = []
    results = load_in_order(encoder, range(len(source)), workers=workers)
    with contextlib.closing(results), contextlib.closing(writer):
        for index, result in enumerate(results):
            progress.step()
            name = source.name(index).removeprefix(prefix)
            names.append(name.encode())
            if isinstance(result, str):
                writer.leave_out()
                skipped.append([name, result])
            else:
                writer.add(result)
                as_they_were += result.as_it_was
    if len(skipped) == len(source):
        raise UsageError(f"{root}: none of the {len(source)} pictures of {role} can be read")
    ends = np.cumsum([0, *(len(name) for name in names)], dtype=np.int64)
    rows = Rows(
        labels=source.labels,
        shard=np.array(writer.shard, dtype=np.int32),
        offset=np.array(writer.offset, dtype=np.int64),
        length=np.array(writer.length, dtype=np.int64),
        height=np.array(writer.height, dtype=np.int32),
        width=np.array(writer.width, dtype=np.int32),
        crc=np.array(writer.crc, dtype=np.uint32),
        names=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_offset=ends,
    )
    return {
        "pictures": len(source) - len(skipped),
        "shard_bytes": writer.shard_bytes,
        "index_sha256": write_rows(folder, role, rows),
        "skipped": skipped,
        "as_they_were": as_they_were,
    }


class _Progress:
    """A line every few seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = self._said = time.monotonic()

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            rate = self._done / (now - self._started)
            _LOG.info("packed %d of %d pictures, %.0f a second", self._done, self._total, rate)


def _content(path: Path, name: str) -> bytes:
    """Read a file that `decode` accepts; it is looked at first, so that a pipe is refused, not waited for."""
    if not path.is_file():
        decode(path, name=name)  # raises, and says why
    try:
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(name, error.strerror or type(error).__name__) from None
