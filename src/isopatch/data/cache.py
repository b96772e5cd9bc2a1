"""The user's cache folder, and writing into it so that a crash leaves the old content or the new."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isopatch.errors import UsageError
from isopatch.files import fsync_folder


def cache_dir(kind: str) -> Path:
    """Return (and create) the folder for cached data of one kind.

    `$ISOPATCH_CACHE`, else `$XDG_CACHE_HOME/isopatch`, else `~/.cache/isopatch`. Whatever is in it may be
    deleted at any time: it is made again. Raises `UsageError` where it cannot be written.
    """
    chosen = os.environ.get("ISOPATCH_CACHE")
    if chosen:
        root = Path(chosen).expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isopatch"
    folder = root / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: the cache cannot be written ({error.strerror}); set ISOPATCH_CACHE to another folder"
        ) from None
    return folder


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock that belongs to `target`; a second process waits. The lock ends with its process."""
    with open(target.with_name(target.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    Every file is flushed to disk before the rename. To be called under `locked(target)`: whatever an
    earlier, killed process left half-written is removed first.
    """
    unfinished = target.with_name(target.name + ".tmp")
    discarded = target.with_name(target.name + ".old")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(discarded, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        for path in unfinished.iterdir():
            _flush(path)
        fsync_folder(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if target.exists():
        target.rename(discarded)
    unfinished.rename(target)
    fsync_folder(target.parent)
    shutil.rmtree(discarded, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
