"""Planted effects are found, planted noise is not; what is uncertain is called so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as oracle

from isopatch.study.verdict import judge


def noisy(effects, spread=0.002, seed=0):
    """top1 of a level: its planted value, what its seed adds, and noise that is a function of both."""
    generator = np.random.default_rng(seed)
    noise: dict[tuple[str, int], float] = {}

    def top1(level, seed, **_):
        return 0.7 + effects[level] + noise.setdefault((level, seed), generator.normal(0, spread))

    return top1


def test_outcomes_of_planted_differences(rows_of, claim):
    rows = rows_of({"level": ["a", "b", "c"]}, noisy({"a": 0.0, "b": 0.03, "c": 0.0001}), seeds=range(6))
    found = judge(
        rows,
        [
            claim("b beats a", {"level": "b"}, {"level": "a"}),
            claim("a beats b", {"level": "a"}, {"level": "b"}),
            claim("a is below b", {"level": "a"}, {"level": "b"}, expect="less"),
            claim("a and c are equal", {"level": "c"}, {"level": "a"}, expect="equal", margin=0.01),
            claim("a and b are equal", {"level": "b"}, {"level": "a"}, expect="equal", margin=0.01),
            claim("c beats a", {"level": "c"}, {"level": "a"}),
        ],
    )
    assert [verdict.outcome for verdict in found] == [
        "supported",
        "contradicted",
        "supported",
        "supported",
        "contradicted",
        "not certain",
    ]
    assert found[0].pairs == 6 and found[0].seeds == 6
    assert found[0].sentence.startswith("Supported: level b minus level a is +")
    assert "points in top-1 accuracy (95 % interval +" in found[0].sentence
    assert "6 pairs of runs" in found[0].sentence
    assert "within 1.00 points" in found[3].sentence


def test_what_both_cells_share_is_said_once(rows_of, claim):
    rows = rows_of({"level": ["a", "b"], "other": ["x"]}, noisy({"a": 0.0, "b": 0.1}))
    verdict = judge(rows, [claim("?", {"level": "b", "other": "x"}, {"level": "a", "other": "x"})])[0]
    assert "level b minus level a, at other x, is +" in verdict.sentence


def test_p_values_are_scipys_and_corrected_over_the_stated_claims_only(rows_of, claim):
    rows = rows_of(
        {"level": ["a", "b", "c"]}, noisy({"a": 0.0, "b": 0.004, "c": 0.002}, 0.003), seeds=range(5)
    )
    by_level = {
        level: [row["top1"] for row in rows if row["factor.level"] == level] for level in ("a", "b", "c")
    }
    raw = oracle.ttest_rel(by_level["b"], by_level["a"]).pvalue
    alone = judge(rows, [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert alone.p == pytest.approx(raw) and alone.p_holm == pytest.approx(raw)
    two = judge(
        rows,
        [
            claim("b beats a", {"level": "b"}, {"level": "a"}),
            claim("cannot be tested", {"level": "zzz"}, {"level": "a"}),
        ],
    )
    assert two[0].p_holm == pytest.approx(2 * raw)
    assert two[1].outcome == "not certain" and two[1].p_holm is None


def test_one_seed_supports_nothing(rows_of, claim):
    rows = rows_of({"level": ["a", "b"]}, noisy({"a": 0.0, "b": 0.5}), seeds=[0])
    verdict = judge(rows, [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert verdict.outcome == "not certain" and verdict.p is None and verdict.interval is None
    assert verdict.difference == pytest.approx(0.5, abs=0.02)
    assert "one pair" in verdict.sentence


def test_one_seed_in_many_cells_supports_nothing(rows_of, claim):
    """Control: with a second seed the same differences are judged."""
    levels = {"level": ["a", "b"], "other": ["w", "x", "y", "z"]}

    def top1(level, other, seed):
        return 0.5 + (level == "b") * (0.02 + 0.001 * "wxyz".index(other) + 0.0001 * seed)

    stated = [claim("b beats a", {"level": "b"}, {"level": "a"})]
    verdict = judge(rows_of(levels, top1, seeds=[0]), stated)[0]
    assert verdict.outcome == "not certain" and verdict.p is None and (verdict.pairs, verdict.seeds) == (4, 1)
    assert "4 pairs of runs averaged within one seed" in verdict.sentence and "one seed" in verdict.reason
    two = judge(rows_of(levels, top1, seeds=[0, 1]), stated)[0]
    assert two.outcome == "supported"
    assert "8 pairs of runs averaged within each of 2 seeds" in two.sentence


def test_cells_that_share_a_teacher_are_not_that_many_witnesses(rows_of, claim):
    """Two teachers who are equally good, drawn anew for each seed, teach in four cells."""
    wrong = 0
    for trial in range(60):
        generator = np.random.default_rng(trial)
        luck = {(teacher, seed): generator.normal(0, 0.01) for teacher in "ab" for seed in range(3)}

        def top1(teacher, kind, seed, luck=luck, generator=generator):
            return 0.7 + luck[teacher, seed] + generator.normal(0, 0.002)

        rows = rows_of({"teacher": ["a", "b"], "kind": ["w", "x", "y", "z"]}, top1)
        found = judge(rows, [claim("a teaches better", {"teacher": "a"}, {"teacher": "b"})])[0]
        wrong += found.outcome != "not certain"
    assert wrong / 60 < 0.15  # 0.38 with every pair a witness


def test_pairs_of_an_incomplete_seed_are_left_out_and_told(rows_of, claim):
    rows = rows_of({"level": ["a", "b"], "other": ["x", "y"]}, lambda level, other, seed: 0.5 + 0.01 * seed)
    verdict = judge(rows[:-1], [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert (verdict.pairs, verdict.seeds, verdict.alone) == (4, 2, 1)
    assert "1 pair is left out, so that every seed has the same cells." in verdict.sentence


def test_rounding_is_no_spread(rows_of, claim):
    """0.29 - 0.28 and 0.76 - 0.75 differ in the last bit, which would make any difference certain."""
    values = {"a": [0.28, 0.75, 0.53], "b": [0.29, 0.76, 0.54]}
    assert len({b - a for a, b in zip(*values.values(), strict=True)}) > 1
    rows = rows_of({"level": ["a", "b"]}, lambda level, seed: values[level][seed])
    verdict = judge(rows, [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert verdict.outcome == "not certain" and "all 3 differences are the same" in verdict.sentence


def test_identical_differences_support_nothing(rows_of, claim):
    rows = rows_of({"level": ["a", "b"]}, lambda level, seed: 0.5 if level == "a" else 0.75)
    verdict = judge(rows, [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert verdict.outcome == "not certain"
    assert "cannot be estimated" in verdict.sentence


@pytest.mark.parametrize(
    ("better", "expect", "margin", "reason"),
    [
        ({"level": "zzz"}, "greater", None, "no finished pair"),
        ({"levle": "b"}, "greater", None, "did you mean 'level'"),
        ({"level": "b"}, "equal", None, "margin"),
    ],
)
def test_a_claim_that_cannot_be_tested_says_why(rows_of, claim, better, expect, margin, reason):
    rows = rows_of({"level": ["a", "b"]}, noisy({"a": 0.0, "b": 0.1}))
    worse = {next(iter(better)): "a"}
    verdict = judge(rows, [claim("?", better, worse, expect=expect, margin=margin)])[0]
    assert verdict.outcome == "not certain"
    assert reason in verdict.sentence


def test_nothing_finished_is_not_certain(claim):
    verdict = judge([], [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert verdict.outcome == "not certain" and verdict.pairs == 0


def test_missing_partners_and_opposite_directions_are_told(rows_of, claim):
    effect = {("a", "x"): 0.0, ("b", "x"): 0.05, ("a", "y"): 0.0, ("b", "y"): -0.02}
    rows = rows_of(
        {"level": ["a", "b"], "other": ["x", "y"]},
        lambda level, other, seed: 0.5 + effect[level, other] + 0.001 * seed * (level == "b"),
    )
    verdict = judge(rows[:-1], [claim("b beats a", {"level": "b"}, {"level": "a"})])[0]
    assert "same way in every cell" in verdict.sentence
    assert "1 finished run has no partner" in verdict.sentence
    assert dict(verdict.blocks)["other x"] > 0 > dict(verdict.blocks)["other y"]


def test_true_nulls_are_rarely_called_a_difference(rows_of, claim):
    wrong = 0
    for trial in range(150):
        rows = rows_of({"level": ["a", "b"]}, noisy({"a": 0.0, "b": 0.0}, 0.01, seed=trial))
        wrong += judge(rows, [claim("b beats a", {"level": "b"}, {"level": "a"})])[0].outcome != "not certain"
    assert wrong / 150 < 0.11


def test_other_metrics_keep_their_unit(rows_of, claim):
    rows = rows_of({"level": ["a", "b"]}, noisy({"a": 0.0, "b": 0.0}))
    for row in rows:
        row["nll"] = (
            1.0 + 0.5 * (row["factor.level"] == "a") + 0.01 * row["seed"] * (row["factor.level"] == "a")
        )
    verdict = judge(rows, [claim("b has less nll", {"level": "b"}, {"level": "a"}, "less", None, "nll")])[0]
    assert verdict.outcome == "supported"
    assert "points" not in verdict.sentence and "negative log-likelihood" in verdict.sentence
