"""What a run says before it begins."""

from __future__ import annotations

import logging

from isopatch.training.hardware import busy_note
from isopatch.training.setup import Trainer

log = logging.getLogger("isopatch")


def announce(trainer: Trainer) -> None:
    """Say what is about to run, once."""
    config, choices = trainer.config, trainer.choices
    log.info(
        "%s on %s: %s parameters, %s MACs per picture, %d training pictures, %s",
        trainer.spec.name,
        config.data.source,
        f"{trainer.parameters:,}",
        f"{trainer.macs:,}",
        len(trainer.train),
        length_note(trainer),
    )
    parts = "" if config.accumulate == 1 else f" in {config.accumulate} parts of {config.micro_batch_size}"
    log.info(
        "batches of %d%s (mixing and BatchNorm see %d pictures); %s, %s, %d %s",
        config.batch_size,
        parts,
        config.micro_batch_size,
        choices.device,
        choices.precision,
        choices.threads,
        "thread" if choices.threads == 1 else "threads",
    )
    if config.distill.teacher is not None:
        log.info("%s", taught_note(trainer))
    busy = busy_note(choices.threads)
    for note in (*trainer.splits.notes, *([busy] if busy else [])):
        log.info("%s", note)


def length_note(trainer: Trainer) -> str:
    """Say how long the run is: "30 x 11 steps", or "500 steps (45.5 epochs)"."""
    per_epoch = trainer.sampler.steps_per_epoch
    if trainer.config.steps is None:
        return f"{trainer.config.epochs} x {per_epoch} steps"
    return f"{trainer.total_steps} steps ({trainer.total_steps / per_epoch:.3g} epochs)"


def taught_note(trainer: Trainer) -> str:
    """Say who teaches what, with which weights, and where its answers are kept."""
    distill = trainer.config.distill
    weights = distill.weights
    terms = [("labels", weights.label), ("hard", weights.hard), ("soft", weights.soft)]
    terms.append(("feature maps", distill.feature_weight))
    said = ", ".join(f"{name} {weight:g}" for name, weight in terms if weight)
    where = "the distillation token's head" if "dist" in trainer.model.heads else "the only head"
    soft = f" at temperature {distill.tau:g}" if weights.soft else ""
    cache = "" if distill.cache is None else f"; its answers are kept in {distill.cache}"
    return f"taught by {distill.teacher} through {where}: {said}{soft}{cache}"
