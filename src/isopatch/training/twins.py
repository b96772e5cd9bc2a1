"""The run's kernels: chosen when it starts, recorded, replayed when it is resumed."""

from __future__ import annotations

import logging
from dataclasses import replace

from isopatch.errors import UsageError
from isopatch.kernels import native, triton
from isopatch.kernels.memory import keep_freed_memory
from isopatch.kernels.use import use
from isopatch.nn.classifier import Classifier
from isopatch.training.config import RunConfig
from isopatch.training.hardware import Choices

log = logging.getLogger("isopatch")


def put_twins_in(model: Classifier, config: RunConfig, choices: Choices, *, resumed: bool) -> Choices:
    """Swap the model's modules for the run's kernels, on its device already; return the choices with them.

    resumed: `choices` are a checkpoint's, to be replayed; else `config.kernels` is resolved here.
    Raises UsageError where kernels that were asked for or recorded cannot run on this machine.
    """
    if choices.device == "cpu":
        keep_freed_memory()
    if resumed:
        choices = _replayed(choices)
    swapped = use(
        model,
        kernels=choices.kernels if resumed else config.kernels,
        precision=choices.precision,
        recompute=config.activation_checkpointing,
        gradients=True,
    )
    log.info("%s", swapped)
    if swapped.kernels == "triton":
        from isopatch.kernels.triton.choose import replay

        replay(model, choices.forms)
    return replace(choices, kernels=swapped.kernels, instruction_set=swapped.instructions)


def with_forms(choices: Choices, model: Classifier) -> Choices:
    """The choices with the forms that the model's kernels have measured so far, for a record."""
    if choices.kernels != "triton":
        return choices
    from isopatch.kernels.triton.choose import recorded

    return replace(choices, forms=recorded(model))


def _replayed(choices: Choices) -> Choices:
    """Make the machine compute as it did when the run began, or say why it cannot."""
    if choices.kernels == "plain":
        return choices
    if choices.kernels == "native":
        reason = native.unavailable(choices.device.split(":")[0])
    else:
        reason = triton.unavailable(choices.device)
    if reason is not None:
        raise UsageError(
            f"kernels: the run began with {choices.kernels} kernels, which cannot run here: {reason}; go on "
            f"with it where they can, or start afresh with --kernels plain and another --out (--weights RUN "
            f"takes what it has learned)"
        )
    wanted = choices.instruction_set
    if choices.kernels == "native" and wanted is not None:
        used = native.use_instructions(wanted)
        if used != wanted:
            log.warning(
                "the run began with %s instructions, which this CPU lacks: it goes on with %s, and ends with "
                "other last bits than an unbroken run",
                wanted,
                used,
            )
    return choices
