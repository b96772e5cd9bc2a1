"""Cells, their names, and what shortcuts stand for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from isopatch.errors import UsageError
from isopatch.recipes.resolve import resolve
from isopatch.study.cells import cells, slug, slugs
from isopatch.study.resolving import cell_template
from isopatch.study.shortcuts import LATE, SHORTCUTS, expanded, flat


def test_the_product_of_all_levels_in_order(declare: Any) -> None:
    study = declare(factors={"mixer": ["attention", "pool"], "depth": [1, 2, 3]})
    assert cells(study) == [
        {"mixer": mixer, "depth": depth} for mixer, depth in itertools.product(["attention", "pool"], "123")
    ]


def test_listed_cells_and_excluded_ones(declare: Any) -> None:
    factors = {"mixer": ["attention", "pool"], "depth": [1, 2, 3]}
    excluded = declare(factors=factors, exclude=[{"mixer": "pool", "depth": 3}, {"depth": 2}])
    assert [tuple(cell.values()) for cell in cells(excluded)] == [
        ("attention", "1"),
        ("attention", "3"),
        ("pool", "1"),
    ]
    listed = declare(factors=factors, cells=[{"depth": 3, "mixer": "pool"}])
    assert cells(listed) == [{"depth": "3", "mixer": "pool"}]


def test_levels_are_called_as_they_are_written(declare: Any) -> None:
    study = declare(
        factors={
            "pyramid": [True, False],
            "teacher": [None, "some/run"],
            "data_fraction": [0.1, 1],
            "resolution": [[8, 16]],
            "stem": {"plain": {"model.stem": "patch"}, "convolutional": "overlap"},
        }
    )
    levels = {factor: list(names) for factor, names in study.factor_levels.items()}
    assert levels == {
        "pyramid": ["true", "false"],
        "teacher": ["none", "some/run"],
        "data_fraction": ["0.1", "1"],
        "resolution": ["8x16"],
        "stem": ["plain", "convolutional"],
    }
    assert study.factor_levels["stem"]["convolutional"] == {"stem": "overlap"}


def test_names_are_file_names_and_all_different() -> None:
    assert slug({"kernel_size": "5", "data_fraction": "0.1"}) == "kernel-size-5_data-fraction-0.1"
    assert slug({}) == "base"
    assert slugs([{"weights": "runs/a"}, {"weights": "runs a"}]) == ["weights-runs-a", "weights-runs-a.2"]
    long = slugs([{"weights": "a/" * 200 + end} for end in "xy"])
    assert len(set(long)) == 2 and max(map(len, long)) <= 90


def config(**settings: Any) -> Any:
    base = {"model": "bench", "model.dim": 16, "depth": 4, "patch_size": 2, "resolution": 16}
    return resolve(values=expanded([flat(base, [], ""), flat(settings, [], "")]))


SAYS = {
    "patch_size": (4, lambda c: c.model.arguments.get("patch_size") == 4),
    "kernel_size": (7, lambda c: c.model.arguments.get("kernel_size") == 7),
    "width": (32, lambda c: c.model.arguments.get("dim") == 32),
    "depth": (3, lambda c: c.model.arguments.get("depth") == 3),
    "mixer": ("depthwise", lambda c: c.model.arguments.get("token_mixer") == "depthwise"),
    "stem": ("overlap", lambda c: c.model.arguments.get("stem") == "overlap"),
    "activation": ("relu", lambda c: c.model.arguments.get("activation") == "relu"),
    "norm": ("batch", lambda c: c.model.arguments.get("norm") == "batch"),
    "norm_place": ("after-sum", lambda c: c.model.arguments.get("norm_place") == "after-sum"),
    "residuals": ("token", lambda c: c.model.arguments.get("residual") == "token"),
    "resolution": (32, lambda c: c.model.arguments.get("image_size") == 32),
    "teacher": ("some/run", lambda c: c.distill.teacher == "some/run"),
    "data_fraction": (0.1, lambda c: c.data.fraction == 0.1),
    "data": ("elsewhere", lambda c: c.data.source == "elsewhere"),
    "model": ("bench", lambda c: c.model.name == "bench"),
    "augmentation": (False, lambda c: (c.augment.crop, c.augment.flip, c.mix.active) == ("none", 0.0, False)),
    "regularisation": (
        "off",
        lambda c: (
            (c.optimizer.weight_decay, c.objective.label_smoothing, c.model.arguments.get("drop_path"))
            == (0.0, 0.0, 0.0)
        ),
    ),
    "pyramid": (True, lambda c: c.model.arguments.get("stage_depths") == [1, 1, 2]),
}


@pytest.mark.parametrize("name", SAYS)
def test_a_shortcut_sets_what_it_stands_for(name: str) -> None:
    value, holds = SAYS[name]
    assert holds(config(**{name: value}))
    if name not in ("model",):
        assert not holds(config()), "the control: without it the configuration is another"


def test_every_shortcut_is_tested() -> None:
    assert set(SHORTCUTS) == {*SAYS, "distillation"}


@pytest.mark.parametrize("name", ["augmentation", "regularisation", "pyramid"])
def test_switched_on_is_the_recipe_itself(name: str) -> None:
    assert config(**{name: name != "pyramid"}) == config()


@pytest.mark.parametrize(
    ("level", "kind", "token"),
    [
        ("hard", "hard", False),
        ("soft", "soft", False),
        ("hard-token", "hard", True),
        ("both-token", "both", True),
    ],
)
def test_kinds_of_distillation(level: str, kind: str, token: bool) -> None:
    base = {"model": "deit_tiny_patch16_224", "teacher": "some/run", "distill.temperature": 2.0}
    base = base if "hard" not in level else {k: v for k, v in base.items() if k != "distill.temperature"}
    taught = resolve(values=expanded([flat(base, [], ""), {"distillation": level}]))
    assert (taught.distill.kind, taught.distill.token, taught.distill.teacher) == (kind, token, "some/run")
    assert taught.model.arguments["distilled"] is token
    untaught = resolve(values=expanded([flat(base, [], ""), {"distillation": "none"}]))
    assert untaught.distill.teacher is None and untaught.distill.temperature is None


def test_a_level_wins_over_base_and_over_what_its_own_shortcut_sets() -> None:
    base = {"augment.flip": 0.5, "augment.erasing": 0.3}
    level = {"augmentation": "off", "augment.erasing": 0.1}
    settings = expanded([base, level])
    assert (settings["augment.flip"], settings["augment.erasing"], settings["mix.mixup"]) == (0.0, 0.1, 0.0)


@pytest.mark.parametrize("name", sorted(set(LATE) - {"distillation"}))
def test_what_a_switch_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name}: 'maybe' is neither on nor off"):
        config(**{name: "maybe"})


def test_a_pyramid_has_no_more_stages_than_blocks() -> None:
    assert config(pyramid=2).model.arguments["stage_depths"] == [2, 2]
    with pytest.raises(UsageError, match=r"pyramid: 5 stages need model\.depth of as many blocks or more"):
        config(pyramid=5)


def test_nested_groups_and_dotted_keys_say_the_same() -> None:
    nested = flat(
        {"model": {"name": "vit", "dim": 8}, "optimizer": {"lr": 0.1}, "data": {"source": "x"}}, [], ""
    )
    assert nested == {"model.name": "vit", "model.dim": 8, "optimizer.lr": 0.1, "data.source": "x"}


def test_cells_of_one_seed_see_the_same_pictures_in_the_same_order(declare: Any) -> None:
    study = declare(factors={"depth": [1, 2], "data_fraction": [0.5, 1.0]})
    templates = [cell_template(study, cell, {}) for cell in cells(study)]
    for seed in (0, 5):
        seeded = [template.seeded(seed) for template in templates]
        assert {(c.seed, c.data_seed, c.order_seed) for c in seeded} == {(seed, seed, seed)}
        assert {c.data.fraction_seed for c in seeded if c.data.fraction < 1} == {seed}
        assert {c.data.split_seed for c in seeded} == {0}
    fixed = declare(
        factors={"depth": [1]}, base={"data_seed": 9, "data.fraction": 0.5, "data.fraction_seed": 4}
    )
    config_ = cell_template(fixed, cells(fixed)[0], {}).seeded(3)
    assert (config_.seed, config_.data_seed, config_.data.fraction_seed) == (3, 9, 4)
