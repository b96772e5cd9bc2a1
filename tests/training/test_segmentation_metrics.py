"""Mean intersection over union, from exact counts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from isopatch.errors import UsageError
from isopatch.training.segmentation_metrics import class_iou, mean_iou, pixel_confusion


def masks(seed: int = 0, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, (4, 9, 7)).astype(np.uint8)
    predicted = np.where(
        generator.random(truth.shape) < 0.6, truth, generator.integers(0, classes, truth.shape)
    )
    return truth, predicted


def test_counts_and_iou_are_those_of_scikit_learn() -> None:
    truth, predicted = masks()
    confusion = pixel_confusion(truth, predicted, 5)
    np.testing.assert_array_equal(confusion, confusion_matrix(truth.ravel(), predicted.ravel()))
    expected = jaccard_score(truth.ravel(), predicted.ravel(), average=None)
    np.testing.assert_allclose(class_iou(confusion), expected, rtol=1e-15)
    assert mean_iou(confusion) == pytest.approx(expected.mean(), rel=1e-15)
    assert mean_iou(confusion, range(1, 5)) == pytest.approx(expected[1:].mean(), rel=1e-15)


def test_by_hand() -> None:
    confusion = pixel_confusion(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]), 2)
    assert confusion.tolist() == [[1, 1], [0, 2]]
    assert class_iou(confusion).tolist() == [1 / 2, 2 / 3]
    assert mean_iou(confusion) == pytest.approx(7 / 12)


def test_batches_add_up() -> None:
    truth, predicted = masks()
    whole = pixel_confusion(truth, predicted, 5)
    parts = sum(pixel_confusion(truth[i : i + 1], predicted[i : i + 1], 5) for i in range(4))
    np.testing.assert_array_equal(whole, parts)
    # The mean of the pictures' own values is another figure.
    singles = [mean_iou(pixel_confusion(truth[i], predicted[i], 5)) for i in range(4)]
    assert abs(np.mean(singles) - mean_iou(whole)) > 1e-4


def test_an_absent_class_does_not_count_and_one_only_predicted_counts_as_zero() -> None:
    truth = np.array([0, 0, 1, 1])
    absent = pixel_confusion(truth, truth, 3)
    assert np.isnan(class_iou(absent)[2])
    assert mean_iou(absent) == 1
    invented = pixel_confusion(truth, np.array([0, 0, 1, 2]), 3)
    assert class_iou(invented).tolist() == [1, 1 / 2, 0]
    assert mean_iou(invented) == pytest.approx(1 / 2)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        pixel_confusion(np.zeros((2, 2), int), np.zeros(4, int), 2)
    with pytest.raises(ValueError, match=r"true classes 0\.\.2"):
        pixel_confusion(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match=r"predicted classes -1\.\.1"):
        pixel_confusion(np.array([0, 1]), np.array([-1, 1]), 2)
    with pytest.raises(UsageError, match="no pixel"):
        mean_iou(np.zeros((3, 3), np.int64))
    with pytest.raises(UsageError, match="no pixel"):
        mean_iou(pixel_confusion(np.array([0]), np.array([0]), 3), [1, 2])


def test_large_classes_do_not_overflow_small_integers() -> None:
    truth = np.full(1000, 200, np.uint8)
    assert pixel_confusion(truth, truth, 256)[200, 200] == 1000
