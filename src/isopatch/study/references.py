"""References to runs that come first: "@name" as weights, or as a teacher (alone or among several)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

REFERENCE = re.compile(r"(?:(?<=^)|(?<=,)|(?<==))@([a-z0-9-]+)(?=,|$)")
KEYS = ("weights", "teacher", "distill.teacher")  # what a reference makes sense for


def referred(settings: Any) -> set[str]:
    """Return the names in every reference within settings, however deep."""
    if isinstance(settings, Mapping):
        return set().union(*(referred(value) for value in settings.values()))
    return set(REFERENCE.findall(settings)) if isinstance(settings, str) else set()


def replaced(settings: Any, path_of: Callable[[str], str]) -> Any:
    """Return settings with every reference replaced by where that run lies."""
    if isinstance(settings, Mapping):
        return {key: replaced(value, path_of) for key, value in settings.items()}
    if isinstance(settings, str):
        return REFERENCE.sub(lambda found: path_of(found[1]), settings)
    return settings
