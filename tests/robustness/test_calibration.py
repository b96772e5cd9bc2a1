"""Calibration and selective prediction against hand computation; a planted temperature is found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isopatch.errors import UsageError
from isopatch.robustness.calibration import COLDEST, HOTTEST, calibrate, fit_temperature, nll_of, selective
from isopatch.robustness.suite import paired_drop, row_of, sample_of, summary


def planted(temperature: float, pictures: int = 20_000, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels drawn from them."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(pictures, classes)) * 1.5
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = (rng.random(pictures)[:, None] > p.cumsum(1)).sum(1).clip(0, classes - 1)
    return true * temperature, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_planted_temperature_is_found(temperature: float) -> None:
    logits, labels = planted(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.03)
    least = nll_of(logits, labels, found)
    assert least < nll_of(logits, labels, found * 1.02) and least < nll_of(logits, labels, found / 1.02)
    measured = calibrate(logits, labels).to_json()
    assert measured["before"]["num_images"] + measured["fitted_on"] == 20_000
    assert measured["after"]["ece"] < 0.02 and not measured["at_the_end"]
    if temperature != 1.0:
        assert measured["before"]["ece"] > 0.08 and measured["after"]["nll"] < measured["before"]["nll"]


def test_the_minimum_is_scipys() -> None:
    from scipy.optimize import minimize_scalar

    logits, labels = planted(2.0, pictures=500)
    best = minimize_scalar(lambda t: nll_of(logits, labels, t), bounds=(0.1, 10), method="bounded",
                           options={"xatol": 1e-9})  # fmt: skip
    assert fit_temperature(logits, labels) == pytest.approx(best.x, abs=1e-5)


def test_no_temperature_fits() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 4.0]] * 4)
    right = np.array([0, 1] * 4)
    assert fit_temperature(logits, right) == COLDEST and fit_temperature(logits, 1 - right) == HOTTEST
    assert calibrate(logits, right).to_json()["at_the_end"]
    with pytest.raises(UsageError, match="every class has one picture"):
        calibrate(logits[:2], right[:2])


def test_ece_nll_and_brier_by_hand() -> None:
    """Four pictures a half, p = 0.8 for the first class: 3 of 4 right."""
    logits = np.tile(np.log([0.8, 0.2]), (8, 1))
    labels = np.array([0, 0, 0, 1] * 2)
    before = calibrate(logits, labels).to_json()["before"]
    assert before["num_images"] == 4
    assert before["ece"] == pytest.approx(abs(0.75 - 0.8))
    assert before["nll"] == pytest.approx(-(3 * math.log(0.8) + math.log(0.2)) / 4)
    assert before["brier"] == pytest.approx((3 * (0.04 + 0.04) + (0.64 + 0.64)) / 4)
    (only,) = [row for row in before["bins"] if row["images"]]
    assert only["confidence"] == pytest.approx(0.8) and only["accuracy"] == 0.75


def test_selective_accuracy_by_hand() -> None:
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.6])
    right = np.array([1, 1, 0, 1, 0])
    logits = np.stack([np.log(confidence), np.log(1 - confidence)], axis=1)
    measured = selective(logits[[3, 0, 4, 2, 1]], (1 - right)[[3, 0, 4, 2, 1]].astype(np.int64))
    risks = [0, 0, 1 / 3, 1 / 4, 2 / 5]
    assert measured["curve"] == [[pytest.approx((i + 1) / 5), pytest.approx(r)] for i, r in enumerate(risks)]
    assert measured["aurc"] == pytest.approx(np.mean(risks))
    assert measured["ideal_aurc"] == pytest.approx(np.mean([0, 0, 0, 1 / 4, 2 / 5]))
    at = {row["coverage"]: row for row in measured["at"]}
    assert at[1.0]["accuracy"] == pytest.approx(0.6) and at[0.8]["num_images"] == 4
    assert at[0.8]["accuracy"] == pytest.approx(0.75) and at[0.8]["confidence"] == pytest.approx(0.7)


def test_equally_sure_pictures_have_no_order() -> None:
    logits = np.zeros((10, 2))
    logits[:, 0] = 1
    labels = np.array([0] * 5 + [1] * 5)
    one, other = selective(logits, labels), selective(logits, labels[::-1].copy())
    assert one == other and one["aurc"] == pytest.approx(0.5)


def test_the_drop_is_paired() -> None:
    before = np.array([True] * 80 + [False] * 20)
    after = before.copy()
    after[:10] = False
    after[80:82] = True
    low, high = paired_drop(before, after)
    assert low < 0.08 < high
    number = 102  # by hand: Agresti and Min's half a picture in each cell
    difference = (10.5 - 2.5) / number
    half = 1.959964 * math.sqrt(13 - 64 / number) / number
    assert (low, high) == (pytest.approx(difference - half), pytest.approx(difference + half))
    same = paired_drop(before, before)
    assert same[0] < 0 < same[1] and same[1] < 0.03
    assert high - low < 0.2 and paired_drop(before[:10], after[:10])[1] <= 1.0


def test_the_interval_of_a_drop_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        draws = rng.random((60, 2))
        before, after = draws[:, 0] < 0.9, (draws[:, 0] < 0.85) & (draws[:, 1] < 0.95) | (draws[:, 0] > 0.97)
        low, high = paired_drop(before, after)
        hits += low <= 0.9 - (0.85 * 0.95 + 0.03) <= high
    assert 0.92 < hits / 600 < 0.985


def test_samples_and_summaries() -> None:
    labels = np.repeat(np.arange(4), (100, 100, 40, 4)).astype(np.int64)
    sample = sample_of(labels, 61, 0)
    assert np.bincount(labels[sample]).tolist() == [25, 25, 10, 1]
    assert np.array_equal(sample, sample_of(labels, 61, 0)) and (np.diff(sample) > 0).all()
    assert not np.array_equal(sample, sample_of(labels, 61, 1))
    assert len(sample_of(labels, 0, 0)) == len(sample_of(labels, 500, 0)) == 244
    rows = [
        {"name": name, "levels": [{"top1": share, "confidence": 0.9} for share in shares]}
        for name, shares in (("a", (0.8, 0.6)), ("b", (0.4, 0.2)))
    ]
    told = summary(rows, 0.8)
    assert told["mean_top1"] == pytest.approx(0.5) and told["kept"] == pytest.approx(0.625)
    assert told["by_level"] == pytest.approx([0.6, 0.4]) and told["hardest"] == "b"
    assert told["confidence_by_level"] == pytest.approx([0.9, 0.9])
    assert summary(rows, 0.0)["kept"] is None and summary([], 0.5)["mean_top1"] is None
    row = row_of(np.array([[2.0, 0.0], [2.0, 0.0]], np.float32), np.array([0, 1]))
    assert row["top1"] == 0.5 and "drop" not in row
