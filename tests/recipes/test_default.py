"""The default model fits the pictures, their number and the machine."""

from __future__ import annotations

import pytest

from isopatch.models import spec
from isopatch.recipes.default import DIGITS, PictureSummary, choose

CASES = [
    DIGITS,
    PictureSummary(50_000, 10, 32, 32, True),
    PictureSummary(500, 2, 28, 28, True),
    PictureSummary(1_768, 6, 256, 341, False),
    PictureSummary(300_000, 1000, 400, 500, False),
    PictureSummary(30, 3, 1, 1, True),
    PictureSummary(12, 2, 3000, 4000, False),
    PictureSummary(5_000, 5, 65, 500, False),
]


@pytest.mark.parametrize("summary", CASES)
@pytest.mark.parametrize("cores", [1, 2, 16, 64])
def test_the_choice_can_be_built_and_trained(summary: PictureSummary, cores: int) -> None:
    choice = choose(summary, cores=cores)
    assert spec.check_arguments(choice.model, choice.arguments) == []
    assert choice.arguments["image_size"] % choice.arguments["patch_size"] == 0
    assert 1 <= choice.overrides["epochs"] <= 60
    assert 2 <= choice.overrides["batch_size"] <= max(2, summary.num_images)
    assert "no model was named" in choice.reason and "\n" not in choice.reason


def test_sizes_follow_the_pictures() -> None:
    sides = [choose(summary, cores=2).arguments["image_size"] for summary in CASES[:4]]
    assert sides == [8, 32, 28, 128]


def test_a_larger_machine_gets_a_larger_model() -> None:
    photos = CASES[3]
    assert choose(photos, cores=32).arguments["dim"] > choose(photos, cores=2).arguments["dim"]


def test_more_pictures_get_fewer_epochs() -> None:
    few, many = PictureSummary(2_000, 10, 32, 32, True), PictureSummary(200_000, 10, 32, 32, True)
    assert choose(few, cores=2).overrides["epochs"] > choose(many, cores=2).overrides["epochs"]
