"""The folder of a run: lock, status, log and metrics. Layout in DESIGN; every write survives a kill."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from isopatch.errors import EXIT_FAILURE, IsopatchError, UsageError
from isopatch.files import replace_file, replace_link, to_json
from isopatch.plain_yaml import read_plain
from isopatch.training import checkpoint
from isopatch.training.config import RunConfig

log = logging.getLogger("isopatch")

LOG_FILE_ONLY = {"shown_elsewhere": True}  # the command line shows the error itself, once

# What a run writes: nothing else is deleted when it is overwritten.
_OWN = re.compile(
    r"\.lock|log\.txt|(config|env|status|summary|evaluation-\w+)\.(yaml|json)|metrics\.jsonl|report\.html"
    r"|sizes-\w+\.png|checkpoints|best|\.best-.+|\..+\.tmp-.+"
)
_OWN_CHECKPOINT = re.compile(r"step-\d+(\.damaged)?|last|\..+\.tmp-.+")


class Busy(UsageError):
    """Another process holds the run folder."""


class RunFolder:
    """Paths and writers of one run. Open it with `hold`, which takes the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics_file = path / "metrics.jsonl"
        self.best = path / "best"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Create the folder and own it for the duration; a second process is refused with UsageError.

        The lock is a POSIX record lock: the kernel drops it when the process dies, however it dies, and
        worker processes do not inherit it. A folder made for a run that is refused is removed again.
        """
        new = not self.path.exists()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a+")
        except OSError as error:
            raise UsageError(
                f"cannot write to the run folder {self.path}: {error.strerror}; choose another with --out"
            ) from None
        try:
            with lock:
                self._take(lock.fileno())
                lock.seek(0)
                lock.truncate()
                lock.write(str(os.getpid()))
                lock.flush()
                checkpoint.clean_temporary(self.checkpoints)
                checkpoint.clean_temporary(self.path)
                self._clean_best()
                handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
                handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
                level = log.level
                log.setLevel(min(log.getEffectiveLevel(), logging.INFO))  # for the file, in notebooks too
                log.addHandler(handler)
                try:
                    yield
                except UsageError:
                    if new and not self.has_run():
                        shutil.rmtree(self.path, ignore_errors=True)
                    raise
                finally:
                    log.removeHandler(handler)
                    log.setLevel(level)
                    handler.close()
        finally:
            lock.close()

    def _take(self, descriptor: int) -> None:
        for attempt in range(20):  # a process being killed lets go a moment later
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if attempt < 19:
                    time.sleep(0.05)
        raise Busy(
            f"another process is using the run folder {self.path}; wait for it to end or choose another --out"
        )

    # --- what is in it ---------------------------------------------------------------------------------

    def has_run(self) -> bool:
        """Whether somebody's run, or anything else than a lock and empty folders, is already here."""
        if not self.path.is_dir():
            return False
        entries = [p for p in self.path.iterdir() if p.name not in (".lock", "log.txt")]
        return any(not p.is_dir() or any(p.iterdir()) for p in entries)

    def require_only_a_run(self) -> None:
        """Raise UsageError unless the folder is empty or holds a run alone: overwriting deletes."""
        if not self.has_run():
            return
        if not (self.path / "config.yaml").is_file():
            raise UsageError(f"{self.path} is not a run folder (no config.yaml), so it is not overwritten")
        inside = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        strange = [path for path in self.path.iterdir() if not _OWN.fullmatch(path.name)]
        strange += [path for path in inside if not _OWN_CHECKPOINT.fullmatch(path.name)]
        if strange:
            names = ", ".join(sorted(str(path.relative_to(self.path)) for path in strange)[:3])
            raise UsageError(
                f"{self.path} holds {len(strange)} things that no run wrote ({names}), so it is not "
                f"overwritten; move them, or choose another --out"
            )

    def clear(self) -> None:
        """Delete an earlier run (`--overwrite`); refuses folders that hold anything else."""
        self.require_only_a_run()
        for path in self.path.iterdir():
            if path.name == ".lock":
                continue
            if path.name == "log.txt":  # open for this process's messages already
                os.truncate(path, 0)
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    # --- writers ---------------------------------------------------------------------------------------

    def write_yaml(self, name: str, document: Any) -> None:
        """Write `<name>` as YAML."""
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        replace_file(self.path / name, text.encode())

    def write_json(self, name: str, document: Any) -> None:
        """Write `<name>` as JSON; not-a-number values become null."""
        replace_file(self.path / name, to_json(json_safe(document)))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read `<name>`, or None where it is absent; a damaged file raises IsopatchError."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise IsopatchError(f"{path}: damaged; delete it to continue from the last checkpoint")
        return document

    def write_status(
        self, state: str, *, step: int, total_steps: int, exit_code: int | None = None, message: str = ""
    ) -> None:
        """Write status.json: what the run is doing, for people and for launchers that hide exit codes."""
        self.write_json(
            "status.json",
            {
                "state": state,
                "exit_code": exit_code,
                "step": step,
                "total_steps": total_steps,
                "message": message,
                "pid": os.getpid(),
                "updated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )

    def record_failure(self, failure: Exception, *, step: int | None = None) -> None:
        """Write the failure into status.json, for launchers that hide exit codes.

        Not where there is no run yet, nor over a finished one. A disk that refuses that too is logged.
        """
        try:
            former = self.read_json("status.json") or {}
            if not (self.path / "config.yaml").is_file() or former.get("state") in ("finished", "failed"):
                return
            self.write_status(
                "failed",
                step=former.get("step", 0) if step is None else step,
                total_steps=former.get("total_steps", 0),
                exit_code=failure.exit_code if isinstance(failure, IsopatchError) else EXIT_FAILURE,
                message=str(failure) or type(failure).__name__,
            )
            log.error("%s", failure, extra=LOG_FILE_ONLY)
        except (OSError, IsopatchError) as error:
            log.error("status.json could not be written: %s", error)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_safe(row), allow_nan=False) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drop the rows after `step` (and a torn last line): they will be written again."""
        if not self.metrics_file.is_file():
            return
        kept = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["step"] <= step:
                kept.append(line + "\n")
        replace_file(self.metrics_file, "".join(kept).encode())

    def _clean_best(self) -> None:
        """Remove weights that a killed process wrote for `best` and did not swap in, or out."""
        current = os.readlink(self.best) if self.best.is_symlink() else None
        for folder in self.path.glob(".best-*"):
            if folder.name != current:
                shutil.rmtree(folder, ignore_errors=True)

    def swap_best(self, version: str) -> None:
        """Point `best` at `.best-<version>` in one rename, then delete the former one."""
        former = os.readlink(self.best) if self.best.is_symlink() else None
        replace_link(self.best, f".best-{version}")
        if former and former != f".best-{version}":
            shutil.rmtree(self.path / former, ignore_errors=True)


def json_safe(value: Any) -> Any:
    """Replace not-a-number and infinite floats by None, recursively: JSON has no word for them."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def next_run_path(root: Path, stem: str) -> Path:
    """`root/<stem>-<n>` with the first free n, counted from 1."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"


def require_run(path: Path) -> dict[str, Any]:
    """Return the configuration stored in a run folder, or raise IsopatchError."""
    file = path / "config.yaml"
    if not file.is_file():
        raise IsopatchError(f"{path}: no config.yaml here; give the folder of a run")
    try:
        document = read_plain(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        document = None
    if not isinstance(document, dict):
        raise IsopatchError(f"{file}: damaged or not isopatch's; restore it, or start afresh elsewhere")
    return document


def stored_config(path: Path) -> RunConfig:
    """Return the configuration stored in a run folder, checked; raise IsopatchError naming what is wrong."""
    try:
        return RunConfig.model_validate(require_run(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise IsopatchError(
            f"{path / 'config.yaml'}: {key}: {first['msg']}; it was edited, or written by another version"
        ) from None
