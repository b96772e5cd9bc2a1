"""Parquet files in the Hugging Face layout, converted once to an uncompressed file for random access.

The conversion goes to the cache folder (`cache.cache_dir`), takes as much disk as the encoded pictures and
is found again by the shards' paths, sizes and modification times; a change of any makes it anew, in place
of the old. The source's fingerprint is of the content, so it is the same on another machine.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.cache import cache_dir, locked, replaced_folder
from isopatch.data.packed_rows import PackedRows, write_rows
from isopatch.data.roles import file_role, folder_role
from isopatch.data.sources.parquet_schema import find_columns, stored_paths
from isopatch.data.sources.tables import SplitTable, assemble
from isopatch.data.stored import RawData
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.decode import MAX_PIXELS, DecodeError, decode, decode_picture

_LOG = logging.getLogger("isopatch")
_BATCH_ROWS = 128  # rows held at once while converting


class ParquetSource:
    """The rows of one split; pictures are decoded when read."""

    def __init__(
        self,
        rows: PackedRows,
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        max_pixels: int,
        shards: Sequence[Path],
    ) -> None:
        """Label `rows` with `labels` (N,), which index into `classes`. shards: the files they came from."""
        self.classes = classes
        self.labels = labels
        self._rows = rows
        self._max_pixels = max_pixels
        described = rows.meta["describe"]["shards"]
        self._shards = tuple(shards)
        self._file_names: list[str | None] | None = None
        self._shard_names = [name for name, _ in described]
        self._shard_ends = np.cumsum([count for _, count in described])
        digest = hashlib.blake2b(rows.digest.encode(), digest_size=16)
        digest.update(labels.tobytes())
        self.fingerprint = digest.hexdigest()
        self.state = self.fingerprint

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """`<shard>:<row in the shard>`."""
        shard = int(np.searchsorted(self._shard_ends, index, side="right"))
        start = int(self._shard_ends[shard - 1]) if shard else 0
        return f"{self._shard_names[shard]}:{index - start}"

    def file_name(self, index: int) -> str | None:
        """What the row's `path` says; None where the file has no such column or the row no path.

        Read from the Parquet files when first asked for: the cache holds pictures and labels alone.
        """
        if self._file_names is None:
            self._file_names = [name for shard in self._shards for name in stored_paths(shard)]
        return self._file_names[index]

    def read(self, index: int) -> Image.Image:
        """Decode picture `index`; raises `DecodeError`."""
        data, name = self._encoded(index)
        return decode(data, name=name, max_pixels=self._max_pixels)

    def picture(self, index: int, *, short_side: int | None = None) -> Image.Image | NDArray[np.uint8]:
        """Decode picture `index` for training; raises `DecodeError`."""
        data, name = self._encoded(index)
        return decode_picture(data, name=name, max_pixels=self._max_pixels, short_side=short_side)

    def stored(self, index: int) -> bytes:
        """Encoded bytes of picture `index`."""
        return self._rows.record(index)

    def _encoded(self, index: int) -> tuple[bytes, str]:
        data, name = self._rows.record(index), self.name(index)
        if not data:
            raise DecodeError(name, "no picture is stored in this row (a path alone is not followed)")
        return data, name


def find_shards(root: Path) -> list[Path]:
    """Return the Parquet files of a data set: `root` itself, or those in it and in its sub-folders."""
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    found = (path for pattern in ("*.parquet", "*/*.parquet") for path in root.glob(pattern))
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def open_parquet(root: Path, shards: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> RawData:
    """Open Parquet shards. Their role is in the file name (`train-...`) or in the folder's (`train/...`).

    Files without a role are one pool, to be cut by seed. Raises `UsageError` for what cannot be labelled.
    """
    by_role: dict[str, list[Path]] = {}
    for shard in shards:
        role = file_role(shard.stem) or (folder_role(shard.parent.name) if root.is_dir() else None)
        by_role.setdefault(role or "pool", []).append(shard)
    if "pool" in by_role and len(by_role) > 1:
        raise UsageError(
            f"{root}: '{by_role['pool'][0].name}' does not say which split it is, others do; "
            "begin its name with train-, validation- or test-"
        )
    tables: dict[str, SplitTable] = {}
    packs: dict[str, PackedRows] = {}
    for role, paths in by_role.items():
        if root.is_dir():
            _check_complete(paths)
        pack = _pack(paths)
        described = pack.meta["describe"]
        names = tuple(described["names"]) if described["names"] is not None else None
        where = str(paths[0].parent)
        tables[role] = SplitTable(pack.labels, names, declared=described["declared"], where=where)
        packs[role] = pack
    classes, labels, notes = assemble(tables)
    sources = {
        role: ParquetSource(packs[role], labels[role], classes, max_pixels, by_role[role]) for role in labels
    }
    return RawData(
        classes,
        sources.get("train") or sources.get("pool"),
        sources.get("val"),
        sources.get("test"),
        pooled="pool" in sources,
        notes=tuple(notes),
    )


def _check_complete(paths: list[Path]) -> None:
    """Refuse shards of one split in two folders, and a set `...-00003-of-00005` of which one is missing."""
    folders = sorted({path.parent for path in paths})
    if len(folders) > 1:
        raise UsageError(
            f"{folders[0]} and {folders[1]} both hold shards of one split; give the folder of one data set"
        )
    numbered: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})", path.stem)
        if match:
            numbered.setdefault((f"{path.parent}/{match[1]}", int(match[3])), set()).add(int(match[2]))
    for (prefix, total), present in numbered.items():
        for number in range(total):
            if number not in present:
                raise UsageError(f"{prefix}-{number:05d}-of-{total:05d}.parquet is missing; add that shard")


def _pack(paths: list[Path]) -> PackedRows:
    """Return the converted rows of one split, from the cache where it still matches the files."""
    place = hashlib.blake2b(b"\0".join(os.fsencode(path.resolve()) for path in paths))
    target = cache_dir("parquet") / place.hexdigest()[:32]
    state = _state(paths)
    found = _cached(target, state)
    if found is not None:
        return found
    with locked(target):
        found = _cached(target, state)  # another process may have made it while this one waited
        if found is not None:
            return found
        _LOG.info("converting %d Parquet file(s) once to %s", len(paths), target)
        try:
            with replaced_folder(target) as folder:
                described: dict[str, Any] = {"state": state}
                write_rows(folder, _rows(paths, described), described)
        except OSError as error:
            raise IsopatchError(
                f"{target}: converting {paths[0]} failed: {error.strerror or error}; "
                "free some space, or set ISOPATCH_CACHE to another folder"
            ) from None
        return PackedRows(target)


def _cached(target: Path, state: str) -> PackedRows | None:
    try:
        rows = PackedRows(target)
    except (IsopatchError, OSError, ValueError):
        return None
    return rows if rows.meta["describe"].get("state") == state else None


def _state(paths: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        status = path.stat()
        digest.update(os.fsencode(path.name) + b"\0%d\0%d\0" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def _rows(paths: list[Path], described: dict[str, Any]) -> Iterator[tuple[bytes, int]]:
    """Yield (encoded picture, label) over the shards, and fill `described` with names and shard sizes."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    shards: list[tuple[str, int]] = []
    declared: tuple[str, ...] | None = None
    text_number: dict[str, int] = {}
    first: bool | None = None
    for path in paths:
        try:
            with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                columns = find_columns(file.schema_arrow, path)
                if first is None:
                    first, declared = columns.text, columns.names
                elif (columns.text, columns.names) != (first, declared):
                    raise UsageError(f"{path}: its label column or class names differ from {paths[0].name}'s")
                count = 0
                for batch in file.iter_batches(_BATCH_ROWS, columns=[columns.image, columns.label]):
                    images, labels = batch.column(columns.image), batch.column(columns.label).to_pylist()
                    if pa.types.is_struct(images.type):
                        images = pc.struct_field(images, "bytes")
                    for image, label in zip(images, labels, strict=True):
                        if label is None:
                            raise UsageError(f"{path}: row {count} has no label")
                        if columns.text:
                            label = text_number.setdefault(label, len(text_number))
                        yield image.as_py() or b"", label
                        count += 1
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
        shards.append((path.name, count))
    described["shards"] = shards
    described["declared"] = declared is not None
    described["names"] = declared if declared is not None else (list(text_number) if first else None)
