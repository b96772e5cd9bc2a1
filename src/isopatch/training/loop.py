"""The training loop, read from top to bottom."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isopatch.data.loader import TrainLoader
from isopatch.data.source import DataSplits
from isopatch.errors import EXIT_DONE, IsopatchError
from isopatch.training import checkpoint as checkpoints
from isopatch.training import guard, setup
from isopatch.training.config import RunConfig
from isopatch.training.evaluate import Interrupted
from isopatch.training.finish import finish, keep_best, validate
from isopatch.training.hardware import busy_note, describe_environment
from isopatch.training.progress import TrainingProgress
from isopatch.training.runfolder import RunFolder
from isopatch.training.setup import Trainer
from isopatch.training.step import train_step
from isopatch.training.stop import StopRequest

log = logging.getLogger("isopatch")

METRICS_ROWS = 400  # training rows a run writes, whatever its length, beside one per evaluation


@dataclass(frozen=True)
class RunResult:
    """How a training ended.

    state: "finished", or "stopped" when it was asked to stop and saved. summary: summary.json's content,
    empty until finished. exit_code: what the command line returns.
    """

    path: Path
    state: str
    step: int
    total_steps: int
    exit_code: int
    summary: dict[str, Any]


def train_run(
    config: RunConfig,
    splits: DataSplits,
    folder: RunFolder,
    stop: StopRequest,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Train `config` on `splits` in `folder`, whose lock the caller holds; continue where it was left.

    The weights at the end are a function of configuration and data alone: a run that was killed and resumed,
    any number of times and with any number of loader workers, ends with the same bits as an unbroken one.
    overwrite: delete the run that is there, once this one is known to be possible.
    Raises IsopatchError (after writing status.json) when a value is not finite or the disk is full.
    """
    done = None if overwrite else finished_result(folder)
    if done is not None:
        return done
    latest = None if overwrite else checkpoints.find_latest(folder.checkpoints)
    trainer = setup.prepare(config, splits, resume=latest)
    if overwrite:
        folder.clear()
    if latest is None:
        folder.write_yaml("config.yaml", config.model_dump(mode="json"))
    else:
        setup.restore(trainer, latest)
        log.info("resuming at step %d of %d", trainer.step, trainer.total_steps)
    folder.cut_metrics(trainer.step)
    folder.write_json("env.json", describe_environment(trainer.choices))
    announce(trainer)
    try:
        return _run(trainer, folder, stop, resumed=latest is not None, quiet=quiet)
    except BrokenPipeError as error:
        gone = IsopatchError("nobody reads the output any more (broken pipe); --resume auto goes on")
        folder.record_failure(gone, step=trainer.step)
        raise gone from error
    except OSError as error:
        failure = checkpoints.disk_error(error, folder.path)
        folder.record_failure(failure, step=trainer.step)
        raise failure from error
    except Exception as failure:
        folder.record_failure(failure, step=trainer.step)
        raise


def finished_result(folder: RunFolder) -> RunResult | None:
    """Return how the run in the folder ended, where it has ended: nothing is left to do then."""
    status = folder.read_json("status.json") or {}
    if status.get("state") != "finished":
        return None
    log.info("%s is finished; nothing to do", folder.path)
    summary = folder.read_json("summary.json") or {}
    return RunResult(folder.path, "finished", status["step"], status["total_steps"], EXIT_DONE, summary)


