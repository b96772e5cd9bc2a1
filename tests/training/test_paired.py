"""Counts of who decides what, against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from isopatch.training.metrics import MetricAccumulator
from isopatch.training.paired import disagreement, mcnemar, paired, recall_gains


def voters(count: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, count)

    def mostly(right: float) -> np.ndarray:
        return np.where(rng.random(count) < right, truth, rng.integers(0, 5, count))

    return {"truth": truth, "teacher": mostly(0.8), "cls": mostly(0.7), "dist": mostly(0.75)}


def test_disagreement_is_counted_picture_by_picture() -> None:
    from sklearn.metrics import zero_one_loss

    decisions = voters()
    table = disagreement(decisions)
    counts = np.array(table["differing"])
    assert table["voters"] == list(decisions)
    assert (counts == counts.T).all()
    assert (np.diag(counts) == 0).all()
    for row, first in enumerate(decisions):
        for column, second in enumerate(decisions):
            by_hand = sum(a != b for a, b in zip(decisions[first], decisions[second], strict=True))
            assert counts[row, column] == by_hand
            rate = zero_one_loss(decisions[first], decisions[second])
            assert table["rates"][row][column] == pytest.approx(rate)
    assert table["num_images"] == 200
    moved = {**decisions, "dist": decisions["dist"][::-1]}
    assert disagreement(moved)["differing"] != table["differing"]  # the order of the pictures matters


def test_pairs_count_every_picture_once() -> None:
    from sklearn.metrics import confusion_matrix

    decisions = voters()
    truth = decisions["truth"]
    found = paired(decisions["cls"], decisions["teacher"], truth)
    ((neither, other), (ours, both)) = confusion_matrix(
        decisions["cls"] == truth, decisions["teacher"] == truth
    )
    assert (found.both_right, found.only_student, found.only_other, found.both_wrong) == (
        both, ours, other, neither
    )  # fmt: skip
    assert found.num_images == 200
    told = found.to_json()
    accuracy = [(decisions[who] == truth).mean() for who in ("cls", "teacher")]
    assert told["difference"] == pytest.approx(accuracy[0] - accuracy[1])
    assert told["better"] is False
    assert paired(decisions["teacher"], decisions["cls"], truth).to_json()["better"] is True


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (0, 5), (7, 7), (12, 30), (400, 350), (5000, 5321), (3, 2000)]
)
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_gains_are_differences_of_recall() -> None:
    from sklearn.metrics import recall_score

    decisions = voters()
    truth = decisions["truth"]
    counters = []
    for who in ("dist", "cls"):
        counter = MetricAccumulator(6)  # class 5 has no picture
        counter.update(np.eye(6)[decisions[who]], truth)
        counters.append(counter)
    rows = recall_gains(counters[0], counters[1], tuple("abcdef"))
    assert [row["name"] for row in rows] == list("abcde")
    ours, theirs = (recall_score(truth, decisions[who], average=None) for who in ("dist", "cls"))
    assert [row["gain"] for row in rows] == pytest.approx(list(ours - theirs))
    assert [row["support"] for row in rows] == np.bincount(truth).tolist()
