"""What can be set about how a map is made: `--rollout.fusion max` on the command line. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from isopatch.errors import UsageError, nearest


@dataclass(frozen=True)
class Option:
    """One setting.

    default: its value, and its type. about: for the docs. least, below: of a number. choices: of a word.
    """

    default: bool | int | float | str
    about: str
    least: float = 0
    below: float = float("inf")
    choices: tuple[str, ...] = ()


OPTIONS: Mapping[str, Option] = {
    "attention.layer": Option(0, "whose attention is drawn over the picture, from 1; 0: the last layer's"),
    "rollout.fusion": Option("mean", "of a layer's heads", choices=("mean", "max", "min")),
    "rollout.identity": Option(True, "0.5 A + 0.5 I in every layer; false: the attention alone"),
    "rollout.discard": Option(0.0, "share of each row's smallest patch columns that is set to 0", below=1),
    "occlusion.size": Option(0, "pixels of the window; 0: one patch, at least a 16th of the side"),
    "occlusion.stride": Option(0, "pixels between windows; 0: the size"),
    "integrated_gradients.steps": Option(64, "points of the integral", least=2),
}
_FIRST = sorted({name.split(".")[0] for name in OPTIONS})
PREFIXES = tuple(f"{text}." for name in _FIRST for text in dict.fromkeys((name, name.replace("_", "-"))))


def read_options(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return name -> value of the options that were given, as text or as values.

    Raises UsageError for an unknown name, with the nearest, and for a value that does not fit.
    """
    return {name: _read(name, value) for name, value in settings}


def _read(name: str, value: Any) -> Any:
    if name not in OPTIONS:
        raise UsageError(f"{name}: no option of an explanation{nearest(name, OPTIONS)}")
    option = OPTIONS[name]
    if isinstance(option.default, str):
        if value not in option.choices:
            raise UsageError(f"{name}: '{value}' is not one of {', '.join(option.choices)}")
        return value
    if isinstance(option.default, bool):
        found = {"true": True, "false": False}.get(str(value).lower())
        if found is None:
            raise UsageError(f"{name}: '{value}' is neither true nor false")
        return found
    kind: type[int] | type[float] = type(option.default)
    try:
        number = kind(value)
    except (TypeError, ValueError):
        what = "whole number" if kind is int else "number"
        raise UsageError(f"{name}: '{value}' is not a {what}") from None
    if not option.least <= number < option.below:
        limit = f" and below {option.below:g}" if option.below < float("inf") else ""
        raise UsageError(f"{name}: {value}: give a number from {option.least:g} up{limit}")
    return number
