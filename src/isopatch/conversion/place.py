"""Where a conversion goes: nothing is there before it is whole, and nothing else is ever replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from isopatch.errors import UsageError
from isopatch.files import fsync_folder, temporary_beside


def refuse_taken(
    target: Path, source: str | Path, *, folder: bool, overwrite: bool, ours: Collection[str]
) -> None:
    """Raise UsageError where something is at `target` that may not be replaced.

    ours: the names of the files that a folder written by us holds; one with others in it is left alone.
    """
    origin, place = Path(source).resolve(), target.resolve()
    if origin.exists() and place in (origin, *origin.parents):
        raise UsageError(f"{target}: that is where the source is; give another place")
    if target.is_symlink():
        raise UsageError(f"{target}: is a link; give the place itself")
    if not target.exists():
        return
    if place.is_relative_to(origin):
        raise UsageError(f"{target}: is a part of the source; give another place")
    if not overwrite:
        raise UsageError(f"{target}: exists; --overwrite replaces it")
    if target.is_dir() != folder:
        kinds = ("a folder", "a file") if target.is_dir() else ("a file", "a folder")
        raise UsageError(f"{target}: is {kinds[0]}, and {kinds[1]} would replace it; give another place")
    if folder:
        foreign = sorted(path.name for path in target.iterdir() if path.name not in ours)
        if foreign:
            raise UsageError(f"{target}: holds {foreign[0]}, which is no part of a model; it is not replaced")


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield a path of the target's name in a temporary folder on the same disk; it is gone afterwards.

    So are the folders above that were made for a target which then was not put there.
    """
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    temporary.mkdir()
    try:
        yield temporary / target.name
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for folder in made:
                folder.rmdir()


def put(whole: Path, target: Path) -> None:
    """Rename what is whole and flushed to its place; a folder that is there is set aside first."""
    if target.is_dir():
        former = whole.parent / "former"
        os.rename(target, former)
        try:
            os.rename(whole, target)
        except OSError:
            os.rename(former, target)
            raise
    else:
        os.replace(whole, target)
    fsync_folder(target.parent)
