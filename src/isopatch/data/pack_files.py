"""Writing a pack: shards of pictures, in a folder that appears complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from isopatch.data.pack_index import INDEX, is_pack, shard_file
from isopatch.errors import IsopatchError, UsageError
from isopatch.files import fsync_folder

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


def check_target(target: Path, overwrite: bool) -> None:
    """Raise UsageError where no pack may be written to `target`."""
    if not target.parent.is_dir():
        raise UsageError(f"{target}: the folder {target.parent} does not exist")
    if not target.exists() and not target.is_symlink():
        return
    if not is_pack(target):
        raise UsageError(f"{target} exists and is not a pack; give another place")
    if not overwrite:
        raise UsageError(
            f"{target}: there is a pack already; give another place, or --overwrite to replace it"
        )


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its place, complete and flushed, or vanishes."""
    _remove_abandoned(target)
    folder = target.with_name(f".{target.name}.packing-{os.getpid()}")
    former = target.with_name(f".{target.name}.former-{os.getpid()}")
    try:
        folder.mkdir()
        yield folder
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(folder)
        if target.exists():
            target.rename(former)
        folder.rename(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise IsopatchError(
            f"{target}: packing failed: {error.strerror or error}; nothing was kept. Free some space, pack "
            f"elsewhere, or take less of it: --store jpeg, a smaller --short-side"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Remove what killed processes left half-written."""
    for path in target.parent.glob(f".{target.name}.packing-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and not Path("/proc", number).exists() and not (path / INDEX).is_file():
            shutil.rmtree(path, ignore_errors=True)
