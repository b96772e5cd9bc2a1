"""What tests of whole runs share: train into a folder, stop on the way, compare what is left to the bit."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

from isopatch.data.source import DataSplits
from isopatch.training import checkpoint, loop
from isopatch.training.config import RunConfig
from isopatch.training.runfolder import RunFolder
from isopatch.training.stop import StopRequest


class StopAfter(StopRequest):
    """Asks to stop at the n-th time the loop looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks == 0:
            self._signal = signal.SIGUSR1
        return super().__bool__()


def run(
    settings: RunConfig, splits: DataSplits, path: Path, stop: StopRequest | None = None
) -> loop.RunResult:
    """Train `settings` into `path`, or go on there."""
    folder = RunFolder(path)
    with folder.hold():
        return loop.train_run(settings, splits, folder, StopRequest() if stop is None else stop, quiet=True)


def digest(path: Path) -> tuple[int, str]:
    """The last step, and SHA-256 over the final weights and everything in the last checkpoint."""
    last = checkpoint.find_latest(path / "checkpoints")
    assert last is not None
    total = hashlib.sha256((path / "best" / "model.safetensors").read_bytes())
    for group in ("model", "optimizer", "ema"):
        if last.has(group):
            for name, tensor in sorted(last.tensors(group).items()):
                total.update(name.encode() + tensor.numpy().tobytes())
    return last.step, total.hexdigest()
