"""Intervals and tests against scipy, hand computation and simulation; what cannot be said is not said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from isopatch.study.stats import (
    bootstrap_interval,
    difference_test,
    holm,
    summarise,
    t_interval,
)

samples = st.lists(st.floats(-10, 10, allow_nan=False), min_size=3, max_size=8).filter(
    lambda values: np.std(values) > 1e-6
)


@given(samples)
@settings(max_examples=60, deadline=None)
def test_students_interval_is_scipys(values):
    theirs = oracle.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=oracle.sem(values))
    assert t_interval(values) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_students_interval_by_hand():
    # mean 2, standard deviation 1, 4.3027 is the 97.5 % point of t with 2 degrees of freedom
    half = 4.302652729749464 / math.sqrt(3)
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), rel=1e-12)


def test_the_bootstrap_resamples_the_mean_and_repeats_itself():
    values = [0.1, 0.4, 0.2, 0.9, 0.5, 0.3]
    generator = np.random.default_rng(7)
    own = np.sort(np.mean(generator.choice(values, (40000, len(values))), axis=1))
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((own[1000], own[39000]), abs=0.02)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        low, high = t_interval(generator.normal(0.7, 0.01, 3).tolist())
        inside += low <= 0.7 <= high
    assert 0.93 <= inside / 1000 <= 0.97


def test_one_run_has_no_interval_and_says_so():
    found = summarise([0.5])
    assert (found.n, found.mean, found.deviation, found.t, found.bootstrap) == (1, 0.5, None, None, None)
    assert "one run" in found.note


def test_identical_values_are_no_certainty():
    found = summarise([0.5, 0.5, 0.5])
    assert found.t is None and found.bootstrap is None
    assert "same" in found.note
    assert summarise([0.5, 0.5, 0.51]).t is not None


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf"), 0.1]])
def test_what_is_no_sample_is_refused(values):
    with pytest.raises(ValueError):
        summarise(values)


@given(samples)
@settings(max_examples=60, deadline=None)
def test_greater_and_less_are_scipys_paired_test(differences):
    second = np.arange(len(differences), dtype=np.float64)
    first = second + differences
    two_sided = oracle.ttest_rel(first, second).pvalue
    greater, less = difference_test(differences, "greater"), difference_test(differences, "less")
    assert greater.p == pytest.approx(two_sided, rel=1e-6, abs=1e-9)
    assert less.p == pytest.approx(two_sided, rel=1e-6, abs=1e-9)
    assert greater.p_for == pytest.approx(less.p_against)
    assert (greater.p_for < greater.p_against) == (np.mean(differences) > 0)


def test_equivalence_is_two_one_sided_tests_by_hand():
    differences = [0.001, -0.002, 0.003, 0.0]
    n, mean, error = 4, np.mean(differences), oracle.sem(differences)
    low = oracle.t.sf((mean + 0.01) / error, n - 1)
    high = oracle.t.cdf((mean - 0.01) / error, n - 1)
    found = difference_test(differences, "equal", 0.01)
    assert found.p_for == pytest.approx(max(low, high), rel=1e-9)
    assert found.p == pytest.approx(2 * max(low, high), rel=1e-9)


@given(samples, st.floats(0.01, 5))
@settings(max_examples=80, deadline=None)
def test_equality_is_certain_exactly_where_the_interval_says_so(differences, margin):
    low, high = t_interval(differences)
    found = difference_test(differences, "equal", margin)
    inside, outside = -margin < low and high < margin, low > margin or high < -margin
    edges = min(abs(abs(low) - margin), abs(abs(high) - margin))
    if edges > 1e-6:
        assert (found.p < 0.05) == (inside or outside)
    if inside and edges > 1e-6:
        assert found.p_for < found.p_against


def test_no_p_value_where_the_spread_is_unknown():
    for differences in ([0.3], [0.2, 0.2, 0.2], [0.0, 0.0]):
        assert difference_test(differences, "greater").p is None


def test_wrong_questions_are_refused():
    with pytest.raises(ValueError, match="expect"):
        difference_test([0.1, 0.2], "bigger")
    with pytest.raises(ValueError, match="margin"):
        difference_test([0.1, 0.2], "equal")


def test_holm_by_hand():
    # Holm 1979: 0.01 x 4, 0.013 x 3 (raised to 0.04), 0.03 x 2, 0.2 x 1
    assert holm([0.013, 0.2, 0.01, 0.03]) == pytest.approx([0.04, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_hypothesis_that_could_not_be_tested_still_counts():
    assert holm([0.02, None, None]) == [pytest.approx(0.06), None, None]


def test_holm_keeps_the_rate_of_false_verdicts():
    """20 true nulls at once: at least one is rejected in about 5 % of the studies, not in 64 %."""
    generator = np.random.default_rng(3)
    rejected = raw = 0
    for _ in range(400):
        values = generator.normal(size=(20, 6))
        p = oracle.ttest_1samp(values, 0.0, axis=1).pvalue.tolist()
        rejected += min(holm(p)) < 0.05
        raw += min(p) < 0.05
    assert rejected / 400 < 0.09
    assert raw / 400 > 0.4  # the control: without the correction
