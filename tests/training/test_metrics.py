"""Metrics: exact against independent implementations, independent of how the pictures are batched."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from isopatch.errors import IsopatchError, UsageError
from isopatch.training.metrics import CALIBRATION_BINS, MetricAccumulator


def random_batch(seed: int, images: int = 400, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)).astype(np.float32) * 2
    logits[np.arange(images), labels] += rng.normal(1.0, 1.5, images).astype(np.float32)
    return logits, labels


def counted(logits: np.ndarray, labels: np.ndarray, batch: int | None = None) -> MetricAccumulator:
    total = MetricAccumulator(logits.shape[1])
    for start in range(0, len(labels), batch or len(labels)):
        stop = start + (batch or len(labels))
        total.update(logits[start:stop], labels[start:stop])
    return total


def test_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = random_batch(0)
    result = counted(logits, labels, 64)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predictions = logits.argmax(axis=1)

    scalars = result.scalars()
    assert scalars["top1"] == metrics.accuracy_score(labels, predictions)
    assert scalars["top5"] == metrics.top_k_accuracy_score(labels, logits, k=5)
    assert scalars["nll"] == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-12)
    assert scalars["macro_recall"] == pytest.approx(metrics.balanced_accuracy_score(labels, predictions))
    assert scalars["brier"] == pytest.approx(
        np.mean(np.sum((probabilities - np.eye(7)[labels]) ** 2, axis=1)), abs=1e-12
    )
    assert result.confusion() == metrics.confusion_matrix(labels, predictions).tolist()
    columns = metrics.precision_recall_fscore_support(labels, predictions)
    for index, row in enumerate(result.per_class(tuple("abcdefg"))):
        expected = [float(column[index]) for column in columns]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    import torch

    logits, labels = random_batch(1)
    scalars = counted(logits, labels, 33).scalars()
    scores, target = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    ece = classification.MulticlassCalibrationError(num_classes=7, n_bins=CALIBRATION_BINS, norm="l1")
    top5 = classification.MulticlassAccuracy(num_classes=7, top_k=5, average="micro")
    assert scalars["ece"] == pytest.approx(float(ece(scores.softmax(dim=1), target)), abs=1e-6)
    assert scalars["top5"] == pytest.approx(float(top5(scores, target)), abs=1e-7)


@pytest.mark.parametrize("batch", [1, 3, 64, 399])
def test_the_batch_split_changes_no_count(batch: int) -> None:
    logits, labels = random_batch(2)
    whole, split = counted(logits, labels), counted(logits, labels, batch)
    assert split.confusion() == whole.confusion()
    for key, value in whole.scalars().items():
        if isinstance(value, int):
            assert split.scalars()[key] == value
        else:
            assert split.scalars()[key] == pytest.approx(value, abs=1e-12)


def test_parts_merge_to_the_whole() -> None:
    logits, labels = random_batch(3)
    whole = counted(logits, labels)
    first, second = counted(logits[:150], labels[:150]), counted(logits[150:], labels[150:])
    first.merge(second)
    first.merge(MetricAccumulator(7))
    assert first.confusion() == whole.confusion()
    assert first.scalars() == pytest.approx(whole.scalars())
    added = MetricAccumulator(7)
    for part in (counted(logits[:150], labels[:150]), second):
        added.add_state(part.state())
    assert added.scalars() == pytest.approx(whole.scalars())


def test_classes_must_match_to_merge() -> None:
    with pytest.raises(ValueError, match="3 classes into 4"):
        MetricAccumulator(4).merge(MetricAccumulator(3))


def test_a_constant_model_does_not_score_by_luck() -> None:
    """All logits equal: class 0 is predicted, and 5 of 10 classes count as the five most probable."""
    labels = np.arange(10)
    scalars = counted(np.zeros((10, 10)), labels).scalars()
    assert scalars["top1"] == 0.1
    assert scalars["top5"] == 0.5
    assert scalars["nll"] == pytest.approx(math.log(10))
    assert scalars["ece"] == pytest.approx(0.0, abs=1e-12)


def test_top5_means_top2_with_two_classes() -> None:
    assert counted(np.array([[1.0, 2.0]]), np.array([0])).scalars()["top5"] == 1.0


def test_extreme_logits_stay_finite() -> None:
    scalars = counted(np.array([[1e30, 0.0], [0.0, 1e30]]), np.array([0, 0])).scalars()
    assert scalars["nll"] == pytest.approx(5e29)
    assert scalars["brier"] == pytest.approx(1.0)
    assert json.loads(json.dumps(scalars, allow_nan=False)) == scalars


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_names_its_picture_and_counts_nothing(value: float) -> None:
    logits, labels = random_batch(4, images=8)
    logits[5, 2] = value
    total = MetricAccumulator(7)
    with pytest.raises(IsopatchError, match=r"picture-5\.png: the model's output is not finite \(1 of 8"):
        total.update(logits, labels, name=lambda row: f"picture-{row}.png")
    assert total.num_images == 0


def test_nothing_evaluated_is_an_error() -> None:
    with pytest.raises(UsageError, match="empty"):
        MetricAccumulator(3).scalars()


def test_a_class_without_pictures_has_no_recall() -> None:
    """Class 2 is never seen nor predicted; class 1 is seen, never predicted."""
    result = counted(np.array([[2.0, 1.0, 0.0]] * 3), np.array([0, 1, 1]))
    zero, one, two = result.per_class(("zero", "one", "two"))
    assert (zero["precision"], zero["recall"], zero["support"]) == (pytest.approx(1 / 3), 1.0, 1)
    assert (one["precision"], one["recall"], one["f1"]) == (None, 0.0, 0.0)
    assert (two["precision"], two["recall"], two["f1"], two["support"]) == (None, None, None, 0)
    assert result.scalars()["macro_recall"] == 0.5  # over the two classes that have pictures


@pytest.mark.parametrize(
    ("shape", "label", "message"),
    [((1, 4), 0, "expected"), ((1, 3), 3, "outside"), ((1, 3), -1, "outside")],
)
def test_wrong_shapes_and_labels_are_refused(shape: tuple[int, int], label: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetricAccumulator(3).update(np.zeros(shape), np.array([label]))


def test_an_empty_batch_counts_nothing() -> None:
    total = MetricAccumulator(3)
    predictions, confidence = total.update(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert len(predictions) == len(confidence) == total.num_images == 0


def test_many_classes_keep_no_matrix() -> None:
    total = MetricAccumulator(5000)
    total.update(np.eye(3, 5000), np.array([0, 1, 4999]))
    assert total.confusion() is None
    assert total.scalars()["num_correct"] == 2


def test_calibration_bins_add_up() -> None:
    logits, labels = random_batch(5)
    result = counted(logits, labels)
    rows = result.calibration()
    assert sum(row["images"] for row in rows) == 400
    gaps = [row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows if row["images"]]
    assert sum(gaps) / 400 == pytest.approx(result.scalars()["ece"])
