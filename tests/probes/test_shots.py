"""Shots: the same number of every class, more contain fewer, drawn by the seed; and the mean over draws."""

from __future__ import annotations

import numpy as np
import pytest

from isopatch.errors import UsageError
from isopatch.probes.features import Features
from isopatch.probes.few_shot import few_shot, pictures_needed
from isopatch.probes.interval import mean_interval, t_quantile
from isopatch.probes.ridge import SETTINGS
from isopatch.probes.shots import draw

CLASSES = ("ant", "bee", "cow")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (40, 160, 150))).astype(np.int64)


def test_stratified_nested_and_without_repeats() -> None:
    one = draw(LABELS, CLASSES, 0, most_shots=25)
    smaller: set[int] = set()
    for shots in (1, 5, 10, 25):
        chosen = one.shots(shots)
        assert np.bincount(LABELS[chosen]).tolist() == [shots] * 3
        assert len(set(chosen.tolist())) == 3 * shots
        assert smaller <= set(chosen.tolist())
        smaller = set(chosen.tolist())
    held = one.held_out(25)
    assert np.bincount(LABELS[held]).tolist() == [15, 20, 20] and not smaller & set(held.tolist())


def test_the_seed_decides() -> None:
    first, again, second = (draw(LABELS, CLASSES, seed, most_shots=5).shots(5) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, second)


def test_every_picture_is_drawn_about_equally_often() -> None:
    labels = np.zeros(10, np.int64)
    counts = np.zeros(10)
    for seed in range(2000):
        counts[draw(labels, ("only",), seed, most_shots=2).shots(2)] += 1
    assert np.abs(counts - 400).max() < 80  # 4.5 deviations


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="--shots 41: class 'ant' has 40 training pictures; give fewer"):
        draw(LABELS, CLASSES, 0, most_shots=41)


def features(labels: np.ndarray, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.eye(3)[labels] @ np.eye(3, 8) + noise * rng.normal(size=(len(labels), 8))).astype(np.float32)


def test_more_shots_help_and_the_rows_add_up() -> None:
    train, test_labels = features(LABELS, 0.6, 1), (np.arange(300) % 3).astype(np.int64)
    test = features(test_labels, 0.6, 2)
    draws = [draw(LABELS, CLASSES, seed, most_shots=25) for seed in range(3)]
    settings = list(SETTINGS.values())
    needed = pictures_needed(draws, (1, 25), settings)
    assert len(needed) < len(LABELS) and np.array_equal(needed, np.unique(needed))
    rows = few_shot(
        Features(train[needed], needed),
        LABELS,
        test,
        test_labels,
        num_classes=3,
        draws=draws,
        shots=(1, 25),
        settings=settings,
    )
    assert [(row["setting"], row["shots"]) for row in rows] == [
        ("vit", 1), ("vit", 25), ("big_vision", 1), ("big_vision", 25)
    ]  # fmt: skip
    for few, many in (rows[:2], rows[2:]):
        assert many["top1"] > few["top1"] and many["top1"] > 0.7 and many["training_pictures"] == 75
        assert many["top1"] == pytest.approx(np.mean([d["num_correct"] for d in many["draws"]]) / 300)
        assert many["interval"][0] <= many["top1"] <= many["interval"][1]
    assert {d["l2"] for d in rows[2]["draws"]} == {1024.0} and rows[2]["draws"][0]["held_out"] == 0
    assert rows[0]["draws"][0]["held_out"] == 55


def test_no_picture_left_to_choose_on() -> None:
    labels = np.repeat(np.arange(3), 5).astype(np.int64)
    draws = [draw(labels, CLASSES, 0, most_shots=5)]
    train = Features(features(labels, 0.1, 0), np.arange(15))
    common = {"num_classes": 3, "draws": draws, "shots": (5,)}
    with pytest.raises(UsageError, match="no training picture is left to choose"):
        few_shot(train, labels, train.values, labels, settings=[SETTINGS["vit"]], **common)
    rows = few_shot(train, labels, train.values, labels, settings=[SETTINGS["big_vision"]], **common)
    assert rows[0]["interval"] is None  # one draw


def test_the_interval_is_scipys() -> None:
    from scipy import stats

    for freedom in (*range(1, 40), 100, 1000):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-6), freedom
    shares = [0.61, 0.67, 0.66, 0.7]
    expected = stats.t.interval(0.95, 3, loc=np.mean(shares), scale=stats.sem(shares))
    assert mean_interval(shares) == pytest.approx(expected)
    assert mean_interval([0.5]) is None
    assert mean_interval([0.9, 1.0]) == (pytest.approx(0.95 - 12.706205 * 0.05), 1.0)  # cut at 1
    with pytest.raises(ValueError, match="degrees of freedom"):
        t_quantile(0)
