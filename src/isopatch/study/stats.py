"""How sure a mean of a few runs is: intervals, paired tests, equivalence, Holm's correction.

Values are those of runs that differ in their seed; differences are between runs of one seed, one for each
seed. Where the numbers do not allow a statement (one run, no spread at all) the statement is absent and a
note says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isopatch.errors import IsopatchError

LEVEL = 0.95
RESAMPLES = 9999
ROUNDING = 1e-12  # 0.29 - 0.28 and 0.76 - 0.75 are not the same number, and tell nothing of a spread

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """A sample of n values: its mean, standard deviation (n - 1) and 95 % intervals of the mean.

    t: Student's interval. bootstrap: percentiles of the resampled mean; with few values it is too narrow.
    note: why there is no interval, or "".
    """

    n: int
    mean: float
    deviation: float | None
    t: Interval | None
    bootstrap: Interval | None
    note: str


@dataclass(frozen=True)
class DifferenceTest:
    """The p-values of a mean difference against a claim about it.

    p_for: of the claim, one-sided; p_against: of its opposite, one-sided. p: twice the smaller, at most 1:
    for "greater" and "less" that is the two-sided paired t-test; for "equal" it is below 0.05 exactly where
    the 95 % interval lies inside (or outside) the margin. All are None where the spread cannot be estimated.
    """

    p_for: float | None
    p_against: float | None
    p: float | None


def summarise(values: Sequence[float], *, seed: int = 0) -> Summary:
    """Describe a sample. Raises ValueError for an empty one, and for values that are not finite."""
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("no values to summarise")
    if not all(math.isfinite(value) for value in numbers):
        raise ValueError("values that are not finite cannot be averaged")
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return Summary(1, mean, None, None, None, "one run: its spread is unknown")
    if _all_same(numbers):
        note = f"all {len(numbers)} values are the same: their spread cannot be estimated"
        return Summary(len(numbers), numbers[0], 0.0, None, None, note)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1))
    return Summary(
        len(numbers), mean, deviation, t_interval(numbers), bootstrap_interval(numbers, seed=seed), ""
    )


def t_interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of two or more values."""
    import numpy as np

    stats = _scipy_stats()
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    mean = float(np.mean(values))
    return mean - half, mean + half


def bootstrap_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean: reproducible, the draws depend on `seed` alone."""
    import numpy as np

    stats = _scipy_stats()
    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def difference_test(differences: Sequence[float], expect: str, margin: float = 0.0) -> DifferenceTest:
    """Test paired differences against a claim: "greater" than 0, "less", or "equal" within `margin`.

    "equal" is two one-sided tests (Schuirmann 1987): the larger of their p-values is the claim's.
    Raises ValueError for another claim, and for "equal" without a positive margin.
    """
    if expect not in ("greater", "less", "equal"):
        raise ValueError(f"expect '{expect}': greater, less or equal")
    if expect == "equal" and not margin > 0:
        raise ValueError("equal is tested within a margin above 0")
    if len(differences) < 2 or _all_same(differences):
        return DifferenceTest(None, None, None)
    if expect == "equal":
        above_low, below_high = _above(differences, -margin), _below(differences, margin)
        inside = max(above_low, below_high)
        outside = min(_below(differences, -margin), _above(differences, margin))
        return DifferenceTest(inside, outside, min(1.0, 2 * min(inside, outside)))
    above, below = _above(differences, 0.0), _below(differences, 0.0)
    p_for, p_against = (above, below) if expect == "greater" else (below, above)
    return DifferenceTest(p_for, p_against, min(1.0, 2 * min(above, below)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for being several (Holm 1979); None stays None, and counts among the several."""
    stated = len(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * stated
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (stated - rank) * p))
        corrected[index] = highest
    return corrected


def _all_same(values: Sequence[float]) -> bool:
    """Whether values differ by no more than arithmetic rounds."""
    return max(values) - min(values) <= ROUNDING * max(1.0, *map(abs, values))


def _above(differences: Sequence[float], bound: float) -> float:
    """The p-value of "the mean is above bound"."""
    return float(_scipy_stats().ttest_1samp(differences, bound, alternative="greater").pvalue)


def _below(differences: Sequence[float], bound: float) -> float:
    """The p-value of "the mean is below bound"."""
    return float(_scipy_stats().ttest_1samp(differences, bound, alternative="less").pvalue)


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise IsopatchError(
            "statistics need SciPy, which is not installed: pip install 'isopatch[study]'"
        ) from None
    return stats
