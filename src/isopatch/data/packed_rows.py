"""Encoded pictures end to end in one uncompressed file, with random access by row.

A folder of four files: `data.bin`; `offsets.npy` int64 (N+1,); `labels.npy` int64 (N,); `crc.npy` uint32
(N,), the CRC-32 of each record; and `meta.json`, which holds the sizes and SHA-256 of the others and what the
rows were made from. The small files are verified when opened, a record when it is read, so a damaged
cache is noticed in either case.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
import zlib
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import IsopatchError
from isopatch.files import sha256_of

_FORMAT = "isopatch-rows-1"
_ARRAYS = ("offsets", "labels", "crc")


class PackedRows:
    """An opened pack. Reads are positioned, so workers may share the open file; pickling reopens it.

    Positioned reads rather than a mapping: the memory of the process stays flat, and a file cut short under
    it is an error message instead of a bus error.
    """

    def __init__(self, folder: Path) -> None:
        """Open and verify the pack in `folder`; raises `IsopatchError` where it is damaged or missing."""
        self.folder = folder
        self.meta = _read_meta(folder)
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
        self._offsets: NDArray[np.int64] = arrays["offsets"]
        self.labels: NDArray[np.int64] = arrays["labels"]
        self._crc: NDArray[np.uint32] = arrays["crc"]
        self._open()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def record(self, index: int) -> bytes:
        """Return the bytes of row `index`; raises `IsopatchError` where the pack is damaged."""
        start, stop = int(self._offsets[index]), int(self._offsets[index + 1])
        data = os.pread(self._descriptor, stop - start, start)
        if zlib.crc32(data) != self._crc[index]:
            with suppress(OSError):
                (self.folder / "meta.json").unlink()  # so that the next start makes it again
            raise IsopatchError(
                f"{self.folder}: row {index} of this cache is damaged; it is made again at the next start"
            )
        return data

    @property
    def digest(self) -> str:
        """Digest of every record's length and CRC-32 and of every label: the content's fingerprint."""
        total = hashlib.blake2b(digest_size=16)
        for numbers in (np.diff(self._offsets), self._crc, self.labels):
            total.update(np.ascontiguousarray(numbers).tobytes())
        return total.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open file."""
        return {key: value for key, value in self.__dict__.items() if key != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again, in this process."""
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.folder / "data.bin", os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)


def write_rows(folder: Path, rows: Iterable[tuple[bytes, int]], describe: dict[str, Any]) -> None:
    """Write a pack of (record, label) rows into the empty `folder`, holding one row at a time.

    describe: JSON values kept as `meta["describe"]`. It may be filled while `rows` is consumed.
    """
    offsets, labels, crc = array("q", [0]), array("q"), array("L")
    with open(folder / "data.bin", "wb") as file:
        for data, label in rows:
            file.write(data)
            offsets.append(offsets[-1] + len(data))
            labels.append(label)
            crc.append(zlib.crc32(data))
    np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64), allow_pickle=False)
    np.save(folder / "labels.npy", np.array(labels, dtype=np.int64), allow_pickle=False)
    np.save(folder / "crc.npy", np.array(crc, dtype=np.uint32), allow_pickle=False)
    meta = {
        "format": _FORMAT,
        "data_bytes": offsets[-1],
        "sha256": {name: sha256_of(folder / f"{name}.npy") for name in _ARRAYS},
        "describe": describe,
        "describe_sha256": _text_sha256(describe),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_meta(folder: Path) -> dict[str, Any]:
    """Read and verify the pack's description; raises `IsopatchError` for anything damaged or missing."""
    damaged = IsopatchError(f"{folder}: not a complete pack of rows")
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        intact = (
            meta["format"] == _FORMAT
            and (folder / "data.bin").stat().st_size == meta["data_bytes"]
            and all(sha256_of(folder / f"{name}.npy") == meta["sha256"][name] for name in _ARRAYS)
            and isinstance(meta["describe"], dict)
            and _text_sha256(meta["describe"]) == meta["describe_sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged from None
    if not intact:
        raise damaged
    return meta


def _text_sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
