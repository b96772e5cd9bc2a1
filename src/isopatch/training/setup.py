"""From a configuration and data to everything the loop needs; and back from a checkpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch

from isopatch.data.augment import TrainTransform
from isopatch.data.memory import KeptSource, keep_in_memory
from isopatch.data.sampler import EpochSampler
from isopatch.data.seeding import derive_seed
from isopatch.data.source import DataSplits, ImageSource, state_of
from isopatch.errors import IsopatchError, UsageError
from isopatch.models import spec as models
from isopatch.models.describe import describe_spec
from isopatch.models.external.wrapper import External
from isopatch.models.load import load
from isopatch.nn.classifier import Classifier
from isopatch.training.checkpoint import Checkpoint
from isopatch.training.config import HARMLESS, RunConfig
from isopatch.training.ema import Ema, restore_in_place
from isopatch.training.hardware import Choices, choose
from isopatch.training.optim import NamedOptimizer, build_optimizer
from isopatch.training.schedule import Schedule
from isopatch.training.teaching import Teaching, open_teaching
from isopatch.training.twins import put_twins_in, with_forms

log = logging.getLogger("isopatch")

# Where something lies that is known by what it holds (`Teaching.restore`, the cache's header).
PLACES = ("distill.teacher", "distill.cache")


@dataclass
class Best:
    """The weights selected so far."""

    step: int
    top1: float
    nll: float
    weights: str  # "model" or "ema"


@dataclass
class Trainer:
    """One run in memory: what is fixed, then what a checkpoint holds."""

    config: RunConfig
    choices: Choices
    train: ImageSource
    val: ImageSource | None
    splits: DataSplits
    model: Classifier
    optimizer: NamedOptimizer
    schedule: Schedule
    sampler: EpochSampler
    transform: TrainTransform
    scaler: torch.amp.GradScaler
    ema: Ema | None
    macs: int
    parameters: int
    teaching: Teaching | None = None
    step: int = 0
    evaluated_step: int = 0
    seconds: float = 0.0
    images_seen: int = 0
    best: Best | None = None

    @property
    def spec(self) -> models.ModelSpec:
        """What a checkpoint stores about the model."""
        spec: models.ModelSpec = self.model.spec
        return spec

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return torch.device(self.choices.device)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.total_steps(self.sampler.steps_per_epoch)

    @property
    def epochs(self) -> int | float:
        """Times the run goes through its pictures: a whole number, unless it was given in steps."""
        if self.config.steps is None:
            return self.config.epochs
        return round(self.total_steps / self.sampler.steps_per_epoch, 4)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self.choices.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.choices.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)


def prepare(config: RunConfig, splits: DataSplits, *, resume: Checkpoint | None = None) -> Trainer:
    """Build the run from its beginning.

    resume: the checkpoint that `restore` will load: the choices and the model it recorded are taken, so that
        pretrained weights are not needed again. Raises UsageError where the parts do not
    fit together (class counts, batch larger than the data, a model that cannot take the pictures' size).
    """
    if splits.train is None:
        raise UsageError(f"data.source: {config.data.source} has no training split")
    if len(splits.classes) < 2:
        raise UsageError(
            f"data.source: {config.data.source} has {len(splits.classes)} class; training needs two"
        )
    arguments = {**config.model.arguments, "num_classes": len(splits.classes)}
    overrides = {key: value for key, value in config.input.model_dump().items() if value is not None}
    spec = models.make_spec(config.model.name, arguments, input_overrides=overrides, classes=splits.classes)
    torch.manual_seed(derive_seed(config.seed, "initialisation"))
    if resume is not None:
        spec = models.ModelSpec.from_json(resume.document("config")["model"])
    fresh = config.weights is None or resume is not None
    model = models.build(spec) if fresh else _pretrained(config, spec, overrides)
    if config.activation_checkpointing and isinstance(model, External):
        raise UsageError(
            f"activation_checkpointing: {model.spec.name} is another library's model, whose blocks are not "
            f"known here; leave it out"
        )
    numbers = describe_spec(model.spec)
    choices = choose(config, numbers["macs"]) if resume is None else recorded_choices(resume)
    torch.set_num_threads(choices.threads)
    model.activation_checkpointing = config.activation_checkpointing
    model.to(choices.device)
    choices = put_twins_in(model, config, choices, resumed=resume is not None)
    sampler = EpochSampler(
        len(splits.train),
        global_batch=config.batch_size,
        data_seed=config.order_seed,
        repeats=config.augment.repeats,
        views=config.distill.views,
    )
    limit = config.data.memory_limit_mb
    # What is kept has its full size: a run that decodes smaller must not depend on the memory there is.
    train = keep_in_memory(splits.train, limit_mb=0 if config.data.decode_short_side else limit)
    teaching = open_teaching(config, choices, model, train, steps_per_epoch=sampler.steps_per_epoch)
    return Trainer(
        config=config,
        choices=choices,
        train=train,
        val=None if splits.val is None else keep_in_memory(splits.val, limit_mb=limit),
        splits=splits,
        model=model,
        optimizer=build_optimizer(
            model,
            config.optimizer,
            models.no_weight_decay(model),
            config.peak_lr,
            projector=None if teaching is None else teaching.projector,
        ),
        schedule=Schedule.of(config, sampler.steps_per_epoch),
        sampler=sampler,
        transform=TrainTransform(config.augment, model.spec.input),
        scaler=torch.amp.GradScaler(choices.device.split(":")[0], enabled=choices.precision == "fp16"),
        ema=None if config.ema.decay is None else Ema(model, config.ema.decay),
        macs=numbers["macs"],
        parameters=numbers["parameters"],
        teaching=teaching,
    )


def _pretrained(config: RunConfig, spec: models.ModelSpec, overrides: dict[str, Any]) -> Classifier:
    """Start from `config.weights`, with the run's classes and size, and the input contract of the weights.

    overrides: fields of the contract that the configuration sets; they win.
    """
    assert config.weights is not None
    arguments = {k: v for k, v in config.model.arguments.items() if k not in ("num_classes", "image_size")}
    model = load(
        config.weights,
        name=config.model.name,
        num_classes=len(spec.classes or ()),
        image_size=(spec.input.height, spec.input.width),
        arguments=arguments,
        class_names=spec.classes,
        position_resize=config.position_resize,
    )
    model.spec = replace(model.spec, input=replace(model.spec.input, **overrides))
    return model


def snapshot(trainer: Trainer) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Return (tensor groups, JSON documents) from which `restore` continues to the same bit.

    No random-number state is needed: order, augmentation and mixing are functions of (data_seed, position),
    and every step seeds the generator of drop path from (seed, step).
    """
    optimizer_tensors, optimizer_options = trainer.optimizer.state()
    tensors = {"model": dict(trainer.model.state_dict()), "optimizer": optimizer_tensors}
    if trainer.ema is not None:
        tensors["ema"] = dict(trainer.ema.model.state_dict())
    if trainer.teaching is not None and trainer.teaching.projector is not None:
        tensors["projector"] = dict(trainer.teaching.projector.state_dict())
    state = {
        "step": trainer.step,
        "epoch": trainer.step / trainer.sampler.steps_per_epoch,
        "total_steps": trainer.total_steps,
        "evaluated_step": trainer.evaluated_step,
        "images_seen": trainer.images_seen,
        "seconds": trainer.seconds,
        "best": None if trainer.best is None else vars(trainer.best),
        "ema_updates": 0 if trainer.ema is None else trainer.ema.updates,
        "optimizer": optimizer_options,
        "teaching": None if trainer.teaching is None else trainer.teaching.state(),
        "scaler": trainer.scaler.state_dict(),
        "choices": with_forms(trainer.choices, trainer.model).to_json(),
        "data_fingerprint": data_fingerprint(trainer.splits),
        "data_pixels": data_pixels(trainer),
        "data_state": data_state(trainer.splits),
        "classes": list(trainer.splits.classes),
        "config": trainer.config.model_dump(mode="json"),
    }
    config = {"format": "isopatch-model-1", "model": trainer.spec.to_json(), "data": data_record(trainer)}
    documents = {"state": state, "config": config}
    return tensors, documents


def recorded_choices(checkpoint: Checkpoint) -> Choices:
    """The choices a run made when it started."""
    return Choices(**checkpoint.document("state")["choices"])


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put the trainer where the checkpoint left it; refuse another configuration or other data."""
    state = checkpoint.document("state")
    # Validated: a run begun before a setting existed has its default.
    started = RunConfig.model_validate(state["config"]).model_dump(mode="json")
    now = trainer.config.model_dump(mode="json")
    differences = config_differences(started, now, moved=PLACES)  # what lies there is compared below
    if differences:
        raise UsageError(
            f"the run in {checkpoint.folder.parent.parent} was started differently: "
            f"{'; '.join(differences[:5])}; "
            f"resume without these options, or start afresh with another --out"
        )
    if state["data_fingerprint"] != data_fingerprint(trainer.splits):
        raise UsageError(
            f"the training or validation data in {trainer.config.data.source} changed since the run started "
            f"(files, sizes or labels differ); restore it, or start afresh with another --out"
        )
    pixels = data_pixels(trainer)
    before = state["data_pixels"]
    if any(None not in (before[role], now) and before[role] != now for role, now in pixels.items()):
        raise UsageError(
            f"pictures in {trainer.config.data.source} changed since the run started, their names and sizes "
            f"did not; restore them, or start afresh with another --out"
        )
    if (pixels["train"] is None or before["train"] is None) and state["data_state"] != data_state(
        trainer.splits
    ):
        log.warning(
            "files in %s were written anew since the run started (names, sizes and labels are the same); the "
            "resumed run is exact if the pictures are the same",
            trainer.config.data.source,
        )
    if tuple(state["classes"]) != trainer.splits.classes:
        raise IsopatchError(f"classes changed from {state['classes']} to {list(trainer.splits.classes)}")
    if trainer.teaching is not None and state.get("teaching"):  # absent from a run begun before it was kept
        trainer.teaching.restore(state["teaching"])
    restore_in_place(trainer.model, checkpoint.tensors("model"))
    trainer.optimizer.restore(checkpoint.tensors("optimizer"), state["optimizer"])
    if trainer.ema is not None:
        trainer.ema.restore(checkpoint.tensors("ema"), state["ema_updates"])
    if trainer.teaching is not None and trainer.teaching.projector is not None:
        restore_in_place(trainer.teaching.projector, checkpoint.tensors("projector"))
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.step = state["step"]
    trainer.evaluated_step = state["evaluated_step"]
    trainer.images_seen = state["images_seen"]
    trainer.seconds = state["seconds"]
    trainer.best = None if state["best"] is None else Best(**state["best"])


def data_record(trainer: Trainer) -> dict[str, Any]:
    """What travels with the weights about their data: how it was cut, so that it can be cut so again."""
    data = trainer.config.data
    return {
        "source": data.source,
        "val_fraction": data.val_fraction,
        "split_seed": data.split_seed,
        "fraction": data.fraction,
        "fraction_seed": data.fraction_seed,
        "max_pixels": data.max_pixels,
        "bad": data.bad,
        "fingerprint": data_fingerprint(trainer.splits)["train"],
    }


def data_fingerprint(splits: DataSplits) -> dict[str, str | None]:
    """The fingerprints of what the weights depend on: training pictures, and the ones that select."""
    return {
        "train": None if splits.train is None else splits.train.fingerprint,
        "val": None if splits.val is None else splits.val.fingerprint,
    }


def data_state(splits: DataSplits) -> dict[str, str | None]:
    """What changes when a file was written anew, even with what it held before."""
    return {
        "train": None if splits.train is None else state_of(splits.train),
        "val": None if splits.val is None else state_of(splits.val),
    }


def data_pixels(trainer: Trainer) -> dict[str, str | None]:
    """Digests of the pictures themselves, where they are kept in memory."""
    sources = {"train": trainer.train, "val": trainer.val}
    return {role: s.digest() if isinstance(s, KeptSource) else None for role, s in sources.items()}


def config_differences(
    before: dict[str, Any], now: dict[str, Any], prefix: str = "", *, moved: Collection[str] = ()
) -> list[str]:
    """Lines `key was before, now ...` for settings that change the result.

    moved: keys of places that may differ where both are given, because what lies there is looked at.
    """
    lines = []
    for key in sorted(before.keys() | now.keys()):
        path = f"{prefix}{key}"
        old, new = before.get(key), now.get(key)
        if path in HARMLESS or old == new or (path in moved and None not in (old, new)):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines += config_differences(old, new, f"{path}.", moved=moved)
        else:
            lines.append(f"{path} was {old!r}, now {new!r}")
    return lines
