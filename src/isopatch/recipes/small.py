"""Recipes `small` and `finetune`: ours, for what most people have.

small: any model from scratch, on small data, on a small machine
    source    ours; rates by architecture (ConvMixer tolerates and wants five times a ViT's)
    command   isopatch train --data FOLDER
    expected  see results/
    hardware  2 CPU cores
    hours     minutes

finetune: pretrained weights to another data set, class count or resolution
    source    ours
    command   isopatch train --data FOLDER --model vit_small_patch16_224 --weights WEIGHTS
    expected  depends on the weights
    hardware  2 CPU cores upwards
    hours     minutes to hours

What to know:
- AdamW with a cosine set before every step, a short warm-up, gradient norm clipped at 1, smoothing 0.1.
- Light augmentation that needs neither timm nor torchvision: a crop that fits the pictures' size, and a
  flip. Digits are not flipped: a mirrored 2 is no digit.
- Pictures up to 64 pixels are shifted by an eighth of their size, larger ones cropped to 35 to 100 % of their
  area.
"""

from __future__ import annotations

from isopatch.models import spec
from isopatch.recipes.fit import Notes, arguments_of
from isopatch.training.config import (
    AugmentConfig,
    DataConfig,
    ModelNode,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)

SMALL_PICTURE = 64  # pixels: below, a rescaled crop blurs more than it teaches


def picture_side(model: ModelNode) -> int:
    """Return the shorter side, in pixels, of the pictures the model takes."""
    size = arguments_of(model).get("image_size", 224)
    return int(min(size)) if isinstance(size, list | tuple) else int(size)


def light_augmentation(model: ModelNode, source: str) -> AugmentConfig:
    """Return a crop that fits the pictures' size and a flip, except for digits."""
    side = picture_side(model)
    flip = 0.0 if source == "digits" else 0.5
    if side <= SMALL_PICTURE:
        return AugmentConfig(crop="padded", padding=max(1, side // 8), padding_mode="zero", flip=flip)
    return AugmentConfig(crop="random-resized", scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3), flip=flip)


def small(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """Train any model from scratch on small data: AdamW, cosine, light augmentation."""
    convolutional = spec.resolve(model.name).architecture == "convmixer"
    return RunConfig(
        recipe="small",
        model=model,
        data=DataConfig(source=source),
        augment=light_augmentation(model, source),
        objective=ObjectiveConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(
            name="adamw", lr=5e-3 if convolutional else 1e-3, weight_decay=0.05, clip_norm=1.0
        ),
        schedule=ScheduleConfig(kind="cosine", unit="step", warmup_share=0.07, min_lr=0.0),
        batch_size=128,
        epochs=30,
    )


def finetune(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """Adapt pretrained weights: AdamW at a low rate, cosine, light augmentation."""
    convolutional = spec.resolve(model.name).architecture == "convmixer"
    return RunConfig(
        recipe="finetune",
        model=model,
        data=DataConfig(source=source),
        augment=light_augmentation(model, source),
        objective=ObjectiveConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(
            name="adamw", lr=5e-4 if convolutional else 5e-5, weight_decay=0.05, clip_norm=1.0
        ),
        schedule=ScheduleConfig(kind="cosine", unit="step", warmup_share=0.1, min_lr=0.0),
        batch_size=64,
        epochs=10,
    )
