"""The folder of a pack: it appears complete or not at all; what it takes the place of goes last.

Beside NAME lie, while a packing runs, `.NAME.packing-HOST-PID` and, for the instant between two renames,
`.NAME.former-HOST-PID`. What a killed packing left there is cleared up by the next one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from isopatch.data.pack_index import INDEX, ROLES, is_pack
from isopatch.errors import IsopatchError, UsageError
from isopatch.files import fsync_folder

_LOG = logging.getLogger("isopatch")
_OWN = re.compile(rf"{re.escape(INDEX)}|({'|'.join(ROLES)})(\.npz|-\d{{5,}}\.bin)")


def check_target(target: Path, overwrite: bool) -> None:
    """Raise UsageError where no pack may be written to `target`, or more than a pack would be removed."""
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
    if target.is_symlink():
        raise UsageError(f"{target}: a link to a pack; give the folder itself, {target.resolve()}")
    for path in sorted(target.iterdir()):
        if not _OWN.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            raise UsageError(
                f"{target}: --overwrite would remove {path.name}, which is no part of the pack; move it "
                f"away, or give another place"
            )


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its place, complete and flushed, or vanishes.

    overwrite: a pack that is there makes room (see `check_target`); it is put back where that fails.
    Raises `IsopatchError` where the disk or the folder around `target` refuses, `UsageError` where the place
    was taken meanwhile.
    """
    mine = f"{_here()}-{os.getpid()}"
    folder = target.with_name(f".{target.name}.packing-{mine}")
    former = target.with_name(f".{target.name}.former-{mine}")
    try:
        folder.mkdir()
    except OSError as error:
        raise _failed(target, error) from None
    try:
        yield folder
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(folder)
        check_target(target, overwrite)  # again: hours may have passed
        if target.exists():
            target.rename(former)
        folder.rename(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise _failed(target, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if former.exists() and not is_pack(target):
            _bring_back(former, target)
        shutil.rmtree(former, ignore_errors=True)


def clear_up(target: Path) -> None:
    """Undo what killed packings of `target` left: bring the pack they moved away back, remove the rest.

    Only what processes left that this one could see and that are gone: a packing of another machine or
    container may be running. Raises `IsopatchError` where a pack cannot be brought back.
    """
    if not target.parent.is_dir():
        return
    for former in _beside(target, "former"):
        if target.exists() or target.is_symlink():
            break
        if _abandoned(former, target, "former"):
            _bring_back(former, target)
            _LOG.warning("%s: brought back the pack that a killed packing had moved away", target)
        else:
            _LOG.warning(
                "%s: the pack that was here is %s, moved away by a packing that may be running elsewhere; if "
                "it is not, rename it back",
                target,
                former,
            )
    for what in ("packing", "former"):
        for path in _beside(target, what):
            if _abandoned(path, target, what) and (what == "packing" or is_pack(target)):
                shutil.rmtree(path, ignore_errors=True)


def _bring_back(former: Path, target: Path) -> None:
    try:
        former.rename(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise IsopatchError(
            f"{target}: the pack that was here is {former} now and cannot be renamed back: "
            f"{error.strerror or error}; rename it yourself"
        ) from None


def _beside(target: Path, what: str) -> list[Path]:
    """Return the folders of packings of `target`, the latest first."""
    start = f".{target.name}.{what}-"
    found = [path for path in target.parent.iterdir() if path.name.startswith(start)]
    return sorted(found, key=lambda path: path.lstat().st_mtime_ns, reverse=True)


def _abandoned(path: Path, target: Path, what: str) -> bool:
    """Return whether the process that made this folder could be seen from here, and is gone."""
    place, _, number = path.name.rpartition("-")
    if place != f".{target.name}.{what}-{_here()}" or not re.fullmatch(r"[1-9]\d*", number):
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's
        return False
    return False


def _here() -> str:
    """Name the processes that can be seen from here: the host and, on Linux, the container's numbering."""
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    try:
        return f"{host}_{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return host


def _failed(target: Path, error: OSError) -> IsopatchError:
    return IsopatchError(
        f"{target}: packing failed: {error.strerror or error}; nothing was kept. Free some space, pack "
        f"elsewhere, or take less of it: --store jpeg, a smaller --short-side"
    )
