"""What a training would cost, measured over a few of its own steps; nothing is written."""

from __future__ import annotations

import statistics
import time
from typing import Any

from isopatch.data.loader import TrainLoader
from isopatch.data.source import DataSplits
from isopatch.models.describe import describe_spec
from isopatch.training import setup
from isopatch.training.config import RunConfig
from isopatch.training.hardware import busy_note
from isopatch.training.step import train_step

WARMUP_STEPS = 2
MEASURED_STEPS = 6
BYTES_PER_PARAMETER = {"adamw": 16, "lamb": 16, "sgd": 12}  # float32 weight, gradient, optimiser moments


def plan_run(config: RunConfig, splits: DataSplits) -> dict[str, Any]:
    """Return model size, cost, memory estimate, measured images/s and minutes to finish.

    The memory estimate is weights, gradients and optimiser state in float32, plus the activations that one
    micro-batch keeps for the backward pass; the data kept in memory is not in it.
    """
    trainer = setup.prepare(config, splits)
    activations = describe_spec(trainer.spec)["backward_memory_bytes"]
    steps = min(WARMUP_STEPS + MEASURED_STEPS, trainer.total_steps)
    seconds = []
    with TrainLoader(
        trainer.train,
        trainer.transform,
        trainer.sampler,
        workers=config.data.workers,
        data_seed=config.order_seed,
        start=0,
        stop=steps,
        short_side=config.data.decode_short_side,
    ) as loader:
        started = time.perf_counter()
        for batch in loader:
            train_step(trainer, batch)
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
    busy = busy_note(trainer.choices.threads)
    taught = [] if trainer.teaching is None else ["asking the teacher at every step is in these figures"]
    per_step = statistics.median(seconds[WARMUP_STEPS:] or seconds)
    weights = BYTES_PER_PARAMETER[config.optimizer.name] * trainer.parameters
    return {
        "model": trainer.spec.name,
        "arguments": trainer.spec.arguments,
        "recipe": config.recipe,
        "data": config.data.source,
        "train_images": len(trainer.train),
        "parameters": trainer.parameters,
        "macs": trainer.macs,
        "flops": 2 * trainer.macs,
        "memory_estimate_bytes": weights + activations * config.micro_batch_size,
        **trainer.choices.to_json(),
        "epochs": trainer.epochs,
        "steps": trainer.total_steps,
        "batch_size": config.batch_size,
        "images_per_second": config.batch_size / per_step,
        "measured_steps": len(seconds[WARMUP_STEPS:] or seconds),
        "minutes_to_finish": per_step * trainer.total_steps / 60,
        "notes": [*splits.notes, *([busy] if busy else []), *taught],
    }
