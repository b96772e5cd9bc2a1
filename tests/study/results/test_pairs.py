"""Runs are compared with the run of the same seed that differs in nothing else."""

from __future__ import annotations

import random

import pytest

from isopatch.errors import UsageError
from isopatch.study.pairs import pair_up

LEVELS = {"kernel_size": ["3", "9"], "stem": ["patch", "overlap"]}
VALUE = {"3": 0.10, "9": 0.20, "patch": 0.0, "overlap": 0.05}


def planted(kernel_size, stem, seed):
    return VALUE[kernel_size] + VALUE[stem] + 0.001 * seed


def test_pairs_share_the_seed_and_the_other_factors(rows_of):
    rows = rows_of(LEVELS, planted)
    random.Random(0).shuffle(rows)
    found = pair_up(rows, {"kernel_size": 9}, {"kernel_size": 3}, "top1")
    assert len(found.pairs) == 6 and found.alone == 0
    assert [pair.difference for pair in found.pairs] == pytest.approx([0.1] * 6)  # the rest cancels
    assert found.differences == pytest.approx([0.1] * 3)  # one for each seed
    assert {(pair.block, pair.seed) for pair in found.pairs} == {
        ((("stem", stem),), seed) for stem in LEVELS["stem"] for seed in (0, 1, 2)
    }


def test_seeds_that_were_swapped_would_be_noticed(rows_of):
    """Control: pairing by another seed does not give the planted difference."""
    rows = rows_of(LEVELS, planted)
    for row in rows:
        if row["factor.kernel_size"] == "9":
            row["seed"] = 2 - row["seed"]
    found = pair_up(rows, {"kernel_size": 9}, {"kernel_size": 3}, "top1")
    assert found.differences != pytest.approx([0.1] * 3)


def test_a_whole_cell_is_compared_with_one_cell_only(rows_of):
    found = pair_up(
        rows_of(LEVELS, planted),
        {"kernel_size": 9, "stem": "overlap"},
        {"kernel_size": 3, "stem": "patch"},
        "top1",
    )
    assert found.differences == pytest.approx([0.15] * 3)


def test_runs_without_a_partner_are_counted_not_invented(rows_of):
    rows = rows_of(LEVELS, planted)
    del rows[0]
    rows[3]["top1"] = float("nan")
    found = pair_up(rows, {"kernel_size": 9}, {"kernel_size": 3}, "top1")
    assert len(found.pairs) == 4 and found.alone == 2


def test_best_is_chosen_on_validation_apart_in_every_block(rows_of):
    """The test split says the opposite: a choice made on it would give another difference."""
    rows = rows_of({"model": ["small", "large"], "rate": ["low", "high"]}, lambda **_: 0.0)
    validation = {
        ("small", "low"): 0.9,
        ("small", "high"): 0.1,
        ("large", "low"): 0.2,
        ("large", "high"): 0.8,
    }
    test = {("small", "low"): 0.5, ("small", "high"): 0.9, ("large", "low"): 0.9, ("large", "high"): 0.6}
    for row in rows:
        key = row["factor.model"], row["factor.rate"]
        row["val_top1"], row["top1"] = validation[key], test[key]
    found = pair_up(rows, {"model": "large", "rate": "@best"}, {"model": "small", "rate": "@best"}, "top1")
    assert found.differences == pytest.approx([0.6 - 0.5] * 3)
    assert list(found.chosen) == ["model large: rate high", "model small: rate low"]


def test_a_missing_run_does_not_move_the_mean_of_its_seed(rows_of):
    """The kernel does ten times as much on one stem: without the other, a seed would stand out by that."""
    gain = {"patch": 0.01, "overlap": 0.10}
    rows = rows_of(LEVELS, lambda kernel_size, stem, seed: gain[stem] * (kernel_size == "9"))
    gone = next(row for row in rows if row["factor.stem"] == "patch" and row["seed"] == 1)
    rows.remove(gone)
    found = pair_up(rows, {"kernel_size": 9}, {"kernel_size": 3}, "top1")
    assert sorted(found.differences) == pytest.approx([0.055, 0.055, 0.1])  # the control
    assert found.left_out == 0 and found.alone == 1
    kept = found.balanced()
    assert kept.differences == pytest.approx([0.055, 0.055]) and kept.left_out == 1


def test_a_cell_that_most_seeds_lack_is_left_out_rather_than_the_seeds(rows_of):
    rows = [
        row for row in rows_of(LEVELS, planted) if not (row["factor.stem"] == "overlap" and row["seed"] > 0)
    ]
    kept = pair_up(rows, {"kernel_size": 9}, {"kernel_size": 3}, "top1").balanced()
    assert len(kept.differences) == 3 and kept.left_out == 1


def test_two_seeds_of_one_cell_tell_more_than_one_seed_of_many(rows_of):
    levels = {"kernel_size": ["3", "9"], "stem": list("uvwxyz")}
    rows = [
        row
        for row in rows_of(levels, lambda kernel_size, stem, seed: 0.5)
        if row["seed"] == 0 or row["factor.stem"] == "u"
    ]
    kept = pair_up(rows, {"kernel_size": 9}, {"kernel_size": 3}, "top1").balanced()
    assert len(kept.differences) == 3 and kept.left_out == 5


def test_best_compares_validation_over_the_same_seeds(rows_of):
    """A lucky seed that only one level has finished is no reason to choose it."""
    rows = rows_of({"model": ["a", "b"], "rate": ["low", "high"]}, lambda **_: 0.0)
    for row in rows:
        row["val_top1"] = 0.5 + 0.1 * row["seed"] + 0.01 * (row["factor.rate"] == "low")
    rows = [row for row in rows if row["factor.rate"] == "high" or row["seed"] == 0]
    found = pair_up(rows, {"model": "a", "rate": "@best"}, {"model": "b", "rate": "@best"}, "top1")
    assert list(found.chosen) == ["model a: rate low", "model b: rate low"]
    apart = [row for row in rows if (row["factor.rate"] == "low") == (row["seed"] == 0)]
    with pytest.raises(UsageError, match="no seed yet"):
        pair_up(apart, {"model": "a", "rate": "@best"}, {"model": "b", "rate": "@best"}, "top1")


def test_best_without_validation_is_refused(rows_of):
    rows = rows_of({"model": ["a", "b"], "rate": ["low"]}, lambda **_: 0.0, val_top1=None)
    with pytest.raises(UsageError, match="val_top1"):
        pair_up(rows, {"model": "a", "rate": "@best"}, {"model": "b", "rate": "@best"}, "top1")


def test_unknown_and_lopsided_factors_are_refused(rows_of):
    rows = rows_of(LEVELS, planted)
    with pytest.raises(UsageError, match=r"kernel_sise.*kernel_size"):
        pair_up(rows, {"kernel_sise": 9}, {"kernel_sise": 3}, "top1")
    with pytest.raises(UsageError, match=r"same factors.*stem"):
        pair_up(rows, {"kernel_size": 9, "stem": "patch"}, {"kernel_size": 3}, "top1")


def test_no_rows_give_no_pairs():
    assert pair_up([], {"a": 1}, {"a": 2}, "top1").pairs == ()
