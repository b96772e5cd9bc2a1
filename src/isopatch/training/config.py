"""The run configuration: typed, frozen, every unknown key refused. Imports no torch.

One run is one `RunConfig`. What a session decides (output folder, resume, time limit, progress) is not in
it: those do not change the weights. `accumulate` and `threads` are, because they do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from isopatch.training.distill_config import DistillConfig
from isopatch.training.node import Fraction, NonNegative, Positive
from isopatch.training.node import Node as Node

# Keys that change nothing about the weights a run ends with: they may differ between start and resume.
# Where the data lies is one of them: its fingerprint decides whether it is the same.
HARMLESS = ("data.source", "data.workers", "data.memory_limit_mb", "checkpoint", "eval.batch_size")

Momentum = Annotated[float, Field(ge=0, lt=1)]


class ModelNode(Node):
    """Which model: a name of `isopatch models list` and arguments of its architecture function.

    The arguments are checked in a second stage, against the architecture function's signature
    (`isopatch.models.spec.check_arguments`), because that signature is their only schema.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything given beside `name`: keyword arguments of the architecture function."""
        return dict(self.model_extra or {})


class DataConfig(Node):
    """Where the pictures come from and how they are split and read."""

    source: str = "digits"
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="cut from train where the data has no validation split"
    )
    split_seed: int = Field(0, description="decides which pictures the cut takes")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of each class's training pictures used, after the cut; larger ones contain it"
    )
    fraction_seed: int = Field(0, description="decides which pictures the fraction takes")
    bad: Literal["fail", "skip"] = Field("fail", description="what an unreadable picture does")
    max_pixels: Positive = Field(50_000_000, description="larger pictures are refused from their header")
    memory_limit_mb: NonNegative = Field(2048.0, description="decoded once and kept below this; 0: never")
    decode_short_side: Positive | None = Field(
        None, description="decode training JPEGs at 1/2, 1/4 or 1/8 while the shorter side keeps this; faster"
    )
    workers: Annotated[int, Field(ge=0)] = Field(0, description="loader processes; no effect on results")


class InputConfig(Node):
    """Overrides of the model's input contract; None keeps the model's own value."""

    resize: Literal["shorter", "squash"] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class AugmentConfig(Node):
    """Random changes of one training picture, in the order of the fields."""

    crop: Literal["random-resized", "padded", "simple-random", "none"] = "random-resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="distortion of a crop's aspect")
    padding: Annotated[int, Field(ge=0)] = Field(4, description="pixels, for crop: padded")
    padding_mode: Literal["zero", "reflect"] = "zero"
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    flip: Fraction = Field(0.5, description="probability of a horizontal flip")
    rand_augment: str | None = Field(None, description="timm's notation, e.g. rand-m9-mstd0.5-inc1")
    torchvision_ops: Annotated[int, Field(ge=0)] = Field(0, description="torchvision RandAugment: num_ops")
    torchvision_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    three_augment: bool = Field(False, description="one of grey, solarise, blur (DeiT III)")
    color_jitter: NonNegative = 0.0
    erasing: Fraction = Field(0.0, description="probability of random erasing, after normalisation")
    erasing_mode: Literal["pixel", "zero"] = "pixel"
    repeats: Positive = Field(1, description="repeated augmentation: copies of a picture per batch")

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if sum((self.rand_augment is not None, self.torchvision_ops > 0, self.three_augment)) > 1:
            raise ValueError("rand_augment, torchvision_ops and three_augment exclude each other; keep one")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {self.scale}: give two areas with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {self.ratio}: give two aspect ratios with 0 < low <= high")
        return self


class MixConfig(Node):
    """Mixup and cutmix, drawn once per micro-batch (the mixing unit) from (data_seed, step)."""

    mixup: NonNegative = Field(0.0, description="alpha of the Beta distribution; 0: off")
    cutmix: NonNegative = Field(0.0, description="alpha of the Beta distribution; 0: off")
    probability: Fraction = 1.0
    switch_probability: Fraction = Field(0.5, description="share of cutmix where both are on")

    @property
    def active(self) -> bool:
        """Whether any batch may be mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


class ObjectiveConfig(Node):
    """What is minimised."""

    loss: Literal["cross-entropy", "binary-cross-entropy"] = "cross-entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _no_smoothed_positives(self) -> Self:
        if self.loss == "binary-cross-entropy" and self.label_smoothing > 0:
            raise ValueError(
                "binary-cross-entropy takes every class in a target as fully present, which smoothing "
                "makes all of them; set objective.label_smoothing 0"
            )
        return self


