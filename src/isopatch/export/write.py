"""Writing an export: whole or not at all, and never over something else unasked."""

from __future__ import annotations

from pathlib import Path

from isopatch.errors import UsageError
from isopatch.files import replace_file


def write_export(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Write `content` to `path` in one rename; its folder is made where it is missing.

    Raises UsageError where something is there already, unless `overwrite`, and where nothing can be written.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists; give another name, or --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
