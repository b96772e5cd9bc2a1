"""From what a user writes after `--data` to the data set it means."""

from __future__ import annotations

import re
from pathlib import Path

from isopatch.data.pack_index import is_pack
from isopatch.data.sources.digits import open_digits
from isopatch.data.sources.folder import open_folder
from isopatch.data.sources.hub import SHORT_NAMES, open_hub
from isopatch.data.sources.pack import open_pack
from isopatch.data.sources.parquet import find_shards, open_parquet
from isopatch.data.stored import RawData
from isopatch.errors import UsageError, nearest

BUILT_IN = ("digits", *SHORT_NAMES)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?")


def find_data(source: str | Path, *, max_pixels: int) -> RawData:
    """Open `source`, before any cut.

    In this order: `digits`; an existing path (a pack, Parquet shards or file, class folders);
    a hub name. A folder that happens to be called digits is written `./digits`.
    Raises `UsageError` for anything else.
    """
    if source == "digits":
        return open_digits()
    path = Path(source).expanduser()
    if path.exists():
        return _open_path(path, max_pixels)
    text = str(source)
    if not _HUB_NAME.fullmatch(text) or path.suffix == ".parquet" or text.startswith((".", "/", "~")):
        raise UsageError(f"data '{text}': no such file or folder")
    if text not in BUILT_IN:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, [*BUILT_IN, *(name for name in beside if not name.startswith("."))])
        if hint:
            raise UsageError(f"data '{text}': no such file or folder{hint}")
    return open_hub(text, max_pixels=max_pixels)


def _open_path(path: Path, max_pixels: int) -> RawData:
    if is_pack(path):
        return open_pack(path, max_pixels=max_pixels)
    shards = find_shards(path)
    if shards:
        return open_parquet(path, shards, max_pixels=max_pixels)
    if path.is_dir():
        return open_folder(path, max_pixels=max_pixels)
    raise UsageError(f"data '{path}': neither a folder nor a Parquet file")