def _run(trainer: Trainer, folder: RunFolder, stop: StopRequest, *, resumed: bool, quiet: bool) -> RunResult:
    config, total = trainer.config, trainer.total_steps
    per_epoch = trainer.sampler.steps_per_epoch
    metrics_every = max(1, total // METRICS_ROWS)
    checkpoints.check_space(folder.checkpoints, setup.snapshot(trainer)[0], config.checkpoint.keep)
    folder.write_status("running", step=trainer.step, total_steps=total)
    loader = TrainLoader(
        trainer.train,
        trainer.transform,
        trainer.sampler,
        workers=config.data.workers,
        data_seed=config.order_seed,
        start=trainer.step,
        stop=total,
        short_side=config.data.decode_short_side,
    )
    last_save = started = time.monotonic()
    window_start, window_images = started, 0
    saved = (trainer.step, trainer.evaluated_step) if resumed else None  # what the newest checkpoint holds

    def save() -> None:
        nonlocal saved, last_save, started
        now = time.monotonic()
        trainer.seconds += now - started
        started = now
        if saved != (trainer.step, trainer.evaluated_step):
            guard.check_state(trainer.model, trainer.step)
            tensors, documents = setup.snapshot(trainer)
            checkpoints.write_checkpoint(
                folder.checkpoints, trainer.step, tensors=tensors, documents=documents
            )
            checkpoints.retain(folder.checkpoints, config.checkpoint.keep)
            folder.write_status("running", step=trainer.step, total_steps=total)
            saved = (trainer.step, trainer.evaluated_step)
        last_save = time.monotonic()

    def stopped() -> RunResult:
        save()
        code = stop.exit_code
        assert code is not None
        message = f"stopped by {stop.reason}; isopatch train --resume {folder.path} continues it"
        folder.write_status("stopped", step=trainer.step, total_steps=total, exit_code=code, message=message)
        log.warning("saved at step %d of %d, %s", trainer.step, total, message)
        return RunResult(folder.path, "stopped", trainer.step, total, code, {})

    stop.defer()
    with loader, TrainingProgress(total, trainer.step, quiet=quiet) as progress:
        try:
            if evaluation_due(trainer):  # the process ended between an epoch's last step and its evaluation
                validate(trainer, folder, stop, progress)
            for batch in loader:
                result = train_step(trainer, batch)
                trainer.step = batch.step + 1
                trainer.images_seen += len(batch.labels)
                window_images += len(batch.labels)
                now = time.monotonic()
                rate = window_images / max(now - window_start, 1e-9)
                epoch = trainer.step / per_epoch
                progress.step(
                    trainer.step,
                    epoch=epoch,
                    loss=result.loss,
                    images_per_second=rate,
                    seconds_left=(total - trainer.step) * config.batch_size / rate,
                )
                if trainer.step % metrics_every == 0 or trainer.step == total:
                    window_start, window_images = now, 0
                    folder.append_metrics(
                        {
                            "kind": "train",
                            "step": trainer.step,
                            "epoch": epoch,
                            "loss": result.loss,
                            "lr": result.lr,
                            "grad_norm": result.grad_norm,
                            "images_per_second": rate,
                            "seconds": trainer.seconds + now - started,
                        }
                    )
                if evaluation_due(trainer):
                    validate(trainer, folder, stop, progress)
                    window_start, window_images = time.monotonic(), 0
                if stop:
                    return stopped()
                if checkpoint_due(trainer, last_save):
                    save()
            save()
            keep_best(trainer, folder)
            summary = finish(trainer, folder, stop)
        except Interrupted:
            return stopped()
    folder.write_status("finished", step=total, total_steps=total, exit_code=EXIT_DONE)
    return RunResult(folder.path, "finished", total, total, EXIT_DONE, summary)


def evaluation_due(trainer: Trainer) -> bool:
    """Whether an epoch (or the run) just ended and its evaluation is still to do."""
    if trainer.val is None or trainer.step == 0 or trainer.evaluated_step == trainer.step:
        return False
    epoch, rest = divmod(trainer.step, trainer.sampler.steps_per_epoch)
    whole = rest == 0 and epoch % trainer.config.eval.every_epochs == 0
    return whole or trainer.step == trainer.total_steps


def checkpoint_due(trainer: Trainer, last_save: float) -> bool:
    """Whether the step or the clock asks for a checkpoint."""
    every_steps, every_minutes = (
        trainer.config.checkpoint.every_steps,
        trainer.config.checkpoint.every_minutes,
    )
    by_step = every_steps is not None and trainer.step % every_steps == 0
    by_time = every_minutes is not None and time.monotonic() - last_save >= 60 * every_minutes
    return by_step or by_time


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
