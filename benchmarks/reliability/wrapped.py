"""Run `isopatch ...` with something arranged from outside, so that the product needs no switches for tests.

    python -m benchmarks.reliability.wrapped '{"mark": "phase.txt"}' train --data digits ...

mark: a file that always tells the phase (scan, step, validation, best, save, finish, or what lies between)
    and how often it was entered.
linger: {"phase": P, "occurrence": N, "until": FILE}: stay in the N-th P until FILE exists (60 s at most).
forget_position: a resumed run sees the samples from the beginning again: the defect that the resume harness
    must notice.
Every replaced function calls the original one; a run without `forget_position` computes what it always does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

STARTUP, PREPARING, BETWEEN = "startup", "preparing", "between steps"
LINGERING = "lingering"
_WIDTH = 32  # bytes of the mark: one write, always whole


class Phases:
    """Writes the phase into the mark, and lingers where it was told to."""

    def __init__(self, mark: str | None, linger: dict[str, Any] | None) -> None:
        self._file = None if mark is None else os.open(mark, os.O_RDWR | os.O_CREAT)
        self._linger = linger
        self._counts: Counter[str] = Counter()
        self._stack: list[str] = [STARTUP]
        self._write()

    def enter(self, phase: str) -> None:
        self._counts[phase] += 1
        self._stack.append(phase)
        self._write()

    def leave(self) -> None:
        """Go back to what was before; outside of all phases that is preparation or between steps."""
        self._stack.pop()
        if len(self._stack) == 1:
            self._stack[0] = BETWEEN if self._counts["step"] else PREPARING
        self._write()

    def maybe_linger(self, phase: str) -> None:
        """Stay here, if this is the place and the occurrence asked for."""
        spec = self._linger
        if spec is None or (phase, self._counts[phase]) != (spec["phase"], spec["occurrence"]):
            return
        self._linger = None
        self._stack.append(LINGERING)
        self._write()
        until, deadline = Path(spec["until"]), time.monotonic() + 60
        while not until.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.leave()

    def _write(self) -> None:
        if self._file is not None:
            phase = self._stack[-1]
            os.pwrite(self._file, f"{phase}/{self._counts[phase]}".ljust(_WIDTH).encode(), 0)


def read_mark(path: Path) -> tuple[str, int]:
    """Return (phase, how often it was entered); ("startup", 0) before the first write."""
    phase, slash, count = path.read_text().strip().partition("/") if path.is_file() else ("", "", "")
    return (phase, int(count)) if slash else (STARTUP, 0)


@contextlib.contextmanager
def arranged(spec: dict[str, Any]) -> Iterator[None]:
    """Arrange what `spec` says for the code that runs inside."""
    from isopatch import api
    from isopatch.training import checkpoint, finish, loop

    phases = Phases(spec.get("mark"), spec.get("linger"))

    def inside(phase: str, original: Callable[..., Any], *, at_entry: bool = True) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            phases.enter(phase)
            try:
                if at_entry:
                    phases.maybe_linger(phase)
                return original(*arguments, **options)
            finally:
                phases.leave()

        return call

    def write_new(path: Path, content: bytes, original: Callable[..., Any] = checkpoint.write_new) -> None:
        if (
            path.name == checkpoint.MANIFEST
        ):  # the save's other files are written, the rename is still to come
            phases.maybe_linger("save")
        original(path, content)

    with contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        replace(api, "open_data", inside("scan", api.open_data))
        replace(loop, "train_step", inside("step", loop.train_step))
        replace(loop, "validate", inside("validation", loop.validate))
        replace(loop, "finish", inside("finish", loop.finish))
        replace(finish, "write_best", inside("best", finish.write_best))
        replace(checkpoint, "write_checkpoint", inside("save", checkpoint.write_checkpoint, at_entry=False))
        replace(checkpoint, "write_new", write_new)
        if spec.get("forget_position"):
            replace(loop, "TrainLoader", _forgetful(loop.TrainLoader))
        yield


def _forgetful(original: Callable[..., Any]) -> Callable[..., Any]:
    """A loader whose first step, wherever the run continues, has the samples of step 0."""

    class FromTheBeginning:
        def __init__(self, sampler: Any, start: int) -> None:
            self._sampler, self._start = sampler, start
            self.steps_per_epoch, self.view = sampler.steps_per_epoch, sampler.view

        def batch(self, epoch: int, step: int) -> Any:
            position = epoch * self.steps_per_epoch + step - self._start
            return self._sampler.batch(*divmod(position, self.steps_per_epoch))

    def loader(source: Any, transform: Any, sampler: Any, *, start: int, **options: Any) -> Any:
        return original(source, transform, FromTheBeginning(sampler, start), start=start, **options)

    return loader


def main() -> int:
    from isopatch.cli import main as isopatch_main

    spec = json.loads(sys.argv[1])
    sys.argv = ["isopatch", *sys.argv[2:]]
    with arranged(spec):
        return isopatch_main(sys.argv[1:]) or 0


if __name__ == "__main__":
    raise SystemExit(main())
