"""The keys a configuration may have, and pydantic's complaints in words."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from isopatch.errors import nearest
from isopatch.training.config import Node, RunConfig

LIST = {"augment.scale": "[0.08, 1.0]", "augment.ratio": "[0.75, 1.33]", "optimizer.betas": "[0.9, 0.999]"}


def group_of(annotation: Any) -> type[Node] | None:
    """Return the Node class a field holds, or None where it holds a value."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Node) else None


def leaves(node: type[Node] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that holds a value, in the order of the configuration."""
    for name, field in node.model_fields.items():
        group = group_of(field.annotation)
        if group is None:
            yield prefix + name
        elif name == "model":
            yield "model.name"
        else:
            yield from leaves(group, f"{prefix}{name}.")


def annotation_of(path: tuple[str, ...]) -> Any:
    """Return the type of the value at a dotted key; None where there is no such key, or it is a group."""
    node: type[Node] | None = RunConfig
    annotation: Any = None
    for part in path:
        if node is None or part not in node.model_fields:
            return None
        annotation = node.model_fields[part].annotation
        node = group_of(annotation)
    return None if node is not None else annotation


def is_group(path: tuple[str, ...]) -> bool:
    """Return whether a dotted key is a group of keys."""
    node: type[Node] | None = RunConfig
    for part in path:
        if node is None or part not in node.model_fields:
            return False
        node = group_of(node.model_fields[part].annotation)
    return node is not None


def plain_types(annotation: Any) -> set[type]:
    """Return the classes in an annotation: {int, NoneType} for `Annotated[int, ...] | None`."""
    if typing.get_origin(annotation) is Literal:
        return {type(choice) for choice in typing.get_args(annotation)}
    arguments = typing.get_args(annotation)
    if isinstance(annotation, type) and not arguments:
        return {annotation}
    if typing.get_origin(annotation) is typing.Annotated:
        return plain_types(arguments[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(plain_types(argument) for argument in arguments))
    return {typing.get_origin(annotation) or object}


def holds_text(annotation: Any) -> bool:
    """Return whether a value is free text, which an override gives without YAML's reading of it."""
    return str in plain_types(annotation) and typing.get_origin(annotation) is not Literal


def unknown_key(path: tuple[str, ...]) -> str:
    """Say that a key does not exist, with the nearest that does."""
    key = ".".join(path)
    if path[0] == "model" and len(path) > 2:
        return f"{key}: unknown key; arguments of the model are model.<argument>, without a further part"
    known = list(leaves())
    # The right name in the wrong group is the likeliest slip; then a typing error within the group.
    elsewhere = [name for name in known if name.split(".")[-1] == path[-1] and name != key]
    if elsewhere:
        return f"{key}: unknown key (did you mean '{elsewhere[0]}'?)"
    depth = len(path) - 1
    parts = [name.split(".") for name in known]
    siblings = [names[depth] for names in parts if names[:depth] == list(path[:depth]) and len(names) > depth]
    return f"{key}: unknown key{nearest(path[-1], siblings) or nearest(key, known)}"


def shown(value: Any) -> str:
    """Return a value as a person would write it, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 60 else text[:57] + "..."


def wrong_kind(path: tuple[str, ...], value: Any) -> str | None:
    """Say what pydantic would let pass: true as a number, and numbers that are not finite."""
    key, annotation = ".".join(path), annotation_of(path)
    values = value if isinstance(value, list | tuple) else [value]
    expected = plain_types(annotation)
    if any(isinstance(item, bool) for item in values) and not expected & {bool, str}:
        return f"{key}: {shown(value)} is not a number"
    if any(isinstance(item, float) and not math.isfinite(item) for item in values):
        return f"{key}: {shown(value)} is not a finite number"
    return None


def in_words(error: Any) -> str:
    """Return one of pydantic's errors (an item of `ValidationError.errors()`) as one line."""
    path = tuple(str(part) for part in error["loc"] if not isinstance(part, int))
    key, kind, context = ".".join(path), error["type"], error.get("ctx", {})
    value = shown(error.get("input"))
    match kind:
        case "value_error":
            return f"{key}: {context['error']}" if key else str(context["error"])
        case "greater_than_equal":
            return f"{key}: {value} is below {context['ge']:g}"
        case "greater_than":
            return f"{key}: {value} must be above {context['gt']:g}"
        case "less_than_equal":
            return f"{key}: {value} is above {context['le']:g}"
        case "less_than":
            return f"{key}: {value} must be below {context['lt']:g}"
        case "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            hint = nearest(str(error.get("input")), choices)
            return f"{key}: {value} is not one of {', '.join(choices)}{hint}"
        case "extra_forbidden":
            return unknown_key(path)
        case "missing":
            return f"{key}: is missing"
    for words, fragment in (
        ("a whole number", "int"),
        ("a number", "float"),
        ("true or false", "bool"),
        ("text", "string"),
    ):
        if kind.startswith(fragment):
            return f"{key}: {value} is not {words}"
    if key in LIST:
        return f"{key}: {value} is not {len(LIST[key].split(','))} numbers; write them as {LIST[key]}"
    return f"{key}: {value}: {error['msg'][:1].lower()}{error['msg'][1:]}"
