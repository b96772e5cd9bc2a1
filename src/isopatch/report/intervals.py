"""How sure a counted share is."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion, as fractions in 0..1 (Wilson 1927).

    It stays inside 0..1 and keeps its coverage near 0 and 1, where the usual p +- 1.96 s does not.
    Raises `ValueError` unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is not a proportion")
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
