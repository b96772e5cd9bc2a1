"""Learning rate over time, as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isopatch.errors import UsageError
from isopatch.training.config import RunConfig, ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every optimiser step.

    cosine, linear: linear warm-up from `warmup_lr`, then down to `min_lr`; time counts from the run's start,
        as timm does with warmup_prefix False.
    piecewise-linear: 0 -> peak -> peak/20 -> 0 at epochs 0, 2E//5, 4E//5, E, looked up after each step
        (the ConvMixer repository's "onecycle", not torch's OneCycleLR).
    """

    config: ScheduleConfig
    peak: float
    epochs: int | float
    steps_per_epoch: int

    @classmethod
    def of(cls, config: RunConfig, steps_per_epoch: int) -> Schedule:
        """The schedule of a run whose epochs have `steps_per_epoch` optimiser steps.

        Raises UsageError where a run given in steps is all warm-up.
        """
        epochs = config.epochs if config.steps is None else config.steps / steps_per_epoch
        warmup = config.schedule.warmup_epochs
        if config.steps is not None and warmup >= epochs and config.schedule.kind != "constant":
            raise UsageError(
                f"schedule.warmup_epochs {warmup:g} leaves nothing of {config.steps} steps, which are "
                f"{epochs:.3g} epochs; give more steps or a shorter warm-up"
            )
        return cls(config.schedule, config.peak_lr, epochs, steps_per_epoch)

    def lr(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        if self.config.kind == "piecewise-linear":
            return self._piecewise((step + 1) / self.steps_per_epoch)
        if self.config.unit == "epoch":
            epoch = step // self.steps_per_epoch
            # DeiT's engine set the rate at the end of an epoch from that epoch's number: one epoch late.
            return self._curve(max(epoch - 1, 0) if self.config.deit_lag else epoch)
        return self._curve(step / self.steps_per_epoch)

    def _curve(self, time: float) -> float:
        """Cosine, linear or constant at `time` epochs."""
        config = self.config
        warmup = config.warmup_epochs + config.warmup_share * self.epochs  # at most one of them is set
        if config.warmup_steps is not None:
            warmup = config.warmup_steps / self.steps_per_epoch
        if time < warmup:
            return config.warmup_lr + (self.peak - config.warmup_lr) * time / warmup
        if config.kind == "constant":
            return self.peak
        if config.kind == "linear":
            share = 1 - (time - warmup) / max(self.epochs - warmup, 1e-12)
        else:
            share = 0.5 * (1 + math.cos(math.pi * time / self.epochs))
        return config.min_lr + (self.peak - config.min_lr) * max(share, 0.0)

    def _piecewise(self, time: float) -> float:
        # The repository cuts the corners to whole epochs; a length in steps has none to cut to.
        epochs, whole = self.epochs, isinstance(self.epochs, int)
        corners = (2 * epochs // 5, 4 * epochs // 5) if whole else (2 * epochs / 5, 4 * epochs / 5)
        xs = (0.0, float(corners[0]), float(corners[1]), float(epochs))
        ys = (0.0, self.peak, self.peak / 20, 0.0)
        for (x0, y0), (x1, y1) in zip(
            zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False
        ):
            if time <= x1 and x1 > x0:
                return y0 + (y1 - y0) * (time - x0) / (x1 - x0)
        return 0.0
