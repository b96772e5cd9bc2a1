"""The index of a pack: what is in it, where, and with what checksum. Layout of the folder:

pack.json               store, sizes, classes, splits, where it came from; its own SHA-256 and the indices'
train.npz, ...          per split the arrays of `Rows`
train-00000.bin, ...    per split the pictures end to end: pixels (raw) or JPEG files

A picture that could not be read when the pack was made keeps its row, of length 0, so that every other one
has the number it has in the source; `skipped` of its split lists [name, reason] in the order of these rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import IsopatchError
from isopatch.files import sha256_of, to_json, write_new

FORMAT = "isopatch-pack-1"
INDEX = "pack.json"
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class Rows:
    """The N pictures of one split; one of length 0 could not be read when the pack was made.

    labels: int64. shard, height, width: int32. offset, length: int64, bytes. crc: uint32, CRC-32 of these.
    names: uint8, their original names end to end (UTF-8); name i begins at name_offset[i] (N + 1, int64).
    """

    labels: NDArray[np.int64]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    crc: NDArray[np.uint32]
    names: NDArray[np.uint8]
    name_offset: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the original name of a picture."""
        return bytes(self.names[self.name_offset[index] : self.name_offset[index + 1]]).decode()

    @property
    def digest(self) -> str:
        """Digest of every picture's size, length, CRC-32 and label, in order: the content's fingerprint."""
        total = hashlib.blake2b(digest_size=16)
        for numbers in (self.labels, self.length, self.height, self.width, self.crc):
            total.update(np.ascontiguousarray(numbers).tobytes())
        return total.hexdigest()


def shard_file(role: str, number: int) -> str:
    """Return the name of a shard's file."""
    return f"{role}-{number:05d}.bin"


def is_pack(folder: Path) -> bool:
    """Return whether a folder holds a pack."""
    return (folder / INDEX).is_file()


def write_rows(folder: Path, role: str, rows: Rows) -> str:
    """Write the index of one split and return its SHA-256."""
    path = folder / f"{role}.npz"
    np.savez(path, allow_pickle=False, **{field.name: getattr(rows, field.name) for field in fields(Rows)})
    return sha256_of(path)


def write_index(folder: Path, document: dict[str, Any]) -> None:
    """Write pack.json: the document and its digest."""
    write_new(folder / INDEX, to_json({"pack": document, "sha256": _digest(document)}))


def read_index(folder: Path) -> dict[str, Any]:
    """Read and verify pack.json and the lengths of all files; raises `IsopatchError` naming what is wrong."""
    path = folder / INDEX
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        document: dict[str, Any] = read["pack"]
        intact = read["sha256"] == _digest(document)
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise IsopatchError(f"{path}: damaged; pack the data again")
    if document["format"] != FORMAT:
        raise IsopatchError(f"{path}: written by another version ({document['format']}); pack the data again")
    for role, split in document["splits"].items():
        for number, length in enumerate(split["shard_bytes"]):
            shard = folder / shard_file(role, number)
            found = shard.stat().st_size if shard.is_file() else None
            if found != length:
                what = "missing" if found is None else f"{found:,} bytes instead of {length:,}"
                raise IsopatchError(f"{shard}: {what}; pack the data again")
    return document


def read_rows(folder: Path, role: str, expected_sha256: str) -> Rows:
    """Read and verify the index of one split; raises `IsopatchError` where it is damaged."""
    path = folder / f"{role}.npz"
    try:
        if sha256_of(path) != expected_sha256:
            raise ValueError
        with np.load(path, allow_pickle=False) as arrays:
            return Rows(**{field.name: arrays[field.name] for field in fields(Rows)})
    except (OSError, ValueError, KeyError):
        raise IsopatchError(f"{path}: missing or damaged; pack the data again") from None


def left_out_rows(rows: Rows, skipped: list[list[str]], where: Path) -> dict[int, str]:
    """Return the rows without a picture, index -> reason; skipped: [name, reason] of each, as in pack.json.

    Raises `IsopatchError` where they are not these: a pack that gave such pictures no rows.
    """
    empty = np.flatnonzero(rows.length == 0).tolist()
    if [rows.name(index) for index in empty] != [name for name, _ in skipped]:
        raise IsopatchError(
            f"{where}: packed by an older version, which gave unreadable pictures no place, so that a split "
            f"cut by seed is another one than the source's; pack the data again"
        )
    return dict(zip(empty, (reason for _, reason in skipped), strict=True))


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
