"""Numbers and names as people read them. Functions take None and what is no number, and show a dash."""

from __future__ import annotations

import json
import math
from typing import Any

MISSING = "–"  # noqa: RUF001 - an en dash: no value

# Who decides about a picture, by the names that an evaluation's `distillation` has for them.
VOTERS = {
    "truth": "truth",
    "teacher": "teacher",
    "baseline": "baseline",
    "student": "student",
    "cls": "class head",
    "dist": "distillation head",
    "both": "both heads",
    "mean_of_logits": "both, mean of logits",
    "mean_of_probabilities": "both, mean of probabilities",
}


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else (None, NaN, text, booleans)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def count(value: Any) -> str:
    """12345 -> 12,345."""
    found = number(value)
    return MISSING if found is None else f"{round(found):,}"


def percent(value: Any, digits: int = 2) -> str:
    """0.98611 -> 98.61 %."""
    found = number(value)
    return MISSING if found is None else f"{100 * found:.{digits}f} %"


def decimal(value: Any, digits: int = 4) -> str:
    """0.051234 -> 0.0512; very small and very large values in powers of ten."""
    found = number(value)
    if found is None:
        return MISSING
    if found and not 10**-digits <= abs(found) < 1e6:
        return f"{found:.2e}"
    return f"{found:.{digits}f}"


def si(value: Any) -> str:
    """706570 -> 707 k; 5949000000 -> 5.95 G."""
    found = number(value)
    if found is None:
        return MISSING
    for size, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(found) >= size * 0.9995:
            return f"{found / size:.3g}{suffix}"
    return f"{found:.3g}"


def rate(value: float) -> str:
    """7.6212 -> 7.621; 31012.4 -> 31,012: four digits or more, never in powers of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def duration(seconds: Any) -> str:
    """75.2 -> 1 min 15 s."""
    found = number(seconds)
    if found is None or found < 0:
        return MISSING
    if found < 60:
        return f"{found:.1f} s"
    minutes, rest = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    """Return any configuration value as short text: lists as JSON, None as a dash, text as it is."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
