"""Every recipe has its paper's values and fits models it was not written for."""

from __future__ import annotations

from typing import Any

import pytest

from isopatch.errors import UsageError
from isopatch.models import spec
from isopatch.recipes.table import RECIPES, find_recipe, recipe_help
from isopatch.recipes.vit import LEVELS
from isopatch.training.config import ModelNode, RunConfig

DEIT_AUGMENT = {
    "crop": "random-resized",
    "scale": (0.08, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.0,
    "erasing": 0.25,
    "erasing_mode": "pixel",
    "repeats": 3,
}

# Published values: facebookresearch/deit, locuslab/convmixer, convmixer-cifar10, google-research/big_vision,
# vision_transformer. A model of the recipe's own paper; peak_lr is after scaling with the batch.
VALUES: dict[tuple[str, str], dict[str, Any]] = {
    ("deit", "deit_small_patch16_224"): {
        "epochs": 300,
        "batch_size": 1024,
        "micro_batch_size": 64,
        "peak_lr": 1e-3,
        "optimizer": {"name": "adamw", "eps": 1e-8, "weight_decay": 0.05, "clip_norm": None},
        "schedule": {
            "kind": "cosine",
            "unit": "epoch",
            "warmup_epochs": 5,
            "warmup_lr": 1e-6,
            "min_lr": 1e-5,
            "deit_lag": False,
        },
        "mix": {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch_probability": 0.5},
        "objective": {"loss": "cross-entropy", "label_smoothing": 0.1},
        "augment": DEIT_AUGMENT,
        "ema": {"decay": 0.99996},
        "input": {"crop_fraction": 0.875, "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406)},
        "arguments": {"drop_path": 0.1},
    },
    ("deit-384", "deit_base_patch16_224"): {
        "epochs": 30,
        "batch_size": 512,
        "micro_batch_size": 32,
        "peak_lr": 5e-6,
        "optimizer": {"weight_decay": 1e-8},
        "schedule": {"min_lr": 5e-6, "warmup_lr": 1e-6, "warmup_epochs": 5},
        "augment": DEIT_AUGMENT,
        "arguments": {"image_size": 384, "drop_path": 0.0},
    },
    ("deit3", "deit3_small_patch16_224"): {
        "epochs": 800,
        "batch_size": 2048,
        "peak_lr": 4e-3,
        "optimizer": {"name": "lamb", "weight_decay": 0.05},
        "objective": {"loss": "binary-cross-entropy", "label_smoothing": 0.0},
        "augment": {"three_augment": True, "color_jitter": 0.3, "erasing": 0.0, "repeats": 3},
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "input": {"crop_fraction": 1.0},
        "arguments": {
            "image_size": 224,
            "drop_path": 0.05,
            "drop_path_schedule": "constant",
            "layer_scale": 1e-4,
        },
    },
    ("deit3", "deit3_base_patch16_224"): {
        "peak_lr": 3e-3,
        "arguments": {"image_size": 192, "drop_path": 0.2},
    },
    ("deit3", "deit3_large_patch16_224"): {
        "peak_lr": 3e-3,
        "arguments": {"image_size": 192, "drop_path": 0.45},
    },
    ("deit3", "deit3_huge_patch14_224"): {"peak_lr": 3e-3, "arguments": {"drop_path": 0.6}},
    ("deit3-finetune", "deit3_huge_patch14_224"): {
        "micro_batch_size": 32,
        "epochs": 20,
        "batch_size": 512,
        "peak_lr": 1e-5,
        "optimizer": {"name": "adamw", "weight_decay": 0.1},
        "objective": {"loss": "cross-entropy", "label_smoothing": 0.1},
        "augment": {"rand_augment": "rand-m9-mstd0.5-inc1", "repeats": 1, "erasing": 0.0},
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "arguments": {"image_size": 224, "drop_path": 0.55},
    },
    ("convmixer", "convmixer_1536_20"): {
        "epochs": 150,
        "batch_size": 640,
        "micro_batch_size": 64,
        "peak_lr": 0.01,
        "optimizer": {
            "name": "adamw",
            "eps": 1e-3,
            "weight_decay": 2e-5,
            "clip_norm": 1.0,
            "decay": "architecture",
        },
        "schedule": {"kind": "piecewise-linear", "unit": "step"},
        "mix": {"mixup": 0.5, "cutmix": 0.5},
        "objective": {"label_smoothing": 0.1},
        "augment": {
            "rand_augment": "rand-m9-mstd0.5-inc1",
            "erasing": 0.25,
            "interpolation": "random",
            "repeats": 1,
        },
        "ema": {"decay": None},
        "seed": 42,
        "input": {"crop_fraction": 0.96},
        "arguments": {},
    },
    ("convmixer", "convmixer_768_32"): {"epochs": 300},
    ("convmixer-cifar", "convmixer_256_8_ks5_p2"): {
        "epochs": 25,
        "batch_size": 512,
        "peak_lr": 0.05,
        "optimizer": {"eps": 1e-8, "weight_decay": 0.005, "decay": "all", "clip_norm": None},
        "augment": {
            "scale": (1.0, 1.0),
            "ratio": (1.0, 1.0),
            "torchvision_ops": 2,
            "torchvision_magnitude": 12,
            "color_jitter": 0.0,
            "erasing": 0.0,
            "erasing_mode": "zero",
        },
        "objective": {"label_smoothing": 0.0},
        "input": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616), "crop_fraction": 1.0},
    },
    ("vit-finetune", "vit_base_patch16_224"): {
        "batch_size": 512,
        "peak_lr": 0.03,
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 500},
        "augment": {"scale": (0.05, 1.0), "interpolation": "bilinear", "rand_augment": None},
        "objective": {"label_smoothing": 0.0},
        "input": {"resize": "squash", "mean": (0.5, 0.5, 0.5), "crop_fraction": 1.0},
        "arguments": {"image_size": 384},
    },
    ("vit-augreg", "vit_base_patch16_224"): {
        "epochs": 300,
        "batch_size": 4096,
        "peak_lr": 1e-3,
        "optimizer": {"weight_decay": 0.1, "clip_norm": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 10_000},
        "augment": {"rand_augment": "rand-m15-n2-p1-mmax15"},
        "mix": {"mixup": 0.2, "cutmix": 0.0},
        "objective": {"loss": "binary-cross-entropy"},
        "arguments": {"head_bias": -6.9, "activation": "gelu_tanh"},
    },
    ("vit-s16-simple", "vit_small_patch16_224"): {
        "epochs": 90,
        "batch_size": 1024,
        "peak_lr": 1e-3,
        "optimizer": {"weight_decay": 0.1, "clip_norm": 1.0},
        "augment": {"rand_augment": "rand-m10-n2-p1"},
        "mix": {"mixup": 0.2},
        "objective": {"loss": "cross-entropy"},
        "arguments": {"position": "sincos-2d", "pool": "norm-mean", "class_token": False, "pre_logits": True},
    },
    ("mixer", "vit_base_patch16_224"): {
        "epochs": 300,
        "batch_size": 4096,
        "peak_lr": 1e-3,
        "schedule": {"kind": "linear", "min_lr": 1e-5, "warmup_steps": 10_000},
        "optimizer": {"weight_decay": 0.1},
        "augment": {"rand_augment": "rand-m15-n2-p1-mmax15"},
        "mix": {"mixup": 0.5},
        "arguments": {"drop_path": 0.1},
    },
    ("patient", "vit_small_patch16_224"): {
        "mix": {"mixup": 1.0, "cutmix": 0.0, "probability": 1.0},
        "objective": {"label_smoothing": 0.0},
        "distill": {"kind": "soft", "temperature": 1.0, "label_weight": 0.0, "soft_weight": 1.0},
        "augment": {"crop": "random-resized", "scale": (0.08, 1.0), "flip": 0.5},
    },
    ("resmlp", "vit_small_patch16_224"): {
        "epochs": 400,
        "peak_lr": 5e-3,
        "optimizer": {"name": "lamb", "weight_decay": 0.2},
        "augment": DEIT_AUGMENT,
        "input": {"crop_fraction": 0.9},
    },
}


