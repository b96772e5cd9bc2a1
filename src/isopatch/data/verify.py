"""Reading pictures once to know which cannot be read: for `bad="skip"`, and ahead of an evaluation.

Skipping has to be known before the first epoch, or the length of an epoch would change under way. The cost
is one full decode of the pictures (about 2 ms for a photograph of half a megapixel on one core), once: which
ones were readable is kept under the source's state (names, sizes, modification times; of a pack its shards'),
the pixel limit and the decoder's version. Unreadable ones are read again at every start: a share that was
away or a permission that was missing changes neither size nor time of a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from isopatch.data.cache import cache_dir
from isopatch.data.stored import StoredSource
from isopatch.errors import UsageError
from isopatch.files import replace_file, to_json
from isopatch.image.decode import DECODE_VERSION, DecodeError

_LOG = logging.getLogger("isopatch")
_WINDOW = 256  # pictures handed to the threads at once: what is in memory stays bounded


def unreadable(
    source: StoredSource, *, max_pixels: int, indices: NDArray[np.int64] | None = None
) -> list[tuple[int, str]]:
    """Return (index, reason) of every picture in `source` that cannot be read, in ascending order.

    indices: look at these pictures alone, (M,) distinct and in any order; None: at all of them.
    """
    place = _place(source, max_pixels)
    readable = _load(place, len(source)) if place is not None else np.zeros(len(source), dtype=bool)
    chosen = np.arange(len(source)) if indices is None else np.sort(indices)
    left = chosen[~readable[chosen]].tolist()
    if not left:
        return []
    _LOG.info("reading %d of %d pictures to find unreadable ones", len(left), len(source))
    found: list[tuple[int, str]] = []

    def verdict(index: int) -> str | None:
        try:
            source.read(index)
        except DecodeError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for window in windows(left):
            for index, reason in zip(window, pool.map(verdict, window), strict=True):
                if reason is None:
                    readable[index] = True
                else:
                    found.append((index, reason))
    if place is not None and len(found) < len(left):
        # A process that looks at other pictures meanwhile may overwrite this: they are read again, no more.
        bits = np.packbits(readable).tobytes().hex()
        replace_file(place, to_json({"pictures": len(source), "readable": bits}))
    return found


def windows(numbers: list[int]) -> Iterator[list[int]]:
    """Cut `numbers` into consecutive pieces."""
    return (numbers[start : start + _WINDOW] for start in range(0, len(numbers), _WINDOW))


def _place(source: StoredSource, max_pixels: int) -> Path | None:
    """Where the verdicts are kept; None (verify every time) where no cache can be written."""
    key = f"{source.state}\0{max_pixels}\0{DECODE_VERSION}\0{PIL.__version__}"
    try:
        folder = cache_dir("verified")
    except UsageError as error:
        _LOG.warning("%s", error)
        return None
    return folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.json"


def _load(place: Path, length: int) -> NDArray[np.bool_]:
    """Which of `length` pictures are known to be readable; none where nothing intact is kept."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        bits = np.frombuffer(bytes.fromhex(kept["readable"]), dtype=np.uint8)
        intact = kept["pictures"] == length and len(bits) == -(-length // 8)
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    return np.unpackbits(bits, count=length).astype(bool) if intact else np.zeros(length, dtype=bool)
