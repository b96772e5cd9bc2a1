"""Validation during a run, selection of the weights, and what is written when it ends."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from isopatch.data.source import ImageSource
from isopatch.errors import IsopatchError
from isopatch.files import sha256_of
from isopatch.kernels.use import use
from isopatch.models import spec as models
from isopatch.models.save import save_model
from isopatch.nn.classifier import Classifier
from isopatch.training.ema import Ema, restore_in_place
from isopatch.training.evaluate import Evaluation, evaluate
from isopatch.training.hardware import cpu_name
from isopatch.training.heads import evaluate_taught
from isopatch.training.progress import TrainingProgress
from isopatch.training.runfolder import RunFolder
from isopatch.training.setup import Best, Trainer, data_record
from isopatch.training.stop import StopRequest
from isopatch.training.twins import with_forms

log = logging.getLogger("isopatch")

FINAL_KEYS = (
    "top1",
    "top5",
    "nll",
    "ece",
    "brier",
    "macro_recall",
    "num_images",
)  # in summary.json


def validate(trainer: Trainer, folder: RunFolder, stop: StopRequest, progress: TrainingProgress) -> None:
    """Evaluate the weights (and their moving average) on the validation split; keep the best in `best/`.

    Raises evaluate.Interrupted when asked to stop: nothing is recorded then, and the resumed run repeats it.
    """
    assert trainer.val is not None
    rows: list[dict[str, Any]] = []
    candidates: list[tuple[Best, Classifier]] = []
    for weights, model in _weight_sets(trainer):
        started = time.monotonic()
        try:
            result = _evaluate(trainer, model, trainer.val, stop, precision=trainer.choices.precision)
        except IsopatchError as error:
            raise IsopatchError(f"validation after step {trainer.step}: {error}") from error
        rows.append(
            {
                "kind": "eval",
                "step": trainer.step,
                "epoch": trainer.step / trainer.sampler.steps_per_epoch,
                "split": "val",
                "weights": weights,
                "top1": result.top1,
                "top5": result.top5,
                "nll": result.nll,
                "seconds": time.monotonic() - started,
            }
        )
        candidates.append((Best(trainer.step, result.top1, result.nll, weights), model))
    for row in rows:
        folder.append_metrics(row)
    candidate, model = max(candidates, key=lambda pair: (pair[0].top1, -pair[0].nll))
    if trainer.best is None or (candidate.top1, -candidate.nll) > (trainer.best.top1, -trainer.best.nll):
        trainer.best = candidate
        write_best(trainer, folder, model, candidate)
    progress.evaluated(rows[-1]["top1"], trainer.step)
    trainer.evaluated_step = trainer.step


def keep_best(trainer: Trainer, folder: RunFolder) -> None:
    """Without a validation split the last weights are the final ones."""
    if trainer.val is None:
        write_best(trainer, folder, trainer.model, None)


def write_best(trainer: Trainer, folder: RunFolder, model: Classifier, best: Best | None) -> None:
    """Write `best/`, which loads alone, and swap it in with one rename."""
    version = f"{trainer.step:07d}-{time.time_ns()}"  # never the name of the folder `best` points to
    target = folder.path / f".best-{version}"
    save_model(
        target,
        model,
        extra={
            "step": trainer.step,
            "validation": None if best is None else vars(best),
            "selection": selection_sentence(trainer),
            "data": data_record(trainer),
        },
    )
    folder.swap_best(version)


def selection_sentence(trainer: Trainer) -> str:
    """Which weights `best/` holds, and why; nothing is ever selected on the test split."""
    if trainer.val is None:
        average = "; their moving average is evaluated beside them" if trainer.ema is not None else ""
        return f"no validation split: the last weights are the final ones{average}"
    if trainer.best is None:
        return "no evaluation yet"
    what = "the moving average" if trainer.best.weights == "ema" else "the weights"
    return (
        f"{what} of step {trainer.best.step}, selected on the validation split "
        f"({100 * trainer.best.top1:.2f} % of {len(trainer.val):,} pictures)"
    )


def finish(trainer: Trainer, folder: RunFolder, stop: StopRequest) -> dict[str, Any]:
    """Evaluate `best/` on validation and test in float32, write evaluation-*.json and summary.json.

    The kernels are the run's own, in float32 whatever it trained in.
    The teacher is asked about the test pictures too, or the validation pictures where there is no test split.
    """
    from isopatch.models.load import load

    model = load(folder.best).to(trainer.device)
    use(model, kernels=trainer.choices.kernels, precision="fp32")
    final: dict[str, Any] = {}
    for split, source in (("val", trainer.val), ("test", trainer.splits.test)):
        if source is None:
            continue
        headline = split == "test" or trainer.splits.test is None
        evaluation = evaluate_taught(
            model,
            source,
            trainer.spec.input,
            classes=trainer.splits.classes,
            teacher=trainer.teaching.teacher.members if headline and trainer.teaching else (),
            batch_size=trainer.config.eval.batch_size,
            workers=trainer.config.data.workers,
            device=trainer.choices.device,
            stop=stop,
        )
        result = replace(evaluation, kernels=trainer.choices.kernels).to_json()
        folder.write_json(f"evaluation-{split}.json", result)
        final[split] = {key: result[key] for key in FINAL_KEYS}
        log.info("%s: top-1 %.2f %% of %s pictures", split, 100 * result["top1"], f"{result['num_images']:,}")
    test = trainer.splits.test
    if trainer.val is None and test is not None and trainer.ema is not None and trainer.ema.updates:
        average = _evaluate(trainer, _averaged_in_fp32(trainer), test, stop, precision="fp32").to_json()
        final["test_ema"] = {key: average[key] for key in FINAL_KEYS}
        log.info("test, moving average of the weights: top-1 %.2f %%", 100 * average["top1"])
    summary = summarise(trainer, folder, final)
    folder.write_json("summary.json", summary)
    if trainer.teaching is not None:
        log.info("%s", trainer.teaching)
    return summary


def summarise(trainer: Trainer, folder: RunFolder, final: dict[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    config, splits = trainer.config, trainer.splits
    counts = {
        name: 0 if source is None else len(source)
        for name, source in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }
    weights = folder.best / "model.safetensors"
    if not weights.is_file():
        raise IsopatchError(f"{weights} is missing; was the run folder changed while training?")
    return {
        "name": folder.path.name,
        "model": trainer.spec.to_json(),
        "recipe": config.recipe,
        "parameters": trainer.parameters,
        "macs": trainer.macs,
        "image_size": [trainer.spec.input.height, trainer.spec.input.width],
        "epochs": trainer.epochs,
        "steps": trainer.step,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "micro_batch_size": config.micro_batch_size,
        "images_seen": trainer.images_seen,
        "seconds": trainer.seconds,
        "images_per_second": trainer.images_seen / max(trainer.seconds, 1e-9),
        "final": final,
        "selection": selection_sentence(trainer),
        "seed": config.seed,
        "data_seed": config.order_seed,
        **with_forms(trainer.choices, trainer.model).to_json(),
        "distillation": None if trainer.teaching is None else trainer.teaching.to_json(),
        "hardware": cpu_name(),
        "data": {
            "source": config.data.source,
            "fingerprint": splits.train.fingerprint if splits.train else None,
            **counts,
            "classes": list(splits.classes),
            "skipped": {split: len(files) for split, files in splits.skipped.items()},
            "skipped_files": {split: files[:100] for split, files in splits.skipped.items()},
            "notes": list(splits.notes),
        },
        "weights_sha256": sha256_of(weights),
    }


def _weight_sets(trainer: Trainer) -> list[tuple[str, Classifier]]:
    sets = [("model", trainer.model)]
    if trainer.ema is not None and trainer.ema.updates:
        sets.append(("ema", _averaged(trainer.ema)))
    return sets


def _averaged(ema: Ema) -> Classifier:
    assert isinstance(ema.model, Classifier)
    return ema.model


def _averaged_in_fp32(trainer: Trainer) -> Classifier:
    """A copy of the moving average: the twins in the one that is trained compute in the run's precision."""
    assert trainer.ema is not None
    model = models.build(trainer.spec)
    restore_in_place(model, dict(trainer.ema.model.state_dict()))
    model.to(trainer.device)
    use(model, kernels=trainer.choices.kernels, precision="fp32")
    return model


def _evaluate(
    trainer: Trainer,
    model: Classifier,
    source: ImageSource,
    stop: StopRequest,
    *,
    precision: str,
) -> Evaluation:
    return evaluate(
        model,
        source,
        trainer.spec.input,
        batch_size=trainer.config.eval.batch_size,
        workers=trainer.config.data.workers,
        device=trainer.choices.device,
        precision=precision,
        classes=trainer.splits.classes,
        memory_limit_mb=0,  # the validation source was kept in memory already, once
        gallery=0,
        stop=stop,
    )