def differences(config: RunConfig, expected: dict[str, Any]) -> list[str]:
    found = []
    for key, wanted in expected.items():
        value = config.model.arguments if key == "arguments" else getattr(config, key)
        if not isinstance(wanted, dict):
            wanted, value = {"": wanted}, {"": value}
        elif not isinstance(value, dict):
            value = value.model_dump()
        found += [
            f"{key}.{name}: {value.get(name)!r}, published {published!r}"
            for name, published in wanted.items()
            if value.get(name) != pytest.approx(published)
        ]
    return found


@pytest.mark.parametrize(("recipe", "model"), VALUES)
def test_recipe_has_the_published_values(recipe: str, model: str) -> None:
    notes: list[str] = []
    config = find_recipe(recipe).build(ModelNode(name=model), "imagenet", notes)
    assert differences(config, VALUES[recipe, model]) == []
    assert notes == []


def test_a_deviation_from_the_published_values_is_found() -> None:
    config = find_recipe("deit").build(ModelNode(name="deit_tiny_patch16_224"), "imagenet", [])
    wrong = config.model_copy(update={"epochs": 299})
    assert differences(wrong, VALUES["deit", "deit_small_patch16_224"]) == ["epochs.: 299, published 300"]


def test_every_published_recipe_is_in_the_table_above() -> None:
    ours = {"small", "finetune"} | {f"vit-augreg-{level}" for level in LEVELS}
    assert {recipe for recipe, _ in VALUES} == {recipe.name for recipe in RECIPES} - ours


