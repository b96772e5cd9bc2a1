"""When a run's state is written, and that the same state is not written twice."""

from __future__ import annotations

import time

from isopatch.training import checkpoint as checkpoints
from isopatch.training import guard, setup
from isopatch.training.runfolder import RunFolder
from isopatch.training.setup import Trainer


class Saving:
    """The checkpoints of a run that goes on, and the clock of its training.

    resumed: the newest checkpoint in the folder holds the trainer's present state.
    Raises IsopatchError where the disk has no room for the checkpoints that are kept.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder, *, resumed: bool) -> None:
        self._trainer, self._folder = trainer, folder
        self._settings = trainer.config.checkpoint
        checkpoints.check_space(folder.checkpoints, setup.snapshot(trainer)[0], self._settings.keep)
        self._saved = self._position() if resumed else None
        self._last = self._counted = time.monotonic()

    def seconds(self) -> float:
        """Return how long the run has trained, in all its processes."""
        return self._trainer.seconds + time.monotonic() - self._counted

    def due(self) -> bool:
        """Whether the step or the clock asks for a checkpoint."""
        steps, minutes = self._settings.every_steps, self._settings.every_minutes
        by_step = steps is not None and self._trainer.step % steps == 0
        return by_step or (minutes is not None and time.monotonic() - self._last >= 60 * minutes)

    def save(self) -> None:
        """Write the state, unless the newest checkpoint holds it.

        Raises guard.NonFinite, and writes nothing, when a weight or a buffer is not finite.
        """
        trainer, folder = self._trainer, self._folder
        now = time.monotonic()
        trainer.seconds += now - self._counted
        self._counted = now
        if self._saved != self._position():
            guard.check_state(trainer.model, trainer.step)
            tensors, documents = setup.snapshot(trainer)
            checkpoints.write_checkpoint(
                folder.checkpoints, trainer.step, tensors=tensors, documents=documents
            )
            checkpoints.retain(folder.checkpoints, self._settings.keep)
            folder.write_status("running", step=trainer.step, total_steps=trainer.total_steps)
            self._saved = self._position()
        self._last = time.monotonic()

    def _position(self) -> tuple[int, int]:
        return self._trainer.step, self._trainer.evaluated_step
