"""Equal parameters by solving for width: a search over whole multiples, on models without memory."""

from __future__ import annotations

from collections.abc import Callable

from isopatch.errors import UsageError

WIDEST = 1 << 16
TRIES = 6  # neighbours looked at where a width cannot be built (heads that do not divide it)


def solve_width(
    count: Callable[[int], int | None], target: int, *, tolerance: float, multiple_of: int, key: str
) -> int:
    """Return the multiple of `multiple_of` whose model comes nearest to `target` parameters.

    count: parameters at a width, which grow with it; None where no model can be built.
    Raises UsageError, with the nearest that there is, where it misses the target by more than `tolerance`.
    """
    known: dict[int, int | None] = {}

    def at(step: int) -> int | None:
        if step not in known:
            known[step] = count(step * multiple_of)
        return known[step]

    def near(step: int) -> int | None:
        """The count at the first width from here up that can be built."""
        return next((found for i in range(TRIES) if (found := at(step + i)) is not None), None)

    high = 1
    while (found := near(high)) is not None and found < target and high * multiple_of < WIDEST:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        found = near(middle)
        low, high = (middle, high) if found is not None and found < target else (low, middle)
    for step in range(max(1, low - TRIES), high + TRIES + 1):
        at(step)
    buildable = {step: found for step, found in known.items() if found is not None}
    if not buildable:
        raise UsageError(f"match: no {key} in multiples of {multiple_of} gives a model; try another multiple")
    best = min(buildable, key=lambda step: (abs(buildable[step] - target), step))
    error = buildable[best] / target - 1
    if abs(error) > tolerance:
        raise UsageError(
            f"match: {target:,} parameters are wanted within {tolerance:.1%}; the nearest is "
            f"{key} {best * multiple_of} with {buildable[best]:,} ({error:+.1%}): give a larger tolerance, a "
            f"smaller multiple_of, or larger models"
        )
    return best * multiple_of
