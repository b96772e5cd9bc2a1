"""Every recipe builds a run and takes an optimiser step on pictures."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.data.loader import TrainLoader
from isopatch.data.source import DataSplits
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.recipes.resolve import resolve
from isopatch.recipes.table import RECIPES
from isopatch.training.setup import prepare
from isopatch.training.step import train_step

SIZES = {
    "vit": {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "image_size": 32},
    "convmixer": {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 4, "image_size": 32},
}


class Noise:
    """Sixteen random pictures of two classes."""

    classes = ("a", "b")
    labels = np.arange(16) % 2
    fingerprint = "noise"

    def __len__(self):
        return 16

    def name(self, index):
        return f"noise:{index}"

    def read(self, index):
        rng = np.random.default_rng(index)
        return Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))


def untrained_teacher(folder):
    save_model(folder, build(make_spec("convmixer", SIZES["convmixer"], classes=("a", "b"))), {})
    return str(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("recipe", [r.name for r in RECIPES])
def test_every_recipe_takes_a_step(recipe, tmp_path):
    model = "convmixer" if recipe.startswith("convmixer") else "vit"
    overrides = [(f"model.{key}", str(value)) for key, value in SIZES[model].items()]
    overrides += [("batch_size", "8"), ("accumulate", "1"), ("threads", "1"), ("precision", "fp32")]
    if recipe == "patient":  # no teacher is trained here
        overrides.append(("distill.teacher", untrained_teacher(tmp_path)))
    config = resolve(model=model, recipe=recipe, data="digits", overrides=overrides)
    trainer = prepare(config, DataSplits(("a", "b"), Noise(), None, None))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    last = trainer.total_steps - 1
    middle = min(2 * trainer.sampler.steps_per_epoch, last)  # warm-up may begin at a rate of 0
    with TrainLoader(
        trainer.train,
        trainer.transform,
        trainer.sampler,
        workers=0,
        data_seed=0,
        start=middle,
        stop=middle + 1,
    ) as loader:
        for batch in loader:
            result = train_step(trainer, batch)
    assert math.isfinite(result.loss) and result.lr > 0
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert any(moved)
    assert trainer.schedule.lr(last) >= 0
