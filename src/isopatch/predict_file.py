"""Predictions into a file that can be interrupted at any instant and continued: CSV, JSON Lines or Parquet.

Each input has exactly one row. CSV and JSONL grow row by row and are valid up to their last complete line;
Parquet rows gather in `OUT.partial.jsonl` and become the file in one rename at the end. `OUT.meta.json` says
which model wrote it (another model is refused) and in which folder it was begun: relative paths in its rows
start there, wherever it is continued from. The rows themselves: `predict_rows`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import replace_file
from isopatch.predict import Predictor, expand_inputs
from isopatch.predict_rows import (
    columns,
    csv_line,
    escape,
    jsonl_to_parquet,
    parquet_to_jsonl,
    read_predictions,
    to_line,
)

log = logging.getLogger("isopatch")

FORMAT = "isopatch-predictions-2"  # 2: the sidecar names the folder
SUFFIXES = (".csv", ".jsonl", ".parquet")


def predict_to_file(
    predictor: Predictor,
    inputs: Sequence[str | os.PathLike[str]],
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Classify files, folders and patterns into `out` (.csv, .jsonl or .parquet), continuing what is there.

    Inputs that already have a row are skipped, unreadable ones too: delete their row to try again. Relative
    inputs get paths relative to the folder in which the file was begun, absolute ones stay absolute. Memory
    grows with the paths' text only. Unreadable inputs are logged with the reason.
    progress: called after each row with the rows written now and the rows to write.
    Returns out, inputs, and of this call: done, skipped, unreadable (they add up to inputs); of the whole
    file: rows, unreadable_rows.
    Raises `UsageError` for an unknown suffix, missing inputs, or a file of another model or another process;
    `IsopatchError` where the disk refuses, a row is damaged, or not one picture could be read.
    """
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out}: predictions are written as {', '.join(SUFFIXES)}; choose one of these")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; give the name of a file")
    rows_file = out.with_name(out.name + ".partial.jsonl") if out.suffix == ".parquet" else out
    meta = out.with_name(out.name + ".meta.json")
    lock = out.with_name(f".{out.name}.lock")
    own = {os.path.abspath(path) for path in (out, rows_file, meta, lock)}
    files = [file for file in expand_inputs(inputs) if os.path.abspath(file) not in own]
    with _alone(lock, out):
        try:
            folder = _claim(out, rows_file, meta, describe_predictor(predictor), predictor.kernels)
            if out.suffix == ".parquet" and out.exists() and not rows_file.exists():
                parquet_to_jsonl(out, rows_file, predictor.top_k)
            with rows_file.open("a+b", buffering=0) as file:
                summary = _write_rows(predictor, files, folder, file, rows_file, progress)
            if out.suffix == ".parquet":
                jsonl_to_parquet(rows_file, out, predictor.top_k)
                rows_file.unlink()
        except OSError as error:
            raise IsopatchError(
                f"{out}: cannot write: {error.strerror or error}; the rows so far are kept and the same "
                "command continues after them"
            ) from None
    if summary["rows"] and summary["rows"] == summary["unreadable_rows"]:
        raise IsopatchError(f"none of the {summary['rows']} inputs is a readable picture; {out} says why")
    return {"out": str(out), "inputs": len(files), **summary}


def _write_rows(
    predictor: Predictor,
    files: list[str],
    folder: str,
    file: FileIO,
    rows_file: Path,
    progress: Callable[[int, int], None] | None,
) -> dict[str, int]:
    known, unreadable_before = _continue(file, rows_file, folder, predictor.top_k)
    pending = [path for path in files if os.path.abspath(path) not in known]
    unreadable = 0
    for count, prediction in enumerate(predictor.stream(pending), start=1):
        row = replace(prediction, path=_from_folder(prediction.path, folder))
        _append(file, to_line(row, rows_file.suffix, predictor.top_k))
        if prediction.error is not None:
            unreadable += 1
            log.warning("not readable: %s: %s", escape(prediction.path), prediction.error)
        if progress is not None:
            progress(count, len(pending))
    os.fsync(file.fileno())
    return {
        "done": len(pending) - unreadable,
        "skipped": len(files) - len(pending),
        "unreadable": unreadable,
        "rows": len(known) + len(pending),
        "unreadable_rows": unreadable_before + unreadable,
    }


