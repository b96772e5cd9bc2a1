"""Generated scenes: fixed by their index, masks that fit the pictures, no scan in two splits."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from isopatch.data.scenes import CLASSES, COUNT, SPLITS, DigitScenes
from isopatch.data.sources.digits import open_digits
from isopatch.errors import UsageError


def digest(scenes: DigitScenes) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in scenes.arrays())).hexdigest()


def test_shapes_and_classes() -> None:
    scenes = DigitScenes("train", count=40, side=48)
    pictures, masks = scenes.arrays()
    assert pictures.shape == (40, 48, 48, 3) and pictures.dtype == np.uint8
    assert masks.shape == (40, 48, 48) and masks.dtype == np.uint8
    assert len(scenes) == 40 and scenes.classes == CLASSES == ("background", *"0123456789")
    assert set(np.unique(masks)) == set(range(11))
    digits = [len(np.unique(mask)) - 1 for mask in masks]
    assert max(digits) <= COUNT[1] and np.mean(digits) > 1.5
    assert 0.05 < (masks > 0).mean() < 0.4


def test_a_scene_depends_on_split_seed_and_index_alone() -> None:
    few, many = DigitScenes("train", count=3), DigitScenes("train", count=9)
    _ = many[8]  # what was asked for before does not matter
    for one, other in zip(few[2], many[2], strict=True):
        np.testing.assert_array_equal(one, other)
    kinds = [DigitScenes(split, count=3, seed=seed) for split in SPLITS for seed in (0, 1)]
    assert len({digest(scenes) for scenes in kinds}) == len(kinds)
    assert not np.array_equal(few[0][0], few[1][0])


def test_the_splits_share_no_scan() -> None:
    names = {split: set(DigitScenes(split, count=1).names) for split in SPLITS}
    data = open_digits()
    assert data.train is not None and data.test is not None
    assert names["test"] == {data.test.name(i) for i in range(len(data.test))}
    assert names["train"] | names["val"] == {data.train.name(i) for i in range(len(data.train))}
    assert not names["train"] & names["val"]
    assert len(names["val"]) == 288
    assert {digit for _, digit in DigitScenes("val", count=1).scans} == set(range(10))


def test_masks_lie_on_the_ink() -> None:
    """Under a digit's mask the picture differs from the ground around it; moved away from it, it does not."""
    pictures, masks = DigitScenes("test", count=60).arrays()

    def contrast(pixels: Any, mask: Any, digit: int) -> float:
        ink = mask == digit
        rows, cols = np.nonzero(ink)
        window = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
        inside, around = ink[window], mask[window] == 0
        if inside.sum() < 20 or around.sum() < 20:
            return np.nan
        patch = pixels[window].astype(float)
        return float(np.abs(patch[inside].mean(axis=0) - patch[around].mean(axis=0)).mean())

    right, wrong = [], []
    for picture, mask in zip(pictures, masks, strict=True):
        for digit in np.unique(mask[mask > 0]):
            right.append(contrast(picture, mask, digit))
            wrong.append(contrast(np.roll(picture, (32, 32), axis=(0, 1)), mask, digit))
    assert np.nanmedian(right) > 40
    assert np.nanmedian(wrong) < 25


def test_the_mask_says_which_digit_it_is() -> None:
    """An enlarged scan of the named digit covers the mask: compared with the mean ink of each class."""
    scenes = DigitScenes("train", count=30)
    means = np.stack([np.mean([ink for ink, d in scenes.scans if d == digit], axis=0) for digit in range(10)])
    hits = []
    for _, mask in (scenes[i] for i in range(len(scenes))):
        for digit in np.unique(mask[mask > 0]) - 1:
            rows, cols = np.nonzero(mask == 1 + digit)
            height, width = np.ptp(rows) + 1, np.ptp(cols) + 1
            if not (14 <= height <= 24 and width <= 24):
                continue  # two of one digit, or hidden in part
            middle = (cols.min() + cols.max()) / 2
            ys = (np.arange(8) + 0.5) * height / 8 + rows.min() - 0.5
            xs = middle + (np.arange(8) - 3.5) * height / 8
            sampled = np.zeros((8, 8))
            for i, y in enumerate(ys):
                for j, x in enumerate(xs):
                    if 0 <= round(x) < mask.shape[1]:
                        sampled[i, j] = mask[round(y), round(x)] == 1 + digit
            scores = ((means - means.mean()) * (sampled - sampled.mean())).sum(axis=(1, 2))
            hits.append(int(scores.argmax()) == digit)
    assert len(hits) > 30 and np.mean(hits) > 0.5  # by chance 0.1


@pytest.mark.parametrize(
    "values",
    [{"split": "all"}, {"count": 0}, {"seed": -1}, {"side": 16}],
)
def test_values_that_make_no_scene_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        DigitScenes(**{"split": "train", "count": 1, **values})


def test_there_is_no_scene_beyond_the_end() -> None:
    scenes = DigitScenes("val", count=2)
    assert len(list(scenes)) == 2  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        _ = scenes[2]
    with pytest.raises(IndexError):
        _ = scenes[-1]
