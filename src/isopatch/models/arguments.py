"""Check arguments against an architecture function's signature, which is their only schema."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from isopatch.errors import UsageError, nearest


class NotTaken(UsageError):
    """An argument of the architecture function that this one model does not have a part for."""

    def __init__(self, argument: str, value: Any, model: str) -> None:
        """Say which model does not take it."""
        super().__init__(f"{argument}: {value}, but {model} takes none; leave it out")


def check_against(function: Callable[..., Any], arguments: Mapping[str, Any], *, prefix: str) -> list[str]:
    """Return one line per unknown name, missing name and value of another type; empty when all is fine."""
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    problems = []
    for name, value in arguments.items():
        if name not in parameters:
            problems.append(f"{prefix}{name}: unknown{nearest(name, parameters)}")
        elif not matches(value, hints[name]):
            problems.append(f"{prefix}{name}: {value!r} is not {describe_type(hints[name])}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            problems.append(f"{prefix}{name}: missing; give {describe_type(hints[name])}")
    return problems


def complete(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments in the signature's order, defaults filled in, as plain JSON values."""
    result = {}
    for name, parameter in inspect.signature(function).parameters.items():
        value = arguments.get(name, parameter.default)
        result[name] = list(value) if isinstance(value, tuple) else value
    return result


def matches(value: Any, hint: Any) -> bool:
    """Whether a value fits a type hint; an int is a float, a bool is no int, a list is a tuple."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in options)
    if origin is Literal:
        return isinstance(value, str) and value in options
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if options[-1] is Ellipsis:
            return all(matches(item, options[0]) for item in value)
        return len(value) == len(options) and all(
            matches(item, option) for item, option in zip(value, options, strict=True)
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """Say in words what fits a type hint."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(option) for option in options)
    if origin is Literal:
        return "one of " + ", ".join(options)
    if origin is tuple and options[-1] is Ellipsis:
        return f"a list [{describe_type(options[0])}, ...]"
    if origin is tuple:
        return "(" + ", ".join(describe_type(option) for option in options) + ")"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    return words.get(hint, "nothing")
