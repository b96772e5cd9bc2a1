"""k-NN and logistic regression against scikit-learn; the SGD probe against the minimum it should near."""

from __future__ import annotations

import numpy as np
import pytest

from isopatch.errors import UsageError
from isopatch.probes import linear, logistic, neighbours
from isopatch.probes.full import Sets, knn, linear_sgd, logistic_regression, ridge
from isopatch.probes.ridge import SETTINGS


def blobs(pictures: int, seed: int, dim: int = 6, classes: int = 4, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(pictures) % classes).astype(np.int64)
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * 1.5 + 0.5
    return (centres[labels] + spread * rng.normal(size=(pictures, dim))).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 3, 10, 60])
def test_neighbours_equal_scikit_learn(k: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = blobs(60, 0)
    test, _ = blobs(300, 1)  # more than one chunk
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.astype(np.float64), labels)
    ours = neighbours.predict(train, labels, test, num_classes=4, ks=[k])
    assert np.array_equal(ours[k], reference.predict(test.astype(np.float64)))


def test_neighbours_weigh_by_similarity() -> None:
    train = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels = np.array([0, 1, 1])
    near = np.array([[1.0, 0.05]])
    assert neighbours.predict(train, labels, near, num_classes=2, ks=[3])[3][0] == 0  # two far ones lose
    flat = neighbours.predict(train, labels, near, num_classes=2, ks=[3], temperature=100.0)
    assert flat[3][0] == 1  # without weights they win
    zero = neighbours.predict(train, labels, np.zeros((1, 2)), num_classes=2, ks=[3])
    assert zero[3][0] == 1  # a picture without a direction: all are equally far
    with pytest.raises(ValueError, match=r"k \[4\]"):
        neighbours.predict(train, labels, near, num_classes=2, ks=[4])


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_logistic_equals_scikit_learn(l2: float) -> None:
    from sklearn.linear_model import LogisticRegression

    train, labels = blobs(200, 0)
    fitted = logistic.fit(train, labels, num_classes=4, l2=l2)
    exact = train.astype(np.float64)
    x = (exact - exact.mean(0)) / (exact.std(0) + 1e-5)
    reference = LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=5000).fit(x, labels)
    assert fitted.converged
    np.testing.assert_allclose(fitted.weight, reference.coef_, atol=2e-4)
    # The bias is free up to a constant for all classes.
    bias = reference.intercept_ - reference.intercept_.mean()
    np.testing.assert_allclose(fitted.bias - fitted.bias.mean(), bias, atol=2e-4)
    test, truth = blobs(100, 1)
    assert (fitted.predict(test) == truth).mean() > 0.6
    stopped = logistic.fit(train, labels, num_classes=4, l2=l2, max_iter=2)
    assert not stopped.converged  # the control


def test_sgd_nears_the_unpenalised_minimum() -> None:
    train, labels = blobs(400, 0, spread=2.5)  # not separable: the minimum is finite
    probes = linear.fit(train, labels, num_classes=4, rates=(0.3, 1e-6), epochs=60)
    x = probes.scale(train)

    def loss(weight: np.ndarray, bias: np.ndarray) -> float:
        logits = x @ weight + bias
        logits -= logits.max(1, keepdims=True)
        return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]).mean())

    best = logistic.fit(train, labels, num_classes=4, l2=1e-6)
    least = loss(best.weight.T, best.bias)
    assert loss(probes.weight[0], probes.bias[0]) < least + 2e-3
    assert loss(probes.weight[1], probes.bias[1]) > least + 0.1  # the control: a rate that is too small
    again = linear.fit(train, labels, num_classes=4, rates=(0.3, 1e-6), epochs=60)
    assert np.array_equal(again.weight, probes.weight)
    other = linear.fit(train, labels, num_classes=4, rates=(0.3, 1e-6), epochs=60, seed=1)
    assert not np.array_equal(other.weight, probes.weight)


def test_probes_on_all_pictures(caplog: pytest.LogCaptureFixture) -> None:
    sets = Sets(*blobs(200, 0), *blobs(100, 1), num_classes=4)
    rows = [*ridge(sets, list(SETTINGS.values())), *logistic_regression(sets), *linear_sgd(sets)]
    rows += knn(sets, [1, 300, 5])
    assert "knn: no k = [300], there are 200 training pictures" in caplog.text
    assert [row["setting"] for row in rows][-2:] == ["k = 1", "k = 5"]  # there are no 300 pictures
    for row in rows:
        assert row["top1"] == row["num_correct"] / 100 > 0.6
        assert row["interval"][0] < row["top1"] < row["interval"][1] and row["training_pictures"] == 200
    with pytest.raises(UsageError, match="--probe-k 300"):
        knn(sets, [300])
    tiny = Sets(*blobs(4, 0), *blobs(8, 1), num_classes=4)
    for choosing in (logistic_regression, linear_sgd):
        with pytest.raises(UsageError, match="too few to choose on"):
            choosing(tiny)


def test_of_equally_similar_pictures_the_first_count() -> None:
    """Copies of one picture with other labels: the answer must not depend on which other k are asked for."""
    rng = np.random.default_rng(0)
    train = np.repeat(rng.normal(size=(4, 6)), 250, axis=0)
    labels = rng.integers(0, 5, 1000).astype(np.int64)
    test = rng.normal(size=(50, 6))
    nearest = (test / np.linalg.norm(test, axis=1, keepdims=True) @ train[::250].T
               / np.linalg.norm(train[::250], axis=1)).argmax(1)  # fmt: skip
    for ks in ([1], [1, 3], [3, 100, 1], [1, 251]):
        found = neighbours.predict(train, labels, test, num_classes=5, ks=ks)
        assert np.array_equal(found[1], labels[250 * nearest]), ks
        if 3 in ks:
            three = [np.bincount(labels[250 * i : 250 * i + 3], minlength=5).argmax() for i in nearest]
            assert np.array_equal(found[3], three)
