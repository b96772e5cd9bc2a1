"""Who works on which run: claims in a shared folder, of which one process at a time holds each.

A claim is a file `<run>.<n>.json`; the highest n counts. Taking a run is creating the next number, which one
process only can do, on any number of machines; a claim that is dead (its process has gone, or its machine no
longer shows signs of life) is never changed or deleted, only followed by the next number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isopatch.files import create_file, replace_file, to_json

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # without a sign of life from another machine
_NAME = re.compile(r"(?P<run>.+)\.(?P<number>\d+)\.json")

_KINDS: dict[str, Any] = {
    "state": str,
    "machine": str,
    "pid": int,
    "started": str | None,
}  # of what a claim says
Ending = Literal["done", "failed", "released"]


@dataclass(frozen=True)
class Claim:
    """A claim on a run, as read. holder: None where the file is being written, or is no claim (released)."""

    run: str
    number: int
    path: Path
    state: str
    holder: dict[str, Any] | None
    modified: float


class Claims:
    """The claims of a study, as one process sees and makes them."""

    def __init__(self, folder: Path, *, stale_after: float = STALE_SECONDS) -> None:
        """Look at the claims in `folder`, which need not exist yet."""
        self.folder = folder
        self._stale_after = stale_after
        self._watched: dict[Path, tuple[float, float]] = {}  # path -> (its time, when that was first seen)
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()

    def newest(self) -> dict[str, Claim]:
        """Return the claim that counts for every run that has one."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return {}
        numbers: dict[str, int] = {}
        for name in names:
            found = None if name.startswith(".") else _NAME.fullmatch(name)
            if found is not None:
                numbers[found["run"]] = max(int(found["number"]), numbers.get(found["run"], 0))
        claims = (self._read(run, number) for run, number in numbers.items())
        return {claim.run: claim for claim in claims}

    def alive(self, claim: Claim, *, watch: bool = True) -> bool:
        """Return whether somebody is working on the run.

        On this machine the process itself is looked for. Another machine must touch its claim now and then:
        with `watch`, this process's own clock says how long it has not; without, the file's time does.
        """
        if claim.state != "held":
            return False
        holder = claim.holder
        if holder is not None and holder["machine"] == machine():
            return bool(process_start(holder["pid"]) == holder["started"])
        if not watch:
            return time.time() - claim.modified < self._stale_after
        seen = self._watched.get(claim.path)
        if seen is None or seen[0] != claim.modified:
            self._watched[claim.path] = seen = (claim.modified, time.monotonic())
        return time.monotonic() - seen[1] < self._stale_after

    def take(self, run: str, former: Claim | None) -> bool:
        """Claim a run that was seen free, after `former`; False where another process was faster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 if former is None else former.number + 1
        path = self._path(run, number)
        holder = {"machine": machine(), "pid": os.getpid(), "started": process_start(os.getpid())}
        if not create_file(path, to_json({"run": run, "state": "held", **holder})):
            return False
        with self._lock:
            self._held[run] = Claim(run, number, path, "held", holder, time.time())
        return True

    def end(self, run: str, ending: Ending) -> None:
        """Give a claim up, saying how the work ended."""
        with self._lock:
            claim = self._held.pop(run)
        replace_file(claim.path, to_json({"run": run, "state": ending, **(claim.holder or {})}))

    def beat(self) -> None:
        """Show that this process lives."""
        with self._lock:
            paths = [claim.path for claim in self._held.values()]
        for path in paths:
            with contextlib.suppress(OSError):  # one that is gone, or a server that is away for a moment
                os.utime(path)

    def lost(self) -> list[str]:
        """Return runs that this process works on and another has taken, believing this one dead."""
        with self._lock:
            held = list(self._held.values())
        return [claim.run for claim in held if self._path(claim.run, claim.number + 1).exists()]

    def forget(self, run: str) -> None:
        """Stop holding a claim that was lost."""
        with self._lock:
            self._held.pop(run, None)

    def _path(self, run: str, number: int) -> Path:
        return self.folder / f"{run}.{number}.json"

    def _read(self, run: str, number: int) -> Claim:
        path = self._path(run, number)
        state: str = "held"
        holder: dict[str, Any] | None = None
        with contextlib.suppress(ValueError):  # what is no JSON is being written
            document = json.loads(path.read_bytes())
            ours = isinstance(document, dict) and _KINDS.keys() <= document.keys()
            ours = ours and all(isinstance(document[key], kind) for key, kind in _KINDS.items())
            state, holder = (document.pop("state"), document) if ours else ("released", None)
        return Claim(run, number, path, state, holder, path.stat().st_mtime)


class Heart:
    """Beats for all claims of a process from a thread of its own, whatever the process is busy with."""

    def __init__(self, claims: Claims, every: float = BEAT_SECONDS) -> None:
        self._claims, self._every = claims, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._claims.beat()


def machine() -> str:
    """Name the set of processes this one can see: host, boot, and the container's numbering of processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return ":".join(parts)


def process_start(pid: int) -> str | None:
    """Return when a process of this machine began, so that its number taken again is told apart.

    None where there is none, or it is dead and not yet buried. "" where the system does not tell.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return ""
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]
