"""Recipes `vit-finetune`, `vit-augreg-*` and `vit-s16-simple`: Google's ViTs.

vit-finetune: pretrained weights to another data set at 384 pixels
    source    google-research/vision_transformer vit_jax/configs/common.py; arXiv 2010.11929 Table 4
    command   isopatch train --recipe vit-finetune --model vit_base_patch16_224 --weights FILE --data cifar10
    expected  ViT-B/16 from ImageNet-21k: CIFAR-10 98.95, CIFAR-100 91.67, ImageNet 83.97 (paper Table 5)
    hardware  TPUv3
    hours     not published
    The paper counts steps, a run here counts epochs: 102 epochs are the 10,000 steps of 512 on CIFAR's
    50,000 pictures. ImageNet (20,000 steps): --epochs 8. Pets and Flowers (500 steps): --epochs 70 and 125,
    and --schedule.warmup_steps 100. The rate is best searched over 0.001, 0.003, 0.01, 0.03.

vit-augreg-light1 ... vit-augreg-strong2 (vit-augreg is medium1): ImageNet-1k from scratch, 300 epochs
    source    google-research/big_vision configs/vit_i1k.py; arXiv 2106.10270
    command   isopatch train --recipe vit-augreg-medium2 --model vit_base_patch16_224 --data IMAGENET
    expected  ViT-B/16 about 79 (timm's weights of this recipe, fine-tuned at 224: 79.15)
    hardware  TPUv3
    hours     not published
    Their choice by size: Ti/16 light1, S/32 light2, S/16 and larger medium2.

vit-s16-simple: SimpleViT, ImageNet-1k from scratch, 90 epochs
    source    google-research/big_vision configs/vit_s16_i1k.py; arXiv 2205.01580
    command   isopatch train --recipe vit-s16-simple --model vit_small_patch16_224 --data IMAGENET
    expected  76.5 (300 epochs: 80)
    hardware  TPUv3-8
    hours     6 to 7

RandAugment in timm's notation: theirs draws 2 of 16 operations, applies each always (p1) at strength M of 10
without noise, with the operations' original, not increasing, strengths; M above 10 needs timm's ceiling
raised (mmax). So randaug(2, 15) is `rand-m15-n2-p1-mmax15`. timm lacks their 16th operation, Cutout, and
moves by a share of the picture where theirs moves by 100 pixels (0.45 of 224).

What to know:
- Their decay is not multiplied by the rate but by the same schedule, so AdamW's weight decay here is
  theirs / peak rate: 1e-4 / 1e-3 = 0.1, exact over the whole run. Only kernels are decayed.
- Their moments (and the momentum of vit-finetune) are kept in bfloat16, ours in float32.
- `accumulate` is ours (vit-finetune: theirs), so that a batch fits; a micro-batch is one mixing unit.
- Pictures: theirs are resized by bilinear sampling without, ours with antialiasing.
- vit-augreg has a sigmoid cross entropy from a head bias of -6.9. Theirs is summed over the classes and keeps
  the mixed targets; ours is DeiT III's: the mean, every class of a mix a full target. AdamW does not see the
  scale, but the clipping does, and hardly acts here. A later version of their file has softmax:
  --objective.loss cross-entropy --model.head_bias 0.
- Their cosine starts when the warm-up ends, ours at the first step (as timm's).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isopatch.models import spec
from isopatch.recipes.fit import HALF, Notes, with_arguments
from isopatch.training.config import (
    AugmentConfig,
    DataConfig,
    InputConfig,
    MixConfig,
    ModelNode,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)

EVAL_224 = InputConfig(resize="shorter", interpolation="bilinear", crop_fraction=0.875, mean=HALF, std=HALF)

# Flax's GELU is the tanh form; dense and tanh before the classifier; Xavier kernels and a zero head.
GOOGLE_VIT = {"activation": "gelu_tanh", "pre_logits": True, "init": "jax"}

LEVELS = {  # name: RandAugment strength, alpha of mixup (big_vision configs/vit_i1k.py)
    "light1": (0, 0.0),
    "light2": (10, 0.2),
    "medium1": (15, 0.2),
    "medium2": (15, 0.5),
    "strong1": (20, 0.5),
    "strong2": (20, 0.8),
}


def inception_crop(rand_augment: str | None) -> AugmentConfig:
    """Return Google's training pictures: a crop of 5 to 100 % of the area, bilinear, a flip, RandAugment."""
    return AugmentConfig(
        crop="random-resized",
        scale=(0.05, 1.0),
        ratio=(3 / 4, 4 / 3),
        interpolation="bilinear",
        flip=0.5,
        rand_augment=rand_augment,
    )