@pytest.mark.parametrize(
    ("level", "strength", "alpha"),
    [
        ("light1", "rand-m0-n2-p1", 0.0),
        ("light2", "rand-m10-n2-p1", 0.2),
        ("medium1", "rand-m15-n2-p1-mmax15", 0.2),
        ("medium2", "rand-m15-n2-p1-mmax15", 0.5),
        ("strong1", "rand-m20-n2-p1-mmax20", 0.5),
        ("strong2", "rand-m20-n2-p1-mmax20", 0.8),
    ],
)
def test_augreg_levels(level: str, strength: str, alpha: float) -> None:
    config = find_recipe(f"vit-augreg-{level}").build(ModelNode(name="vit_tiny_patch16_224"), "imagenet", [])
    assert (config.augment.rand_augment, config.mix.mixup) == (strength, alpha)
    assert config.recipe == f"vit-augreg-{level}"


@pytest.mark.parametrize("recipe", [recipe.name for recipe in RECIPES])
@pytest.mark.parametrize("architecture", ["vit", "convmixer"])
def test_recipe_builds_a_tiny_model(
    recipe: str, architecture: str, tiny_vit: ModelNode, tiny_convmixer: ModelNode
) -> None:
    node = tiny_vit if architecture == "vit" else tiny_convmixer
    notes: list[str] = []
    config = find_recipe(recipe).build(node, "digits", notes)
    assert config.recipe is not None and config.recipe.startswith(recipe)
    assert config.data.source == "digits"
    assert spec.check_arguments(config.model.name, config.model.arguments) == []
    given = node.arguments
    assert {key: config.model.arguments[key] for key in given} == given, "what the user gave stays"
    assert sum("left out" in note for note in notes) <= 1, "one sentence for all that is left out"


def test_a_part_the_model_lacks_is_left_out_and_said(tiny_convmixer: ModelNode) -> None:
    notes: list[str] = []
    config = find_recipe("deit").build(tiny_convmixer, "digits", notes)
    assert "drop_path" not in config.model.arguments
    assert notes == ["recipe deit also sets drop_path 0.1, for which convmixer has no part: left out"]


def test_a_vits_parts_are_not_forced_on_another_architecture(tiny_convmixer: ModelNode) -> None:
    notes: list[str] = []
    config = find_recipe("vit-s16-simple").build(tiny_convmixer, "digits", notes)
    assert config.model == tiny_convmixer
    assert len(notes) == 1


def test_deit3_finetune_goes_by_the_picture_size() -> None:
    node = ModelNode.model_validate({"name": "deit3_base_patch16_224", "image_size": 384})
    config = find_recipe("deit3-finetune").build(node, "imagenet", [])
    assert config.model.arguments["drop_path"] == 0.15


def test_a_width_without_published_values_takes_the_nearest_and_says_so() -> None:
    notes: list[str] = []
    config = find_recipe("deit3").build(ModelNode(name="deit3_medium_patch16_224"), "imagenet", notes)
    assert config.peak_lr == 4e-3
    assert len(notes) == 1 and "512" in notes[0] and "384" in notes[0]


def test_known_bugs_of_the_originals_are_off_in_every_recipe(tiny_vit: ModelNode) -> None:
    for recipe in RECIPES:
        config = recipe.build(tiny_vit, "digits", [])
        assert not config.schedule.deit_lag and not config.optimizer.decay_distillation_token


def test_digits_are_not_flipped_and_other_pictures_are(tiny_convmixer: ModelNode) -> None:
    small = find_recipe("small")
    assert small.build(tiny_convmixer, "digits", []).augment.flip == 0
    assert small.build(tiny_convmixer, "photos", []).augment.flip == 0.5


def test_our_recipes_need_neither_timm_nor_torchvision(tiny_vit: ModelNode) -> None:
    for name in ("small", "finetune"):
        for side in (16, 96):
            node = ModelNode.model_validate({"name": "vit", **tiny_vit.arguments, "image_size": side})
            augment = find_recipe(name).build(node, "photos", []).augment
            assert augment.rand_augment is None and augment.torchvision_ops == 0 and augment.color_jitter == 0


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'convmixer-cifar'"):
        find_recipe("convmixer-cifr")


def test_the_help_has_a_line_for_each_recipe() -> None:
    lines = recipe_help().splitlines()
    assert [line.split()[0] for line in lines] == [recipe.name for recipe in RECIPES]
