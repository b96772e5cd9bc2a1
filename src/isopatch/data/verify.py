"""Reading every picture once to know which cannot be read, for `bad="skip"`.

Skipping has to be known before the first epoch, or the length of an epoch would change under way. The cost
is one full decode of the data (about 2 ms for a photograph of half a megapixel on one core), once: the
verdicts are cached by the source's state (names, sizes, modification times), the pixel limit and the
decoder's version.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL

from isopatch.data.cache import cache_dir
from isopatch.data.stored import StoredSource
from isopatch.errors import UsageError
from isopatch.files import replace_file, to_json
from isopatch.image.decode import DECODE_VERSION, DecodeError

_LOG = logging.getLogger("isopatch")
_WINDOW = 256  # pictures handed to the threads at once: what is in memory stays bounded


def unreadable(source: StoredSource, *, max_pixels: int) -> list[tuple[int, str]]:
    """Return (index, reason) of every picture in `source` that cannot be read, in ascending order."""
    place = _place(source, max_pixels)
    known = _load(place, len(source)) if place is not None else None
    if known is not None:
        return known
    _LOG.info("reading all %d pictures once to find unreadable ones", len(source))
    found: list[tuple[int, str]] = []

    def verdict(index: int) -> str | None:
        try:
            source.read(index)
        except DecodeError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for window in windows(len(source)):
            for index, reason in zip(window, pool.map(verdict, window), strict=True):
                if reason is not None:
                    found.append((index, reason))
    if place is not None:
        replace_file(place, to_json({"pictures": len(source), "unreadable": found}))
    return found


def windows(length: int) -> Iterator[range]:
    """Cut 0..length-1 into consecutive ranges."""
    return (range(start, min(start + _WINDOW, length)) for start in range(0, length, _WINDOW))


def _place(source: StoredSource, max_pixels: int) -> Path | None:
    """Where the verdicts are kept; None (verify every time) where no cache can be written."""
    key = f"{source.state}\0{max_pixels}\0{DECODE_VERSION}\0{PIL.__version__}"
    try:
        folder = cache_dir("verified")
    except UsageError as error:
        _LOG.warning("%s", error)
        return None
    return folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.json"


def _load(place: Path, length: int) -> list[tuple[int, str]] | None:
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        found = [(int(index), str(reason)) for index, reason in kept["unreadable"]]
        intact = kept["pictures"] == length and all(0 <= index < length for index, _ in found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if intact else None
