"""What every step says: a line or a bar for who watches, a row in metrics.jsonl now and then."""

from __future__ import annotations

import time

from isopatch.training.progress import TrainingProgress
from isopatch.training.runfolder import RunFolder
from isopatch.training.setup import Trainer
from isopatch.training.step import StepResult

ROWS = 400  # training rows a run writes, whatever its length, beside one per evaluation


class StepMetrics:
    """Tells steps to `progress` and writes rows into `folder`; images/s are those since the last row."""

    def __init__(self, trainer: Trainer, folder: RunFolder, progress: TrainingProgress) -> None:
        self._trainer, self._folder, self._progress = trainer, folder, progress
        self._every = max(1, trainer.total_steps // ROWS)
        self.restart()

    def restart(self) -> None:
        """Count from now: an evaluation's time is not the steps'."""
        self._began, self._images = time.monotonic(), 0

    def step(self, result: StepResult, *, images: int, seconds: float) -> None:
        """Report the step that just ended, of `images` pictures; `seconds` of training are behind the run."""
        trainer = self._trainer
        self._images += images
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        epoch = trainer.step / trainer.sampler.steps_per_epoch
        self._progress.step(
            trainer.step,
            epoch=epoch,
            loss=result.loss,
            images_per_second=rate,
            seconds_left=(trainer.total_steps - trainer.step) * trainer.config.batch_size / rate,
        )
        if trainer.step % self._every and trainer.step != trainer.total_steps:
            return
        self.restart()
        self._folder.append_metrics(
            {
                "kind": "train",
                "step": trainer.step,
                "epoch": epoch,
                "loss": result.loss,
                "lr": result.lr,
                "grad_norm": result.grad_norm,
                "images_per_second": rate,
                "seconds": seconds,
            }
        )
