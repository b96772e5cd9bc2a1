"""Writing a pack: pictures end to end in shards, and where each one is."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from isopatch.data.pack_index import shard_file

SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class Encoded:
    """One picture as it is stored. as_it_was: the source's own JPEG file, untouched."""

    data: bytes
    height: int
    width: int
    as_it_was: bool = False


@dataclass
class ShardWriter:
    """Appends pictures to shards of about a gigabyte and remembers where they are."""

    folder: Path
    role: str
    shard_bytes: list[int] = field(default_factory=list)
    shard: array[int] = field(default_factory=lambda: array("l"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    height: array[int] = field(default_factory=lambda: array("l"))
    width: array[int] = field(default_factory=lambda: array("l"))
    crc: array[int] = field(default_factory=lambda: array("L"))
    _file: IO[bytes] | None = None

    def add(self, picture: Encoded) -> None:
        """Append one picture."""
        if self._file is None or self.shard_bytes[-1] + len(picture.data) > SHARD_BYTES:
            self.close()
            self._file = open(self.folder / shard_file(self.role, len(self.shard_bytes)), "wb")  # noqa: SIM115
            self.shard_bytes.append(0)
        self._file.write(picture.data)
        self._add_row(picture)
        self.shard_bytes[-1] += len(picture.data)

    def leave_out(self) -> None:
        """Append the place of a picture that cannot be read: a row of length 0."""
        self._add_row(Encoded(b"", 0, 0))

    def _add_row(self, picture: Encoded) -> None:
        self.shard.append(max(len(self.shard_bytes) - 1, 0))
        self.offset.append(self.shard_bytes[-1] if self.shard_bytes else 0)
        self.length.append(len(picture.data))
        self.height.append(picture.height)
        self.width.append(picture.width)
        self.crc.append(zlib.crc32(picture.data))

    def close(self) -> None:
        """Close the last shard."""
        if self._file is not None:
            self._file.close()
            self._file = None
