"""The verdict on every stated hypothesis: supported, contradicted or not certain, in one sentence.

A hypothesis is tested over the pairs of runs that its two partial cells give (see `pairs.py`): their
differences, averaged within each seed, by a paired t-test over the seeds, or by two one-sided tests where it
expects equality within a margin. Holm's correction is over the stated hypotheses and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from isopatch.errors import UsageError
from isopatch.report.study_metrics import Metric, metric_of
from isopatch.study.pairs import Pairs, Row, level_text, pair_up
from isopatch.study.stats import DifferenceTest, Interval, Summary, difference_test, holm, summarise

ALPHA = 0.05
Outcome = Literal["supported", "contradicted", "not certain"]


class Claim(Protocol):
    """What a hypothesis states; `study.schema.Hypothesis` is one. margin: in the metric's own unit."""

    @property
    def claim(self) -> str:
        """The sentence that is tested."""

    @property
    def better(self) -> Mapping[str, Any]:
        """The first partial cell."""

    @property
    def worse(self) -> Mapping[str, Any]:
        """The second."""

    @property
    def expect(self) -> str:
        """What first - second should be: greater, equal or less."""

    @property
    def margin(self) -> float | None:
        """How far apart is still equal."""

    @property
    def metric(self) -> str:
        """The column compared."""

    @property
    def source(self) -> str | None:
        """What the paper says, and where."""


@dataclass(frozen=True)
class Verdict:
    """One hypothesis and what came of it. Figures are None where they could not be estimated.

    difference: mean of first - second, in the metric's unit; bootstrap: its other interval. p: uncorrected;
    p_holm: corrected over the stated hypotheses. blocks: (cell of the other factors, its mean difference).
    pairs: those it rests on; seeds: how many, which is the n of the test. alone: runs without a partner.
    sentence: the whole verdict for a reader; reason: why it is not certain.
    """

    claim: str
    source: str
    expect: str
    margin: float | None
    metric: str
    outcome: Outcome
    reason: str
    difference: float | None
    interval: Interval | None
    bootstrap: Interval | None
    p: float | None
    p_holm: float | None
    pairs: int
    seeds: int
    blocks: tuple[tuple[str, float], ...]
    alone: int
    chosen: tuple[str, ...]
    sentence: str


def judge(rows: Sequence[Row], claims: Sequence[Claim]) -> list[Verdict]:
    """Return the verdict on each claim; a claim that cannot be tested is "not certain" and says why."""
    measured = [_measure(rows, claim) for claim in claims]
    corrected = holm([test.p for _, _, test, _ in measured])
    return [
        _verdict(claim, *found, p_holm)
        for claim, found, p_holm in zip(claims, measured, corrected, strict=True)
    ]


def _measure(rows: Sequence[Row], claim: Claim) -> tuple[Pairs, Summary | None, DifferenceTest, str]:
    nothing = Pairs((), 0, ()), None, DifferenceTest(None, None, None)
    if claim.expect == "equal" and not claim.margin:
        return *nothing, "it gives no margin within which two results count as equal"
    try:
        pairs = pair_up(rows, claim.better, claim.worse, claim.metric).balanced()
    except UsageError as error:
        return *nothing, str(error)
    if not pairs.pairs:
        return pairs, None, nothing[2], "no finished pair of runs differs in this alone"
    differences = pairs.differences
    return (
        pairs,
        summarise(differences),
        difference_test(differences, claim.expect, claim.margin or 0.0),
        "",
    )


