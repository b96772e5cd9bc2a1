"""Writing files so that a crash, a kill or a full disk never leaves a half-written one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any

_NAME_BYTES = 180  # of a file's name in the temporary one: file systems allow 255 in all
_HOST_LENGTH = 30


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries (names and renames) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes) -> None:
    """Write `content` to `path` and flush it to the disk; the caller owns the folder's atomicity."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def temporary_beside(path: Path) -> Path:
    """Return a name beside `path` that no other writer has: ".NAME.tmp-HOST-PID-RANDOM", at most 255 bytes.

    Containers and machines that share a folder may share process numbers, and containers host names too.
    """
    name = path.name.encode()[:_NAME_BYTES].decode(errors="ignore")
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:_HOST_LENGTH]
    return path.with_name(f".{name}.tmp-{host}-{os.getpid()}-{secrets.token_hex(8)}")


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` new content in one rename: a reader sees the old file or the new one, never a mixture.

    Of several writers at once, on any number of machines, the last to rename is the one that is read.
    """
    temporary = temporary_beside(path)
    try:
        write_new(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def create_file(path: Path, content: bytes) -> bool:
    """Create `path` with all of its content at once; False, and nothing changed, where it exists already.

    Of any number of processes and machines that try, one gets True: a hard link is made or refused by the
    server that holds the folder, over NFS too. Where there are no hard links, the file is empty at first.
    """
    temporary = temporary_beside(path)
    try:
        write_new(temporary, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A server's answer may be lost and the request repeated: two names mean that the link was ours.
            return temporary.stat().st_nlink == 2
        except OSError:
            return _create_exclusively(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def _create_exclusively(path: Path, content: bytes) -> bool:
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    with file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return True


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link `link` at `target` (relative to its folder) in one rename."""
    temporary = temporary_beside(link)
    try:
        os.symlink(target, temporary)
        os.replace(temporary, link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(link.parent)


def to_json(document: Any) -> bytes:
    """Serialise as readable JSON; NaN and infinities are refused, because no JSON reader has to take them."""
    return (json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