def describe_predictor(predictor: Predictor) -> dict[str, Any]:
    """Return what decides the rows of a file: weights, model, input contract, classes, top_k, precision."""
    digest = sha256()
    for name, tensor in sorted(predictor.model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
    return {
        "format": FORMAT,
        "model": predictor.spec.name,
        "weights": digest.hexdigest(),
        "input": predictor.spec.input.to_json(),
        "classes": [escape(name) for name in predictor.classes],
        "top_k": predictor.top_k,
        "precision": predictor.precision,
    }


def _from_folder(path: str, folder: str) -> str:
    """The path as a row has it: relative to `folder` instead of the working directory, or absolute."""
    return path if os.path.isabs(path) or os.getcwd() == folder else os.path.relpath(path, folder)


def _claim(out: Path, rows_file: Path, meta: Path, identity: dict[str, Any], kernels: str) -> str:
    """Write the sidecar of a new file, or check that an existing file is of this model and these settings.

    kernels: those the file is begun with; a machine that has others may go on with it.
    Returns the folder in which the file was begun.
    """
    content = [path for path in (out, rows_file) if path.exists() and path.stat().st_size > 0]
    if not content:
        folder = os.getcwd()
        begun = {**identity, "kernels": kernels, "folder": folder}
        replace_file(meta, (json.dumps(begun, indent=1) + "\n").encode())
        return folder
    if not meta.exists():
        raise UsageError(
            f"{content[0]} exists without {meta.name}, so it cannot be continued; delete it or choose another"
        )
    try:
        stored = json.loads(meta.read_bytes())
        different = [key for key, value in identity.items() if stored.get(key) != value]
        begun_in = stored.get("folder")
        if not different and not (isinstance(begun_in, str) and os.path.isabs(begun_in)):
            raise ValueError("no folder")
    except (ValueError, AttributeError):
        different = [f"origin ({meta.name} is damaged)"]
    if different:
        raise UsageError(
            f"{out} was written with another {', '.join(different)}; to keep it choose another file, to "
            f"start again delete it and {meta.name}"
        )
    return str(begun_in)


@contextlib.contextmanager
def _alone(lock: Path, out: Path) -> Iterator[None]:
    """Hold `lock` so that one process writes `out`; the kernel frees it however the process ends."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise UsageError(f"{out}: cannot write here: {error.strerror}; choose another file") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:  # its former holder deleted it in between
                raise BlockingIOError
        except OSError:
            raise UsageError(f"another process is writing {out}; wait or choose another file") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _continue(file: FileIO, path: Path, folder: str, top_k: int) -> tuple[set[str], int]:
    """Cut a torn last line, write a missing header; return the paths with a row, and how many unreadable.

    The paths are absolute; `folder` is where relative ones start.
    """
    complete = _complete_length(path)
    if complete != path.stat().st_size:
        os.ftruncate(file.fileno(), complete)
    if complete == 0 and path.suffix == ".csv":
        _append(file, csv_line(columns(top_k)))
    known: set[str] = set()
    unreadable = 0
    for prediction in read_predictions(path):
        known.add(os.path.normpath(os.path.join(folder, prediction.path)))
        unreadable += prediction.error is not None
    return known, unreadable


def _complete_length(path: Path) -> int:
    """Bytes up to and with the last line break."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            position = file.read(end - start).rfind(b"\n")
            if position >= 0:
                return start + position + 1
            end = start
    return 0


def _append(file: FileIO, line: bytes) -> None:
    while line:  # unbuffered: a full disk may take a part
        line = line[file.write(line) :]