def google_rand_augment(strength: int) -> str:
    """Return big_vision's randaug(2, strength) in timm's notation."""
    ceiling = f"-mmax{strength}" if strength > 10 else ""
    return f"rand-m{strength}-n2-p1{ceiling}"


def _google_vit(model: ModelNode, recipe: str, notes: Notes, more: Mapping[str, Any]) -> ModelNode:
    """Return a ViT as Google trains it; another architecture stays as it is."""
    if spec.resolve(model.name).architecture == "vit":
        return with_arguments(model, recipe, notes, {**GOOGLE_VIT, **more})
    notes.append(f"recipe {recipe} also changes parts of a ViT, which {model.name} is not: its parts stay")
    return model


def vit_finetune(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """Fine-tune a pretrained ViT at 384 pixels: SGD with momentum, no decay, cosine."""
    return RunConfig(
        recipe="vit-finetune",
        model=with_arguments(model, "vit-finetune", notes, {"image_size": 384}),
        data=DataConfig(source=source),
        input=InputConfig(resize="squash", interpolation="bilinear", crop_fraction=1.0, mean=HALF, std=HALF),
        augment=inception_crop(None),
        objective=ObjectiveConfig(loss="cross-entropy"),
        optimizer=OptimizerConfig(name="sgd", lr=0.03, momentum=0.9, weight_decay=0.0, clip_norm=1.0),
        schedule=ScheduleConfig(kind="cosine", unit="step", warmup_steps=500),
        batch_size=512,
        accumulate=8,
        epochs=102,
    )


def vit_augreg(model: ModelNode, source: str, notes: Notes, *, level: str = "medium1") -> RunConfig:
    """Train a ViT on ImageNet from scratch, 300 epochs, with one of AugReg's six levels of augmentation."""
    strength, alpha = LEVELS[level]
    recipe = f"vit-augreg-{level}"
    return RunConfig(
        recipe=recipe,
        model=_google_vit(model, recipe, notes, {"head_bias": -6.9}),
        data=DataConfig(source=source),
        input=EVAL_224,
        augment=inception_crop(google_rand_augment(strength)),
        mix=MixConfig(mixup=alpha),
        objective=ObjectiveConfig(loss="binary-cross-entropy"),
        optimizer=OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(kind="cosine", unit="step", warmup_steps=10_000),
        batch_size=4096,
        accumulate=32,
        epochs=300,
    )


def vit_s16_simple(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """SimpleViT: average pooling, sin-cos positions, 90 epochs, softmax."""
    wanted = {"class_token": False, "pool": "norm-mean", "position": "sincos-2d"}
    return RunConfig(
        recipe="vit-s16-simple",
        model=_google_vit(model, "vit-s16-simple", notes, wanted),
        data=DataConfig(source=source),
        input=EVAL_224,
        augment=inception_crop(google_rand_augment(10)),
        mix=MixConfig(mixup=0.2),
        objective=ObjectiveConfig(loss="cross-entropy"),
        optimizer=OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(kind="cosine", unit="step", warmup_steps=10_000),
        batch_size=1024,
        accumulate=8,
        epochs=90,
    )
