"""What somebody watching a run sees: a bar on a terminal, one plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Shows step, images/s, loss and validation accuracy on stderr. `quiet` shows nothing."""

    def __init__(self, total: int, start: int, *, quiet: bool = False) -> None:
        self._total = total
        self._quiet = quiet
        self._accuracy = ""
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=total, completed=start)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(
        self, step: int, *, epoch: float, loss: float, images_per_second: float, seconds_left: float
    ) -> None:
        """Report one finished optimiser step."""
        text = f"epoch {epoch:.2f}  loss {loss:.3f}  {images_per_second:,.0f} images/s{self._accuracy}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif not self._quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = f"{seconds_left / 60:.1f} min left"
            print(f"step {step}/{self._total}  {text}  {left}", file=sys.stderr, flush=True)

    def evaluated(self, top1: float, step: int) -> None:
        """Report a validation accuracy (a fraction)."""
        self._accuracy = f"  val {100 * top1:.2f} %"
        if self._bar is None and not self._quiet:
            print(f"step {step}/{self._total}  validation {100 * top1:.2f} %", file=sys.stderr, flush=True)
