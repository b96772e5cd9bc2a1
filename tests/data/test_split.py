from __future__ import annotations

import itertools

import numpy as np
import pytest

from isopatch.data.split import nested_share, stratified_cut


def test_parts_without_overlap_or_loss_and_sorted() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1000)
    kept, cut = stratified_cut(labels, 0.2, 3, purpose="test")
    assert sorted([*kept, *cut]) == list(range(1000))
    assert (np.diff(kept) > 0).all() and (np.diff(cut) > 0).all()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_every_class_gives_its_share(fraction: float) -> None:
    labels = np.repeat([0, 1, 2, 3], [400, 50, 10, 30])
    _, cut = stratified_cut(labels, fraction, 0, purpose="val")
    assert np.bincount(labels[cut]).tolist() == [round(fraction * n) for n in (400, 50, 10, 30)]


def test_small_classes_give_one_and_keep_one() -> None:
    labels = np.repeat([0, 1, 2], [1, 2, 3])
    kept, cut = stratified_cut(labels, 0.1, 0, purpose="val")
    assert np.bincount(labels[cut], minlength=3).tolist() == [0, 1, 1]
    kept, _ = stratified_cut(labels, 0.99, 0, purpose="val")
    assert np.bincount(labels[kept], minlength=3).tolist() == [1, 1, 1]


def test_nothing_is_cut_for_fraction_0_and_from_no_pictures() -> None:
    assert len(stratified_cut(np.array([0, 0, 1, 1]), 0.0, 0, purpose="val")[1]) == 0
    kept, cut = stratified_cut(np.empty(0, dtype=np.int64), 0.5, 0, purpose="val")
    assert len(kept) == len(cut) == 0


def test_seed_and_purpose_decide_and_nothing_else() -> None:
    labels = np.repeat(np.arange(5), 100)
    first = stratified_cut(labels, 0.2, 7, purpose="val")[1]
    assert np.array_equal(first, stratified_cut(labels, 0.2, 7, purpose="val")[1])
    assert not np.array_equal(first, stratified_cut(labels, 0.2, 8, purpose="val")[1])
    assert not np.array_equal(first, stratified_cut(labels, 0.2, 7, purpose="test")[1])


def test_the_choice_is_the_same_for_ever() -> None:
    """Written down once: a change here would silently give every user another split."""
    labels = np.repeat([0, 1], 20)
    assert stratified_cut(labels, 0.2, 0, purpose="val")[1].tolist() == [0, 7, 13, 14, 27, 33, 34, 38]


def test_the_choice_looks_random() -> None:
    labels = np.zeros(20_000, dtype=np.int64)
    _, cut = stratified_cut(labels, 0.5, 1, purpose="val")
    chosen = np.zeros(20_000)
    chosen[cut] = 1
    assert abs(chosen[:10_000].mean() - 0.5) < 0.02
    assert abs(np.corrcoef(chosen[:-1], chosen[1:])[0, 1]) < 0.03


def shares(seed: int, labels: np.ndarray) -> list[set[int]]:
    numbers = np.arange(len(labels)) * 3 + 7  # what the pictures are called in a source they were cut from
    return [set(nested_share(labels, numbers, f, seed).tolist()) for f in (0.01, 0.05, 0.1, 0.3, 0.7, 1.0)]


@pytest.mark.parametrize("seed", range(20))
def test_every_larger_share_contains_the_smaller_ones(seed: int) -> None:
    labels = np.random.default_rng(seed).choice(9, 2000, p=np.arange(1, 10) / 45)
    nested = shares(seed, labels)
    assert all(small < large for small, large in itertools.pairwise(nested))
    assert nested[-1] == set(range(2000))


def test_a_share_is_stratified_and_no_class_is_lost() -> None:
    labels = np.repeat([0, 1, 2, 3], [400, 50, 10, 3])
    counts = [np.bincount(labels[sorted(share)], minlength=4).tolist() for share in shares(0, labels)]
    assert counts[2] == [40, 5, 1, 1] and counts[3] == [120, 15, 3, 1]
    assert counts[0] == [4, 1, 1, 1]  # 1 % of 3 pictures is one


def test_the_share_depends_on_its_seed_and_not_on_where_the_pictures_stand() -> None:
    labels = np.tile(np.arange(5), 100)
    numbers = np.arange(500)
    first = nested_share(labels, numbers, 0.2, 0)
    assert set(first) != set(nested_share(labels, numbers, 0.2, 1))
    backwards = nested_share(labels[::-1], numbers[::-1], 0.2, 0)
    assert set(numbers[::-1][backwards]) == set(numbers[first])


def test_control_shares_drawn_independently_are_not_nested() -> None:
    labels = np.tile(np.arange(5), 100)
    small, large = (
        nested_share(labels, np.arange(500), fraction, seed) for fraction, seed in ((0.1, 1), (0.3, 2))
    )
    assert not set(small) <= set(large)
