"""The training loop, read from top to bottom."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isopatch.data.loader import TrainLoader
from isopatch.data.source import DataSplits
from isopatch.errors import EXIT_DONE, IsopatchError
from isopatch.training import checkpoint as checkpoints
from isopatch.training import setup
from isopatch.training.announce import announce
from isopatch.training.config import RunConfig
from isopatch.training.evaluate import Interrupted
from isopatch.training.finish import finish, keep_best, validate
from isopatch.training.hardware import describe_environment
from isopatch.training.progress import TrainingProgress
from isopatch.training.runfolder import RunFolder
from isopatch.training.saving import Saving
from isopatch.training.setup import Trainer
from isopatch.training.step import train_step
from isopatch.training.step_metrics import StepMetrics
from isopatch.training.stop import StopRequest

log = logging.getLogger("isopatch")


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
    total = trainer.total_steps
    saving = Saving(trainer, folder, resumed=resumed)
    folder.write_status("running", step=trainer.step, total_steps=total)
    stop.defer()
    with _loader(trainer) as loader, TrainingProgress(total, trainer.step, quiet=quiet) as progress:
        metrics = StepMetrics(trainer, folder, progress)
        try:
            if evaluation_due(trainer):  # the process ended between an epoch's last step and its evaluation
                validate(trainer, folder, stop, progress)
                metrics.restart()
            for batch in loader:
                result = train_step(trainer, batch)
                trainer.step = batch.step + 1
                trainer.images_seen += len(batch.labels)
                metrics.step(result, images=len(batch.labels), seconds=saving.seconds())
                if evaluation_due(trainer):
                    validate(trainer, folder, stop, progress)
                    metrics.restart()
                if stop:
                    return _stopped(trainer, folder, stop, saving)
                if saving.due():
                    saving.save()
            saving.save()
            keep_best(trainer, folder)
            summary = finish(trainer, folder, stop)
        except Interrupted:
            return _stopped(trainer, folder, stop, saving)
    folder.write_status("finished", step=total, total_steps=total, exit_code=EXIT_DONE)
    return RunResult(folder.path, "finished", total, total, EXIT_DONE, summary)


def _loader(trainer: Trainer) -> TrainLoader:
    data = trainer.config.data
    return TrainLoader(
        trainer.train,
        trainer.transform,
        trainer.sampler,
        workers=data.workers,
        data_seed=trainer.config.order_seed,
        start=trainer.step,
        stop=trainer.total_steps,
        short_side=data.decode_short_side,
    )


def _stopped(trainer: Trainer, folder: RunFolder, stop: StopRequest, saving: Saving) -> RunResult:
    """Save, and say how to go on."""
    saving.save()
    step, total, code = trainer.step, trainer.total_steps, stop.exit_code
    assert code is not None
    message = f"stopped by {stop.reason}; isopatch train --resume {folder.path} continues it"
    folder.write_status("stopped", step=step, total_steps=total, exit_code=code, message=message)
    log.warning("saved at step %d of %d, %s", step, total, message)
    return RunResult(folder.path, "stopped", step, total, code, {})


def evaluation_due(trainer: Trainer) -> bool:
    """Whether an epoch (or the run) just ended and its evaluation is still to do."""
    if trainer.val is None or trainer.step == 0 or trainer.evaluated_step == trainer.step:
        return False
    epoch, rest = divmod(trainer.step, trainer.sampler.steps_per_epoch)
    whole = rest == 0 and epoch % trainer.config.eval.every_epochs == 0
    return whole or trainer.step == trainer.total_steps
