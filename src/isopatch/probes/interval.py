"""How far the mean over a few draws can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Student's t, 97.5 % point, for 1 .. 30 degrees of freedom (Student 1908; any statistics table).
_T = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip
_Z = 1.959963984540054


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % point of Student's t with `freedom` >= 1 degrees of freedom, within 1e-6.

    Above 30 by the expansion around the normal quantile (Abramowitz and Stegun 1964, 26.7.5).
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: at least two values are needed")
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


def mean_interval(shares: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % t interval of the mean of shares in 0..1, cut at 0 and 1; None for fewer than two."""
    if len(shares) < 2:
        return None
    mean = statistics.fmean(shares)
    half = t_quantile(len(shares) - 1) * statistics.stdev(shares) / math.sqrt(len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)
