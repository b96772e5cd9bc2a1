"""Checks of part arguments, made when a part is built; each raises `UsageError` naming the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def per_stage(**values: Sequence[float]) -> None:
    """Refuse lists that do not all have one value per stage."""
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError(f"every stage needs one value of each; there are: {told}")
