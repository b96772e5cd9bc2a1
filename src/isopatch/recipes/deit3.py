"""Recipes `deit3` and `deit3-finetune`: Touvron et al. 2022, arXiv 2204.07118.

deit3: from scratch, 800 epochs
    source    facebookresearch/deit README_revenge.md, models_v2.py, augment.py
    command   isopatch train --recipe deit3 --model deit3_small_patch16_224 --data IMAGENET
    expected  S 81.4 at 224; B and L are trained at 192, H at 160, then fine-tuned at 224
    hardware  S, B: 8 GPUs of 256 pictures; L, H: 32 of 64
    hours     not published

deit3-finetune: the models above at 224 (B, L, H) or 384 (`--model.image_size 384`; S, B, L), 20 epochs
    source    README_revenge.md
    command   isopatch train --recipe deit3-finetune --model deit3_base_patch16_224 --weights RUN
              --data IMAGENET
    expected  at 224 B 83.8, L 84.9, H 85.2; at 384 S 83.4, B 85.0, L 85.8
    hardware  8 GPUs of 64 pictures (H: 16 of 32)
    hours     not published

What to know:
- Rates are absolute, not scaled with the batch (`--unscale-lr`).
- Drop path is the same in every block. Sizes go by the model's width; a width the paper does not have takes
  the values of the nearest, and says so.
- Their optimiser is NVIDIA's FusedLAMB, which clips the global gradient norm at 1.0 by itself: so does this.
- Binary cross entropy with every class that took part in the mix as a full target.
- The printed commands of README_revenge.md do not run as they stand (an undefined --nb-classes; in the S
  command two flags without a space between them); these are the values they mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from isopatch.recipes.deit import EMA, MIX, SMOOTHED
from isopatch.recipes.fit import IMAGENET_MEAN, IMAGENET_STD, Notes, arguments_of, with_arguments
from isopatch.training.config import (
    AugmentConfig,
    DataConfig,
    InputConfig,
    ModelNode,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)

INPUT = InputConfig(
    resize="shorter", interpolation="bicubic", crop_fraction=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD
)


@dataclass(frozen=True)
class Size:
    """What README_revenge.md sets by model size."""

    lr: float
    image_size: int
    drop_path: float
    drop_path_224: float
    drop_path_384: float
    gpus: int  # one GPU's share of the batch is the mixing unit
    gpus_finetune: int


SIZES = {  # by width. Not published, so taken from the same row: S at 224, H at 384
    384: Size(4e-3, 224, 0.05, 0.05, 0.0, 8, 8),
    768: Size(3e-3, 192, 0.2, 0.2, 0.15, 8, 8),
    1024: Size(3e-3, 192, 0.45, 0.45, 0.4, 32, 8),
    1280: Size(3e-3, 160, 0.6, 0.55, 0.55, 32, 16),
}


def _size(model: ModelNode, recipe: str, notes: Notes) -> Size:
    width = arguments_of(model).get("dim")
    if not isinstance(width, int) or width < 1:
        width = 384
        notes.append(f"recipe {recipe} goes by the model's width; {model.name} has none: it takes those of S")
    nearest = min(SIZES, key=lambda known: abs(math.log(known / width)))
    if nearest != width:
        notes.append(f"recipe {recipe} has no published values for width {width}: takes those of {nearest}")
    return SIZES[nearest]


def deit3(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """DeiT III from scratch: 800 epochs of LAMB, binary cross entropy and 3-Augment."""
    size = _size(model, "deit3", notes)
    wanted = {
        "image_size": size.image_size,
        "drop_path": size.drop_path,
        "drop_path_schedule": "constant",
        "layer_scale": 1e-4,
    }
    return RunConfig(
        recipe="deit3",
        model=with_arguments(model, "deit3", notes, wanted),
        data=DataConfig(source=source),
        input=INPUT,
        augment=AugmentConfig(
            crop="random-resized",
            scale=(0.08, 1.0),
            interpolation="bicubic",
            flip=0.5,
            three_augment=True,
            color_jitter=0.3,
            erasing=0.0,
            repeats=3,
        ),
        mix=MIX,
        objective=ObjectiveConfig(loss="binary-cross-entropy", label_smoothing=0.0),
        optimizer=OptimizerConfig(name="lamb", lr=size.lr, eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        schedule=ScheduleConfig(kind="cosine", unit="epoch", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
        ema=EMA,
        batch_size=2048,
        accumulate=size.gpus,
        epochs=800,
    )


def deit3_finetune(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """Fine-tune a DeiT III at 224 or 384 pixels: 20 epochs of AdamW at 1e-5."""
    size = _size(model, "deit3-finetune", notes)
    image_size = model.arguments.get("image_size", 224)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    large = height * width > 300**2
    wanted = {
        "image_size": image_size,
        "drop_path": size.drop_path_384 if large else size.drop_path_224,
        "drop_path_schedule": "constant",
    }
    return RunConfig(
        recipe="deit3-finetune",
        model=with_arguments(model, "deit3-finetune", notes, wanted),
        data=DataConfig(source=source),
        input=INPUT,
        augment=AugmentConfig(
            crop="random-resized",
            scale=(0.08, 1.0),
            interpolation="bicubic",
            flip=0.5,
            rand_augment="rand-m9-mstd0.5-inc1",
            erasing=0.0,
            repeats=1,
        ),
        mix=MIX,
        objective=SMOOTHED,
        optimizer=OptimizerConfig(name="adamw", lr=1e-5, eps=1e-8, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", unit="epoch", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
        ema=EMA,
        batch_size=512,
        accumulate=size.gpus_finetune,
        epochs=20,
    )