class OptimizerConfig(Node):
    """Optimiser, decay groups and clipping."""

    name: Literal["adamw", "sgd", "lamb"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    lr_base_batch: Positive | None = Field(None, description="lr is for this batch size, scaled linearly")
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.05
    decay: Literal["architecture", "all"] = Field(
        "architecture", description="architecture: its no-decay set, biases and 1-D tensors are spared"
    )
    decay_distillation_token: bool = Field(False, description="as DeiT's own runs did (timm 0.3.2)")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="global gradient norm")


class ScheduleConfig(Node):
    """Learning rate over time. `warmup_lr` and `min_lr` are absolute, never scaled with the batch."""

    kind: Literal["cosine", "linear", "piecewise-linear", "constant"] = "cosine"
    unit: Literal["step", "epoch"] = "step"
    warmup_epochs: NonNegative = 0.0
    warmup_steps: Positive | None = Field(None, description="instead of warmup_epochs")
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="instead: part of the whole run"
    )
    warmup_lr: NonNegative = 0.0
    min_lr: NonNegative = 0.0
    deit_lag: bool = Field(False, description="DeiT's original: each epoch uses the previous one's rate")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [n for n in ("warmup_epochs", "warmup_steps", "warmup_share") if getattr(self, n)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        if self.kind == "piecewise-linear" and given:
            raise ValueError(f"piecewise-linear rises by itself; set {given[0]} 0")
        if self.deit_lag and self.unit != "epoch":
            raise ValueError("deit_lag is a lag of whole epochs; set schedule.unit epoch")
        return self


class EmaConfig(Node):
    """Exponential moving average of the weights (float buffers averaged too, integer ones copied)."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="None: no average kept")


class CheckpointConfig(Node):
    """When to save. A checkpoint is also written at the end and when asked to stop."""

    every_steps: Positive | None = Field(None, description="None: by time alone")
    every_minutes: Annotated[float, Field(gt=0)] | None = 5.0
    keep: Annotated[int, Field(ge=2)] = Field(2, description="verified checkpoints kept")


class EvalConfig(Node):
    """Validation during the run."""

    every_epochs: Positive = 1
    batch_size: Positive = 256


class RunConfig(Node):
    """One training, complete: the same configuration and data give the same weights on one machine.

    batch_size: pictures per optimiser step, over all accumulation steps: the recipe's global batch.
    accumulate: the step is done in this many micro-batches; mixing and BatchNorm see a micro-batch.
    data_seed: order, augmentation and mixing; None takes `seed`.
    precision: "auto" is bfloat16 autocast where the hardware has fast bfloat16, float32 elsewhere.
    kernels: "auto" takes this package's own where they run, "plain" is PyTorch alone.
    steps: the run's length in optimiser steps; None: `epochs` says it. Schedules stretch over the whole run
        either way, and what counts epochs (warm-up, validation) still counts those of the data.
    """

    model: ModelNode
    recipe: str | None = None
    weights: str | None = Field(None, description="start from these weights (a run, file or hub id)")
    position_resize: Literal["deit", "timm", "hf", "jax"] = Field(
        "deit", description="how positions of weights of another size are resized"
    )
    data: DataConfig = DataConfig()
    input: InputConfig = InputConfig()
    augment: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    distill: DistillConfig = DistillConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    batch_size: Positive = 128
    accumulate: Positive = 1
    epochs: Positive = 30
    steps: Positive | None = Field(None, description="length in optimiser steps, instead of epochs")
    seed: Annotated[int, Field(ge=0)] = 0
    data_seed: Annotated[int, Field(ge=0)] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto, cpu, cuda or cuda:N"
    )
    kernels: Literal["auto", "plain", "native", "triton"] = Field(
        "auto", description="native: this package's on a CPU; triton: on a GPU; plain: PyTorch's"
    )
    threads: Positive | None = Field(None, description="CPU threads; None: all cores, one for tiny models")
    activation_checkpointing: bool = Field(False, description="recompute each block in the backward pass")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        if self.mix.active and self.micro_batch_size % 2:
            raise ValueError(
                f"mixing pairs a micro-batch with itself reversed and needs an even one, not "
                f"{self.micro_batch_size} (batch_size / accumulate)"
            )
        in_epochs = self.steps is None and self.schedule.kind != "constant"  # else seen when the data is
        if in_epochs and self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} leaves nothing of {self.epochs} "
                f"epochs; give more epochs or a shorter warm-up"
            )
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    @property
    def micro_batch_size(self) -> int:
        """Pictures per forward pass: the unit of mixing and of BatchNorm's statistics."""
        return self.batch_size // self.accumulate

    @property
    def order_seed(self) -> int:
        """The seed of order, augmentation and mixing."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def peak_lr(self) -> float:
        """The learning rate at the top of the schedule, after linear scaling with the batch."""
        base = self.optimizer.lr_base_batch
        return self.optimizer.lr * (self.batch_size / base if base else 1.0)
