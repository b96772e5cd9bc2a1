"""What runs are made of and cost: pictures, parameters, multiply-adds, steps, and their speed, measured."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch

from isopatch.data.open import open_data
from isopatch.data.sampler import EpochSampler
from isopatch.data.source import DataSplits
from isopatch.errors import UsageError
from isopatch.models.describe import describe_spec
from isopatch.models.spec import ModelSpec, build, make_spec
from isopatch.study.references import referred
from isopatch.study.schema import Equal
from isopatch.training.config import DataConfig, RunConfig
from isopatch.training.plan import plan_run
from isopatch.training.schedule import Schedule

LENGTH_TOLERANCE = 0.02  # whole steps: how far a run may be from the amount that all are to get


class Facts(NamedTuple):
    """What is known of a run without training it."""

    train_images: int
    fingerprint: str
    parameters: int
    macs: int
    steps_per_epoch: int


class Costs:
    """Looks things up once: data sets opened, models counted."""

    def __init__(self) -> None:
        self._data: dict[str, DataSplits] = {}
        self._models: dict[str, tuple[int, int]] = {}

    def splits(self, data: DataConfig) -> DataSplits:
        """Open the data of a run."""
        given = data.model_dump(include={"val_fraction", "split_seed", "bad", "max_pixels", "fraction"})
        if data.fraction < 1:
            given["fraction_seed"] = data.fraction_seed
        key = json.dumps([data.source, given])
        if key not in self._data:
            self._data[key] = open_data(data.source, **given)
        return self._data[key]

    def facts(self, config: RunConfig) -> Facts:
        """Count; raises UsageError where data, batch and model do not fit together."""
        splits = self.splits(config.data)
        if splits.train is None:
            raise UsageError(f"data.source: {config.data.source} has no training split")
        sampler = EpochSampler(
            len(splits.train),
            global_batch=config.batch_size,
            data_seed=config.order_seed,
            repeats=config.augment.repeats,
        )
        parameters, macs = self._counted(self._spec(config, splits))
        return Facts(len(splits.train), splits.train.fingerprint, parameters, macs, sampler.steps_per_epoch)

    def parameters(self, config: RunConfig) -> int:
        """Parameters alone, counted on the meta device."""
        with torch.device("meta"):
            model = build(self._spec(config, self.splits(config.data)))
        return sum(parameter.numel() for parameter in model.parameters())

    def _spec(self, config: RunConfig, splits: DataSplits) -> ModelSpec:
        arguments = {**config.model.arguments, "num_classes": len(splits.classes)}
        overrides = {key: value for key, value in config.input.model_dump().items() if value is not None}
        return make_spec(config.model.name, arguments, input_overrides=overrides, classes=splits.classes)

    def _counted(self, spec: ModelSpec) -> tuple[int, int]:
        key = json.dumps(spec.to_json(), sort_keys=True)
        if key not in self._models:
            numbers = describe_spec(spec)
            self._models[key] = (numbers["parameters"], numbers["macs"])
        return self._models[key]

    def speed(self, config: RunConfig) -> float:
        """Measure training images/s over a few steps, from fresh weights and without a teacher."""
        changes: dict[str, Any] = {}
        if config.weights is not None and referred(config.weights):
            changes["weights"] = None
        if config.distill.active:
            changes["distill"] = type(config.distill)(views=config.distill.views)
        threads = torch.get_num_threads()
        try:
            with torch.random.fork_rng():
                document = plan_run(config.model_copy(update=changes), self.splits(config.data))
        finally:
            torch.set_num_threads(threads)
        return float(document["images_per_second"])


def steps_of(equal: Equal, config: RunConfig, facts: Facts, speed: float | None) -> int | None:
    """Return how many steps give a run the study's amount; None where epochs say it.

    speed: images/s, for seconds. Raises UsageError where whole steps miss the amount by more than 2 %, and
    for seconds of a run that is taught: its speed is measured without the teacher.
    """
    batch = config.batch_size
    per_step = {"images": batch, "training_flops": 6 * facts.macs * batch}
    if equal.kind == "epochs":
        return None
    if equal.kind == "seconds":
        if config.distill.teacher is not None:
            raise UsageError(
                f"equal.seconds: the speed is measured without {config.distill.teacher}, and asking it takes "
                f"time at every step: the run would last longer; hold images, epochs or training_flops equal"
            )
        assert speed is not None
        return max(1, round(equal.amount * speed / batch))
    exact = equal.amount / per_step[equal.kind]
    steps = max(1, round(exact))
    error = abs(steps / exact - 1)
    if error > LENGTH_TOLERANCE:
        raise UsageError(
            f"equal.{equal.kind}: {equal.amount:g} is {exact:.3g} steps of {batch} pictures; whole steps "
            f"miss it by {error:.1%}, more than {LENGTH_TOLERANCE:.0%}: give more of it, or a smaller "
            f"batch_size"
        )
    return steps


def check_schedule(config: RunConfig, facts: Facts) -> None:
    """Raise UsageError where the run is all warm-up."""
    Schedule.of(config, facts.steps_per_epoch)
