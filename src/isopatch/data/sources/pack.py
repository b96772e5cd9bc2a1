"""Pictures resized once and stored in shards (`isopatch data pack`): memory-mapped, checked, in any order."""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.pack_index import ROLES, Rows, left_out_rows, read_index, read_rows, shard_file
from isopatch.data.stored import RawData
from isopatch.errors import IsopatchError
from isopatch.image.decode import MAX_PIXELS, DecodeError, decode, decode_picture


class PackSource:
    """One split of a pack.

    A picture's checksum is compared when a process reads it for the first time, a shard's length when it maps
    it. A file cut short after that ends the process (SIGBUS): do not touch a pack that is in use.

    state: changes with the content and with the shards' sizes and modification times.
    left_out: index -> reason of the pictures that could not be read when the pack was made.
    """

    def __init__(
        self, folder: Path, role: str, rows: Rows, document: dict[str, Any], max_pixels: int
    ) -> None:
        """Read the pictures of `rows`, which `document` (pack.json) describes."""
        store: str = document["store"]
        self.classes: tuple[str, ...] = tuple(document["classes"])
        self.left_out = left_out_rows(rows, document["splits"][role]["skipped"], folder)
        self.labels = rows.labels
        self._folder = folder
        self._role = role
        self._rows = rows
        self._raw = store == "raw"
        self._max_pixels = max_pixels
        self._shards: dict[int, NDArray[np.uint8]] = {}
        self._shard_bytes: list[int] = document["splits"][role]["shard_bytes"]
        self._verified: NDArray[np.bool_] = np.zeros(len(rows), dtype=bool)
        self.fingerprint = hashlib.blake2b(f"{store}\0{rows.digest}".encode(), digest_size=16).hexdigest()
        self.state = self._state()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """`<pack>:<name in the data it was made from>`."""
        return f"{self._folder}:{self._rows.name(index)}"

    def read(self, index: int) -> Image.Image:
        """Return picture `index`; raises `DecodeError` where it is damaged, or was left out."""
        if self._raw:
            return Image.fromarray(self._pixels(index))
        return decode(self._record(index).tobytes(), name=self.name(index), max_pixels=self._max_pixels)

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Return picture `index` for training: of raw pixels a read-only view of the file itself."""
        if self._raw:
            return self._pixels(index)
        data, name = self._record(index).tobytes(), self.name(index)
        return decode_picture(data, name=name, max_pixels=self._max_pixels, short_side=short_side)

    def stored(self, index: int) -> bytes | Image.Image:
        """Return the JPEG file, or of raw pixels the picture."""
        return self.read(index) if self._raw else self._record(index).tobytes()

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        return self._record(index).reshape(int(self._rows.height[index]), int(self._rows.width[index]), 3)

    def _record(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of a picture, a view of the mapped file."""
        rows = self._rows
        if index in self.left_out:
            reason = f"could not be read when it was packed: {self.left_out[index]}"
            raise DecodeError(self.name(index), reason)
        shard = self._shard(int(rows.shard[index]))
        start = int(rows.offset[index])
        record = shard[start : start + int(rows.length[index])]
        if not self._verified[index]:
            if zlib.crc32(record.data) != rows.crc[index]:
                raise DecodeError(
                    self.name(index), "damaged in the pack (checksum differs); pack the data again"
                )
            self._verified[index] = True
        return record

    def _shard(self, number: int) -> NDArray[np.uint8]:
        if number not in self._shards:
            path, expected = self._folder / shard_file(self._role, number), self._shard_bytes[number]
            try:
                with open(path, "rb") as file:
                    found = os.fstat(file.fileno()).st_size
                    if found != expected:
                        raise _lost(path, f"{found:,} bytes instead of {expected:,}")
                    mapped = mmap.mmap(file.fileno(), expected, access=mmap.ACCESS_READ)
            except OSError as error:
                raise _lost(path, error.strerror or type(error).__name__) from None
            self._shards[number] = np.frombuffer(mapped, dtype=np.uint8)
        return self._shards[number]

    def _state(self) -> str:
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        for number in range(len(self._shard_bytes)):
            path = self._folder / shard_file(self._role, number)
            try:
                status = path.stat()
            except OSError as error:
                raise _lost(path, error.strerror or type(error).__name__) from None
            digest.update(b"%d\0%d\0" % (status.st_size, status.st_mtime_ns))
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the mapped files: another process maps them itself."""
        return {**self.__dict__, "_shards": {}}


def _lost(shard: Path, what: str) -> IsopatchError:
    return IsopatchError(
        f"{shard}: {what}; it was whole when the pack was opened: bring it back, or pack the data again"
    )


def open_pack(folder: Path, *, max_pixels: int = MAX_PIXELS) -> RawData:
    """Open a pack; raises `IsopatchError` where its index is damaged or a shard has another length."""
    document = read_index(folder)
    sources: dict[str, PackSource] = {}
    for role in ROLES:
        if role in document["splits"]:
            rows = read_rows(folder, role, document["splits"][role]["index_sha256"])
            sources[role] = PackSource(folder, role, rows, document, max_pixels)
    return RawData(
        tuple(document["classes"]),
        sources.get("train"),
        sources.get("val"),
        sources.get("test"),
        pooled=document["pooled"],
        notes=tuple(document["notes"]),
    )
