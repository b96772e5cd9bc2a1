"""Checks of part arguments, made when a part is built; each raises `UsageError` naming the argument."""

from __future__ import annotations

import math

from isopatch.errors import UsageError


def positive(**values: int) -> None:
    """Refuse counts below 1."""
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{name} {value}: must be at least 1")


def probability(**values: float) -> None:
    """Refuse rates outside [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} {value}: must be a rate in [0, 1)")


def finite(**values: float) -> None:
    """Refuse NaN and infinities."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UsageError(f"{name} {value}: must be a finite number")


def divisible(whole: str, count: int, part: str, divisor: int, *, hint: str) -> None:
    """Refuse a combination in which `part` does not divide `whole`; both are named."""
    if count % divisor:
        raise UsageError(f"{whole} {count} is not divisible by {part} {divisor}: {hint}")