def _verdict(
    claim: Claim,
    pairs: Pairs,
    summary: Summary | None,
    test: DifferenceTest,
    problem: str,
    p_holm: float | None,
) -> Verdict:
    outcome, reason = _outcome(pairs, summary, test, problem, p_holm)
    metric = metric_of(claim.metric)
    return Verdict(
        claim=claim.claim,
        source=claim.source or "",
        expect=claim.expect,
        margin=claim.margin,
        metric=claim.metric,
        outcome=outcome,
        reason=reason,
        difference=None if summary is None else summary.mean,
        interval=None if summary is None else summary.t,
        bootstrap=None if summary is None else summary.bootstrap,
        p=test.p,
        p_holm=p_holm,
        pairs=len(pairs.pairs),
        seeds=len({pair.seed for pair in pairs.pairs}),
        blocks=tuple(
            (", ".join(f"{name} {level}" for name, level in block), mean)
            for block, mean in pairs.by_block().items()
        ),
        alone=pairs.alone,
        chosen=pairs.chosen,
        sentence=_sentence(claim, metric, outcome, reason, pairs, summary, p_holm),
    )


def _outcome(
    pairs: Pairs, summary: Summary | None, test: DifferenceTest, problem: str, p_holm: float | None
) -> tuple[Outcome, str]:
    if problem:
        return "not certain", problem
    assert summary is not None
    if test.p is None or p_holm is None:
        if summary.n == 1:
            one = "pair of runs" if len(pairs.pairs) == 1 else "seed"
            return "not certain", f"there is one {one}, so nothing tells the spread between seeds"
        return "not certain", f"all {summary.n} differences are the same, so their spread cannot be estimated"
    if p_holm >= ALPHA:
        return "not certain", ""
    assert test.p_for is not None and test.p_against is not None
    return ("supported", "") if test.p_for < test.p_against else ("contradicted", "")


def _sentence(
    claim: Claim,
    metric: Metric,
    outcome: Outcome,
    reason: str,
    pairs: Pairs,
    summary: Summary | None,
    p_holm: float | None,
) -> str:
    if summary is None:
        return f"Not certain: {reason}."
    parts = [f"{outcome.capitalize()}: {_compared(claim)} is {metric.difference(summary.mean)}"]
    parts.append(f"in {metric.name}")
    told = []
    if summary.t is not None:
        told.append(f"95 % interval {metric.interval(summary.t)}")
    if p_holm is not None:
        told.append(f"corrected p {p_text(p_holm)}")
    found = len(pairs.pairs)
    told.append(f"{found} pair{'s' * (found > 1)} of runs")
    if found > summary.n:
        told[-1] += f" averaged within {f'each of {summary.n} seeds' if summary.n > 1 else 'one seed'}"
    parts.append(f"({', '.join(told)})")
    sentence = " ".join(parts)
    if claim.expect == "equal" and claim.margin:
        sentence += f"; equal was to mean within {metric.difference(claim.margin, sign=False)}"
    if reason:
        sentence += f"; {reason}"
    sentence += "."
    opposite = {mean > 0 for mean in pairs.by_block().values() if mean}
    if len(opposite) == 2:
        sentence += " It does not go the same way in every cell of the other factors."
    if pairs.alone:
        runs = "run has" if pairs.alone == 1 else "runs have"
        sentence += f" {pairs.alone} finished {runs} no partner."
    if pairs.left_out:
        left = "pair is" if pairs.left_out == 1 else "pairs are"
        sentence += f" {pairs.left_out} {left} left out, so that every seed has the same cells."
    return sentence


def _compared(claim: Claim) -> str:
    """kernel_size 9 minus kernel_size 3, at stem patch: what both name alike is said once."""
    alike = [name for name, level in claim.better.items() if claim.worse.get(name) == level]
    first, second = (
        cell_text({name: level for name, level in side.items() if name not in alike})
        for side in (claim.better, claim.worse)
    )
    at = cell_text({name: claim.better[name] for name in alike})
    return f"{first} minus {second}, at {at}," if at else f"{first} minus {second}"


def cell_text(cell: Mapping[str, Any]) -> str:
    """{kernel_size: 9, stem: patch} -> kernel_size 9, stem patch."""
    return ", ".join(
        f"{name} {'chosen on validation' if level == '@best' else level_text(level)}"
        for name, level in cell.items()
    )


def p_text(p: float) -> str:
    """0.00002 -> below 0.0001; 0.0312 -> 0.031."""
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
