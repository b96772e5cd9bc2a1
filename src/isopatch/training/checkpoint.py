"""Checkpoints: folders that are complete or absent, and that notice every flipped bit.

    checkpoints/step-0000123/   *.safetensors, *.json, manifest.json (size and SHA-256 of each file)
    checkpoints/last            link to the newest one, for people; loading looks at the folders themselves

A checkpoint is written into a temporary folder beside its target, each file flushed, the manifest last, and
renamed into place. An older one is deleted only after the newer one was read back and verified.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from isopatch.errors import IsopatchError
from isopatch.files import fsync_folder, replace_link, sha256_of, to_json, write_new

log = logging.getLogger("isopatch")

MANIFEST = "manifest.json"
_STEP_FOLDER = re.compile(r"step-(\d{7,})")


class DamagedCheckpoint(IsopatchError):
    """A checkpoint's files differ from its manifest."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on the disk."""

    folder: Path
    step: int

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Read `<name>.safetensors`."""
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except (SafetensorError, ValueError, OSError) as error:  # although the manifest agrees
            raise DamagedCheckpoint(f"{path}: not a safetensors file ({error})") from None

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds `<name>.safetensors`."""
        return (self.folder / f"{name}.safetensors").is_file()

    def document(self, name: str) -> Any:
        """Read `<name>.json`."""
        path = self.folder / f"{name}.json"
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError, OSError):
            raise DamagedCheckpoint(f"{path}: not a JSON file") from None


def write_checkpoint(
    root: Path, step: int, *, tensors: dict[str, dict[str, torch.Tensor]], documents: dict[str, Any]
) -> Checkpoint:
    """Write checkpoint `step` below `root`, read it back, and return it.

    tensors: file name (without suffix) -> named tensors; documents: file name -> JSON values.
    Raises IsopatchError with the space needed and free when the disk is full; what was there is intact.
    """
    target = root / f"step-{step:07d}"
    temporary = root / f".{target.name}.tmp-{os.getpid()}"
    needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        contents = {f"{name}.safetensors": _pack(group) for name, group in tensors.items()}
        if "model" in tensors:  # the model's own document carries the digest of its weights
            documents["config"]["weights_sha256"] = hashlib.sha256(contents["model.safetensors"]).hexdigest()
        contents |= {f"{name}.json": to_json(document) for name, document in documents.items()}
        for file_name, content in contents.items():
            write_new(temporary / file_name, content)
        write_new(temporary / MANIFEST, _manifest(contents))
        fsync_folder(temporary)
        former = root / f".{target.name}.tmp-{os.getpid()}-former"
        if target.exists():  # saved without its evaluation when a stop came in the middle of that
            os.rename(target, former)
        os.rename(temporary, target)
        fsync_folder(root)
        verify(target)
        replace_link(root / "last", target.name)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _put_back(root)
        raise disk_error(error, target, needed) from error
    return Checkpoint(target, step)


def check_space(root: Path, tensors: dict[str, dict[str, torch.Tensor]], keep: int) -> None:
    """Refuse to start where the checkpoints to keep, plus the one being written, cannot fit."""
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    # Before the first step the optimiser has no state yet: two moments double and triple the weights' size.
    size += (
        2 * sum(t.numel() * t.element_size() for t in tensors["model"].values())
        if not tensors["optimizer"]
        else 0
    )
    present = sum(f.stat().st_size for _, folder in _step_folders(root) for f in folder.iterdir())
    needed = (keep + 1) * size - present
    free = shutil.disk_usage(root).free
    if free < needed:
        raise IsopatchError(
            f"{root}: {keep + 1} checkpoints of {size / 1e6:.1f} MB need {needed / 1e6:.1f} MB more, "
            f"{free / 1e6:.1f} MB are free; free some space or choose another disk with --out"
        )


def disk_error(error: OSError, path: Path, needed: int = 0) -> IsopatchError:
    """Turn a failed write into one line: what, where, how much space there is, what to do."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return IsopatchError(
            f"cannot write {path}: {error.strerror or error}; earlier checkpoints are intact"
        )
    free = shutil.disk_usage(path.parent if path.parent.exists() else path.parent.parent).free
    size = f"about {needed / 1e6:.1f} MB needed, " if needed else ""
    return IsopatchError(
        f"disk full while writing {path}: {size}{free / 1e6:.1f} MB free; "
        f"earlier checkpoints are intact: free some space, then run again with --resume auto"
    )


def verify(folder: Path) -> None:
    """Compare every file with the manifest; raise DamagedCheckpoint naming the first that differs."""
    manifest_path = folder / MANIFEST
    try:
        raw = manifest_path.read_bytes()
        manifest = json.loads(raw)
        files = manifest["files"]
        if raw != _manifest_of(files):
            raise ValueError("its own digest differs")
        entries = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{manifest_path}: unreadable manifest ({error})") from None
    for name, (size, digest) in entries.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path}: missing")
        if path.stat().st_size != size:
            raise DamagedCheckpoint(f"{path}: {path.stat().st_size} bytes, the manifest says {size}")
        if sha256_of(path) != digest:
            raise DamagedCheckpoint(f"{path}: its SHA-256 differs from the manifest's")


def find_latest(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies; damaged ones are named in the log and set aside.

    Raises IsopatchError when there are checkpoints but none is whole.
    """
    damaged: list[str] = []
    for step, folder in _step_folders(root):
        try:
            verify(folder)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
            log.warning("damaged checkpoint %s: %s; using the one before it", folder.name, error)
            set_aside(folder)
            continue
        return Checkpoint(folder, step)
    damaged = damaged or sorted(str(path) for path in root.glob("step-*.damaged"))  # an earlier call's
    if damaged:
        raise IsopatchError(
            f"every checkpoint in {root} is damaged ({damaged[0]}); start again with --overwrite, "
            f"or restore the folder from a copy"
        )
    return None


def set_aside(folder: Path) -> None:
    """Rename a damaged checkpoint so that it is kept for inspection but never used."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)


def retain(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; call only after the newest was verified."""
    for _, folder in _step_folders(root)[keep:]:
        doomed = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
        os.rename(folder, doomed)  # one rename: a kill leaves a whole checkpoint or rubbish with a dot
        shutil.rmtree(doomed, ignore_errors=True)


def clean_temporary(root: Path) -> None:
    """Remove what killed writers left behind. Call only while holding the run's lock."""
    _put_back(root)
    for path in root.glob(".*.tmp-*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _put_back(root: Path) -> None:
    """Give a checkpoint that was moved away for its replacement its name again, if that never came."""
    for former in root.glob(".step-*.tmp-*-former"):
        target = root / former.name.split(".tmp-")[0].removeprefix(".")
        if not target.exists():
            os.rename(former, target)


def _step_folders(root: Path) -> list[tuple[int, Path]]:
    """All step folders, newest first."""
    if not root.is_dir():
        return []
    found = [
        (int(m.group(1)), p) for p in root.iterdir() if (m := _STEP_FOLDER.fullmatch(p.name)) and p.is_dir()
    ]
    return sorted(found, reverse=True)


def _pack(group: dict[str, torch.Tensor]) -> bytes:
    content: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in group.items()})
    return content


def _manifest(contents: dict[str, bytes]) -> bytes:
    return _manifest_of(
        {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(contents.items())
        }
    )


def _manifest_of(files: Any) -> bytes:
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return to_json({"format": "isopatch-checkpoint-1", "sha256": digest, "files": files})
